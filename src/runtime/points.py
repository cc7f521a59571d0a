"""Named points in the code at which a test may stop a process, or kill it.

`TALLYBOOK_PAUSE_AT="name=/path"` creates `/path.reached` and waits until `/path` exists.
`TALLYBOOK_CRASH_AT="name:n"` ends the process, as kill -9 does, when it is there for the n-th time.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

LONGEST_PAUSE_S: Final = 60.0
POLL_S: Final = 0.01

_pause_at, _, _gate = os.environ.get("TALLYBOOK_PAUSE_AT", "").partition("=")
_crash_at, _, _times = os.environ.get("TALLYBOOK_CRASH_AT", "").partition(":")
_seen: Counter[str] = Counter()


def _wait_for(gate: Path) -> None:
    deadline = time.monotonic() + LONGEST_PAUSE_S
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)


async def reached(point: str) -> None:
    if point == _crash_at:
        _seen[point] += 1
        if _seen[point] == int(_times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
    if point == _pause_at:
        gate = Path(_gate)
        gate.with_name(f"{gate.name}.reached").touch()
        await asyncio.to_thread(_wait_for, gate)
