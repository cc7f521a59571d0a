"""Named points in the code at which a test may stop a process, or kill it.

`TALLYBOOK_PAUSE_AT="name=/path"` creates `/path.reached` and waits until `/path` exists.
`TALLYBOOK_CRASH_AT="name:n"` ends the process, as kill -9 does, when it is there for the n-th time.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

LONGEST_PAUSE_S: Final = 60.0
POLL_S: Final = 0.01

_seen: Counter[str] = Counter()


@cache
def _told(variable: str, separator: str) -> tuple[str, str]:
    """Not before a point is reached: a process may learn its environment after it has loaded this."""
    point, _, more = os.environ.get(variable, "").partition(separator)
    return point, more


def _wait_for(gate: Path) -> None:
    deadline = time.monotonic() + LONGEST_PAUSE_S
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)


async def reached(point: str) -> None:
    crash_at, times = _told("TALLYBOOK_CRASH_AT", ":")
    if point == crash_at:
        _seen[point] += 1
        if _seen[point] == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
    pause_at, path = _told("TALLYBOOK_PAUSE_AT", "=")
    if point == pause_at:
        gate = Path(path)
        gate.with_name(f"{gate.name}.reached").touch()
        await asyncio.to_thread(_wait_for, gate)
