"""A process that has loaded all of ours, and forks off each of them as it is wanted.

Loading takes most of a start, and longest when the machine is busy with what was lost. This process does
nothing else: it opens no file, starts no thread and reads no variable, so what it forks begins as a fresh one
would.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from setproctitle import setproctitle

from runtime.embedded.child import ChildSpec
from runtime.process import collect_rarely

OURS: Final = (sys.executable, "-P", "-m", "runtime.cli")
"""-P: what lies in the working directory is not imported."""
ROOMS: Final = ("write_api", "read_api", "audit_api", "relay", "projector", "policies", "verifier")
MESSAGE_BYTES: Final = 65_536
FORK_SECONDS: Final = 2.0
END_SECONDS: Final = 3.0
TOLD_SECONDS: Final = 1.0
LOST: Final = 255
"""The exit code of what ended after its server had: nobody knows."""
GO: Final = b"go"
GO_SECONDS: Final = 10.0


def is_ours(spec: ChildSpec) -> bool:
    """Whether it can be forked."""
    return spec.command[: len(OURS)] == OURS


class ForkServer:
    """The supervisor's end of it. Without a supervisor the channel has no other end, and the server ends too.

    What it has forked lives on without it.
    """

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - the command is our own
                (sys.executable, "-P", "-m", __name__),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel.settimeout(0)
        self._loaded = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def loaded(self) -> bool:
        """Whether a fork is a matter of milliseconds by now."""
        if not self._loaded:
            try:
                self._loaded = bool(self._channel.recv(MESSAGE_BYTES))
            except (BlockingIOError, ConnectionResetError):
                return False
        return self._loaded

    def fork(self, spec: ChildSpec) -> "Forked | None":
        """It runs when this returns. None if the server is not loaded, or does not answer and is ended.

        Blocks for the milliseconds of a fork, at most FORK_SECONDS. ValueError for one that is none of ours.
        """
        if not is_ours(spec):
            raise ValueError(f"{spec.name} is none of ours")
        if not self.lives or not self.loaded:
            return None
        told = {
            "arguments": spec.command[len(OURS) :],
            "environment": dict(spec.environment),
            "log": str(spec.log),
        }
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.settimeout(FORK_SECONDS)
        try:
            with theirs:
                socket.send_fds(self._channel, [json.dumps(told).encode()], [theirs.fileno()])
            forked = Forked(int(line.recv(MESSAGE_BYTES)), line)
        except (OSError, ValueError):  # gone, stuck, or it ended in between: an empty answer is no number
            line.close()  # what may have been forked all the same ends, as it is told nothing more
            self.end()
            return None
        return forked

    def end(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait(END_SECONDS)


class Forked:
    """A process that the server has forked, from the supervisor's side: as subprocess.Popen has it.

    `line` leads to the child, which waits for GO on it, and then to the server, which tells how it ended.
    """

    def __init__(self, pid: int, line: socket.socket) -> None:
        """Lets it go. OSError if it is gone by now."""
        self.pid = pid
        self._handle = os.pidfd_open(pid)  # nobody waits for it yet, so this is no other process
        self._line = line
        self._code: int | None = None
        try:
            line.send(GO)
        except OSError:
            os.close(self._handle)
            raise

    def poll(self) -> int | None:
        """None while it runs; minus the signal's number when it was killed."""
        if self._code is None and _readable(self._handle):
            self._code = self._told()
            self._line.close()
            os.close(self._handle)
        return self._code

    def _told(self) -> int:
        self._line.settimeout(TOLD_SECONDS)
        try:
            return int(self._line.recv(MESSAGE_BYTES))
        except (OSError, ValueError):
            return LOST

    def send_signal(self, sign: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _readable(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    arguments: list[str]
    environment: Mapping[str, str]
    log: str


@dataclass(slots=True)
class _Server:
    """The process's own end, in one thread. Leaving it closes all it holds, in a forked child as well."""

    channel: socket.socket
    children: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)  # handle: process id, line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        for handle, (_pid, line) in self.children.items():
            os.close(handle)
            line.close()

    def serve(self) -> _Told | None:
        """Returns in each child, with what it is to be; in the server None, when the supervisor is gone."""
        self.channel.send(b"loaded")
        while True:
            waiting = select.poll()
            for descriptor in (self.channel.fileno(), *self.children):
                waiting.register(descriptor, select.POLLIN)
            for descriptor, _ in waiting.poll():
                if descriptor in self.children:
                    self._tell_end(descriptor)
                    continue
                message, lines, *_ = socket.recv_fds(self.channel, MESSAGE_BYTES, 1)
                if not message:
                    return None
                told = _Told(**json.loads(message))
                with socket.socket(fileno=lines[0]) as line:
                    if self._is_child(line):
                        line.settimeout(GO_SECONDS)
                        return told if line.recv(MESSAGE_BYTES) == GO else None

    def _is_child(self, line: socket.socket) -> bool:
        pid = os.fork()
        if not pid:
            os.setsid()  # a terminal's Ctrl-C is for the supervisor; the kernel shares by sessions
            return True
        self.children[os.pidfd_open(pid)] = pid, line.dup()
        line.send(str(pid).encode())
        return False

    def _tell_end(self, handle: int) -> None:
        pid, line = self.children.pop(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        with line, suppress(OSError):  # nobody may be asking
            line.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    cli = importlib.import_module("runtime.cli")
    for room in ROOMS:
        importlib.import_module(f"runtime.{room}")
    collect_rarely()  # and never again through what all of them share
    with _Server(socket.socket(fileno=os.dup(sys.stdin.fileno()))) as server:
        told = server.serve()
    if told:
        setproctitle(" ".join(("tallybook", *told.arguments)))
        os.environ.update(told.environment)
        with Path(told.log).open("ab") as log, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        cli.app(told.arguments)


if __name__ == "__main__":
    main()
