"""One operating-system process that the machine room starts, watches and ends.

Processes are polled rather than awaited: a handle then belongs to no event loop, and our own children and the
orphans of an earlier supervisor are watched in the same way.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from runtime.process import CannotStart

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.05
KILL_SECONDS = 3.0
LOG_BYTES = 10_000_000
TAIL_BYTES = 2_000


class ChildFailed(CannotStart):
    """A process ended, or was not ready in time, while it was being started."""


class PortTaken(CannotStart):
    """Another process listens where one of ours is meant to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How a process is started, recognised as ready, and ended."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of our own
    host: str = LOOPBACK
    port: int | None = None
    ready: Callable[[], Awaitable[bool]] | None = None  # None: ready as soon as it runs
    before_start: Callable[[], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 5.0  # then SIGKILL
    memory_limit: int | None = None  # bytes resident; above it the process is restarted
    owner: tuple[int, int] | None = None  # (uid, gid) to run as


class Process(Protocol):
    """What is asked of a process that runs, however it was started; as subprocess.Popen has it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def send_signal(self, sign: int, /) -> None: ...

    def kill(self) -> None: ...


Fork = Callable[[ChildSpec], Process | None]
"""Starts a process from one that has loaded it. None if there is no such one."""


class Child:
    def __init__(self, spec: ChildSpec, fork: Fork = lambda _: None) -> None:
        """What cannot be forked is started anew."""
        self.spec = spec
        self._fork = fork
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it was started; minus the signal's number when it was killed."""
        return self._process.poll() if self._process else None

    async def start(self) -> None:
        if self.spec.before_start:
            await self.spec.before_start()
        self.spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        bound_log(self.spec.log)
        self._process = self._fork(self.spec) or self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        uid, gid = self.spec.owner or (None, None)
        with self.spec.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the command is our own
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.spec.environment},
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which ends all in order
            )

    async def wait_ready(self, seconds: float) -> None:
        """Raises ChildFailed when it ends first, or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not await self._is_ready():
            if self.exit_code is not None:
                raise ChildFailed(f"{self.spec.name} ended with code {self.exit_code}; {self.last_words()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.spec.name} was not ready in {seconds:.0f} s; {self.last_words()}")
            await asyncio.sleep(POLL_SECONDS)

    async def _is_ready(self) -> bool:
        ready = await self.spec.ready() if self.spec.ready else True
        return ready and self.exit_code is None  # asked last: another may answer on a port it did not get

    async def stop(self) -> None:
        if self._process is None or self.exit_code is not None:
            return
        self._process.send_signal(self.spec.stop_signal)
        if not await self._ended_within(self.spec.stop_seconds):
            logger.warning("%s outlived %s and is killed", self.spec.name, self.spec.stop_signal.name)
            self._process.kill()
            await self._ended_within(KILL_SECONDS)

    async def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.exit_code is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(POLL_SECONDS)
        return self.exit_code is not None

    def outgrew_memory(self) -> bool:
        if self.spec.memory_limit is None or self.pid is None:
            return False
        try:
            resident: int = psutil.Process(self.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return False
        return resident > self.spec.memory_limit

    def last_words(self) -> str:
        """Where it logs, and the end of that."""
        with self.spec.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = log.read().decode(errors="replace").strip()
        return f"see {self.spec.log}:\n{tail}" if tail else f"see {self.spec.log} (empty)"


def bound_log(path: Path) -> None:
    """Move a long log aside; writers hold it open for appending, so it is emptied and not replaced."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)


async def end_process(process: psutil.Process, first: signal.Signals, seconds: float) -> None:
    """End a process that is not our child: politely, then by SIGKILL."""
    for sent, grace in ((first, seconds), (signal.SIGKILL, KILL_SECONDS)):
        deadline = time.monotonic() + grace
        try:
            process.send_signal(sent)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied:
            raise ChildFailed(f"process {process.pid} is left over, but belongs to another account") from None
        while _runs(process):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        else:
            return
    raise ChildFailed(f"process {process.pid} does not end")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def require_free(name: str, host: str, port: int) -> None:
    """Raises PortTaken, naming who wanted the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(f"{name} wants {host}:{port}, and cannot have it: {error.strerror}") from error
