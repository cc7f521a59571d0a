"""`tallybook export`: a range of the log as lines of JSON, and a manifest that proves the file.

`data` and `metadata` stand in a line as they are stored, byte for byte. They are read through the library
`eventsourcing` (`runtime.audit_log`), not by what writes or serves them.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.audit.ports import HistoryEvent
from runtime.audit_log.history import History, NoSuchRange
from runtime.process import INTERRUPTED, Unwritable
from runtime.settings import Settings

BATCH_EVENTS: Final = 1_000


class Mark(msgspec.Struct, frozen=True):
    position: int
    event_id: str


class Manifest(msgspec.Struct, frozen=True):
    """Beside the file `file`: what is in it. `first` and `last` are null where there is no event."""

    file: str
    sha256: str
    bytes: int
    incarnation: str
    events: int
    by_context: dict[str, int]
    first: Mark | None
    last: Mark | None


class _Lines:
    """Writes events, and counts what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._by_context: Counter[str] = Counter()
        self._first: Mark | None = None
        self._last: Mark | None = None

    def write(self, events: Sequence[HistoryEvent]) -> None:
        content = b"".join(map(line_of, events))
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)
        self._by_context.update(event.context for event in events)
        self._first = self._first or Mark(events[0].position, events[0].event_id)
        self._last = Mark(events[-1].position, events[-1].event_id)

    def manifest(self, name: str, incarnation: str) -> Manifest:
        return Manifest(
            file=name,
            sha256=self._digest.hexdigest(),
            bytes=self._bytes,
            incarnation=incarnation,
            events=self._by_context.total(),
            by_context=dict(sorted(self._by_context.items())),
            first=self._first,
            last=self._last,
        )


def line_of(event: HistoryEvent) -> bytes:
    envelope = {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "event_id": event.event_id,
        "type": event.type,
        "context": event.context,
        "lane": event.lane,
        "recorded_at": event.recorded_at,
        "metadata": msgspec.Raw(event.metadata),
        "data": msgspec.Raw(event.data),
    }
    return msgspec.json.encode(envelope) + b"\n"


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


def run(settings: Settings, path: Path, first: int, last: int | None) -> int:
    """The exit code. Raises NoSuchRange, Unwritable. `last` None is the head."""
    if not path.name:
        raise Unwritable(f"{str(path)!r} names no file")
    began = time.monotonic()
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as shown:
            task = shown.add_task("", total=None)
            manifest = export(
                settings.database_url,
                path,
                first,
                last,
                lambda done, total: shown.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        return INTERRUPTED
    typer.echo(
        f"{manifest.events:,} events, {manifest.bytes:,} bytes in {time.monotonic() - began:.1f} s, "
        f"sha256 {manifest.sha256}"
    )
    return 0


def export(
    url: str, path: Path, first: int, last: int | None, progress: Callable[[int, int], None]
) -> Manifest:
    """The file of the events from one position to another, both included, and its manifest beside it.

    `progress` is told how many events are written, and of how many. Raises NoSuchRange, Unwritable.
    """
    with History.open(url) as history:
        end = history.end(last)
        if first > end + 1:
            raise NoSuchRange(f"nothing lies from position {first} to position {end}")
        with _whole_or_not_at_all(path, manifest_of(path)) as (file, beside):
            lines, after = _Lines(file), first - 1
            progress(0, end - after)
            while after < end:
                events = history.read(after, min(BATCH_EVENTS, end - after))
                lines.write(events)
                after = events[-1].position
                progress(after - first + 1, end - first + 1)
            manifest = lines.manifest(path.name, history.incarnation())
            beside.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


@contextmanager
def _whole_or_not_at_all(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files under temporary names, on the disk before they get their own; the first gets its own last."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise Unwritable(f"{path} is there and is no file: it is left as it is")
    attempts = [path.with_name(f"{path.name}.{os.getpid()}.new") for path in paths]
    files: list[BinaryIO] = []
    try:
        try:
            files.extend(attempt.open("wb") for attempt in attempts)
        except OSError as failed:
            raise Unwritable(f"{paths[0]} cannot be written: {failed.strerror}") from None
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        for attempt, path in reversed([*zip(attempts, paths, strict=True)]):
            attempt.replace(path)
            _sync(path.parent)
    finally:
        for file in files:
            file.close()
        for attempt in attempts:
            attempt.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """A new name is on the disk when its directory is."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
