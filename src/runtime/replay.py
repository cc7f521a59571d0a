"""`tallybook replay`: a fold of the auditor's own over the whole history, into a SQLite file.

History is read through the library `eventsourcing` (`runtime.audit_log`), not by what writes or serves it.
"""

import importlib.util
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from domain.envelope import NO_EVENT, Recorded
from runtime.audit_log.history import History
from runtime.process import INTERRUPTED, CannotStart, Unwritable
from runtime.settings import Settings

PROGRESS_EVENTS: Final = 1_000
SQLITE: Final = b"SQLite format 3\0"

Rows = dict[str, Any]


class UnusableFold(CannotStart):
    """The file is no fold, or the fold failed at an event; nothing was written."""


@dataclass(frozen=True, slots=True)
class Fold:
    """`keys`: of the rows an event feeds; `evolve`: what such a row is then, None to have none."""

    keys: Callable[[Recorded], Iterable[str]]
    evolve: Callable[[Any, Recorded, str], Any]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Up to the event `event_id` at `position`."""

    rows: Rows
    events: int
    position: int
    event_id: str


def fold_in(path: Path) -> Fold:
    """`keys` and `evolve` of a Python file. UnusableFold."""
    spec = importlib.util.spec_from_file_location(f"fold_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UnusableFold(f"{path} is no Python file")
    module = ModuleType(spec.name)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as failed:
        raise UnusableFold(f"{path} cannot be loaded: {failed!r}") from failed
    missing = [name for name in ("keys", "evolve") if not callable(getattr(module, name, None))]
    if missing:
        raise UnusableFold(f"{path} has no function {' and no function '.join(missing)}")
    return Fold(module.keys, module.evolve)


def replayed(history: History, fold: Fold, upto: int, progress: Callable[[int], None]) -> Replayed:
    """All events up to a position, folded in memory. UnusableFold where the fold fails."""
    rows: Rows = {}
    count, recorded = 0, None
    for count, recorded in enumerate(history.events(upto=upto), start=1):
        try:
            for key in fold.keys(recorded):
                row = fold.evolve(rows.get(key), recorded, key)
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row
        except (Exception, SystemExit) as failed:
            raise UnusableFold(f"the fold failed at position {recorded.position}: {failed!r}") from failed
        if count % PROGRESS_EVENTS == 0:
            progress(PROGRESS_EVENTS)
    if recorded is None:
        return Replayed(rows, 0, 0, NO_EVENT)
    return Replayed(rows, count, recorded.position, recorded.event_id)


@contextmanager
def result_in(path: Path) -> Iterator[sqlite3.Connection]:
    """Its tables `rows` (key, JSON) and `replay` (name, value): in place whole, or not at all. Unwritable."""
    attempt = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        if path.exists() and not _is_sqlite(path):
            raise Unwritable(f"{path} is there and is no SQLite file: it is left as it is")
        attempt.unlink(missing_ok=True)
        with closing(sqlite3.connect(attempt)) as database, database:
            database.execute("create table rows (key text primary key, row text not null) without rowid")
            database.execute("create table replay (name text primary key, value text not null)")
            yield database
        attempt.replace(path)
    except (OSError, sqlite3.OperationalError) as failed:
        raise Unwritable(f"{path} cannot be written: {failed}") from None
    finally:
        attempt.unlink(missing_ok=True)


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE)) in (SQLITE, b"")


def write(database: sqlite3.Connection, result: Replayed, facts: Mapping[str, object]) -> None:
    """Raises UnusableFold where a key is no text or a row is nothing that JSON can hold."""
    database.executemany("insert into rows values (?, ?)", map(_stored, result.rows.items()))
    told = {"events": result.events, "position": result.position, "event_id": result.event_id, **facts}
    database.executemany("insert into replay values (?, ?)", ((name, str(told[name])) for name in told))


def _stored(row: tuple[Any, Any]) -> tuple[str, str]:
    key, value = row
    if not isinstance(key, str):
        raise UnusableFold(f"the key {key!r} is no text")
    try:
        return key.encode().decode(), json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as wrong:
        raise UnusableFold(f"the row {key!r} is nothing that JSON can hold: {wrong}") from None


def run(settings: Settings, fold_path: Path, into: Path, upto: int | None) -> int:
    """The exit code. Raises UnusableFold, NoSuchRange, Unwritable."""
    fold = fold_in(fold_path)
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with result_in(into) as database, History.open(settings.database_url) as history:
            end, began = history.end(upto), time.monotonic()
            with Progress(*columns, console=Console(stderr=True)) as progress:
                task = progress.add_task("", total=end)
                result = replayed(history, fold, end, lambda events: progress.advance(task, events))
                progress.update(task, completed=end)
            seconds = time.monotonic() - began
            write(database, result, {"fold": fold_path.name, "seconds": f"{seconds:.3f}"})
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        return INTERRUPTED
    typer.echo(
        f"{result.events:,} events up to position {result.position:,} into {len(result.rows):,} rows "
        f"of {into} in {seconds:.1f} s ({result.events / max(seconds, 1e-9):,.0f} a second)"
    )
    return 0
