"""How urgent a process is, where the kernel shares the processor among sessions first (autogroups).

There, the niceness of a process counts only within its session, and each of ours leads one of its own.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

USUAL: Final = 0
LEAST: Final = 19


def set_session_niceness(niceness: int, pid: int | None = None) -> None:
    """Of the session of a process, of this one if none is named. Does nothing where there is no such thing.

    The kernel takes one such change in a tenth of a second, of all that are not privileged; another is lost.
    """
    with suppress(OSError):
        Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(niceness))
