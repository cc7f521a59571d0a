"""How urgent a process is, where the kernel shares the processor among sessions first (autogroups).

There, the niceness of a process counts only within its session, and each of ours leads one of its own.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

USUAL: Final = 0
LEAST: Final = 19
TRIES: Final = 5
PAUSE_S: Final = 0.1
"""The kernel takes one such change in this time, of all that are not privileged; another is refused."""


def set_session_niceness(niceness: int, pid: int | None = None) -> None:
    """Of the session of a process, of this one if none is named. Does nothing where there is no such thing.

    Tries again for less than a second while others change theirs, and blocks meanwhile.
    """
    session = Path(f"/proc/{pid or 'self'}/autogroup")
    with suppress(OSError):
        for _ in range(TRIES):
            try:
                session.write_text(str(niceness))
            except BlockingIOError:
                time.sleep(PAUSE_S)
            else:
                return
