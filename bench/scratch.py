"""The directory that a benchmark works in, and how it ends before its time."""

import signal
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def add_directory(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, default=tempfile.gettempdir(), help="the disk to measure on (%(default)s)"
    )


def end_on_sigterm() -> None:
    """As Ctrl-C does: stop the servers, remove the directory."""
    signal.signal(signal.SIGTERM, _end)


def _end(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the ending short
    raise SystemExit("ended")


@contextmanager
def scratch_in(parent: Path) -> Iterator[Path]:
    """A directory that any account may enter: root's PostgreSQL is nobody's."""
    with tempfile.TemporaryDirectory(
        prefix="tallybook-bench-", dir=parent, ignore_cleanup_errors=True
    ) as made:
        Path(made).chmod(0o711)
        yield Path(made)
