"""A process that has loaded all of ours and waits to be told which of them it is to be.

Loading takes most of a start, and longest when the machine is busy with what was lost.
"""

import importlib
import json
import os
import subprocess
import sys
from typing import Final

from runtime.embedded.child import ChildSpec, bound_log
from runtime.priority import LEAST, USUAL, set_session_niceness
from runtime.process import collect_rarely

OURS: Final = (sys.executable, "-P", "-m", "runtime.cli")
"""-P: what lies in the working directory is not imported."""
ROOMS: Final = ("write_api", "read_api", "audit_api", "relay", "projector", "policies", "verifier")
END_SECONDS: Final = 3.0


def is_ours(spec: ChildSpec) -> bool:
    """Whether a spare can be it."""
    return spec.command[: len(OURS)] == OURS


class Spare:
    """The supervisor's end of it. Without a supervisor the pipe has no other end, and the spare ends too."""

    def __init__(self) -> None:
        theirs, ours = os.pipe()
        self._pipe = os.fdopen(ours, "wb", buffering=0)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is our own
                (sys.executable, "-P", "-m", __name__),
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        set_session_niceness(LEAST, self.pid)  # whatever works comes first; by itself it might do so too late

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def become(self, spec: ChildSpec) -> subprocess.Popen[bytes] | None:
        """One of ours, the caller's from now on; None if the spare is gone. ValueError for a foreign one."""
        if not is_ours(spec):
            raise ValueError(f"{spec.name} is none of ours")
        if not self.lives:
            return None
        bound_log(spec.log)
        told = {
            "arguments": spec.command[len(OURS) :],
            "environment": dict(spec.environment),
            "log": str(spec.log),
        }
        try:
            with self._pipe:
                self._pipe.write(json.dumps(told).encode() + b"\n")
        except BrokenPipeError:
            return None
        set_session_niceness(USUAL, self.pid)  # it may still be loading
        return self._process

    def end(self) -> None:
        """One that has become nothing."""
        self._pipe.close()
        self._process.kill()
        self._process.wait(END_SECONDS)


def main() -> None:
    cli = importlib.import_module("runtime.cli")
    for room in ROOMS:
        importlib.import_module(f"runtime.{room}")
    collect_rarely()
    line = sys.stdin.readline()
    if not line:
        return  # nobody is there any more who could say it
    told = json.loads(line)
    os.environ.update(told["environment"])
    with open(told["log"], "ab") as log, open(os.devnull, "rb") as nothing:  # noqa: PTH123 - descriptors
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    cli.app(told["arguments"])


if __name__ == "__main__":
    main()
