"""Whether the rows that are served are what the log says: folded anew from it, and compared one by one.

All at one cut: a single snapshot holds the rows and the checkpoints of every lane, and the log is folded up
to those, lane by lane; by the law of interleaving that gives the same rows as the log's own order. Traffic
may go on meanwhile. As long as a snapshot is open PostgreSQL keeps whatever it sees, and goes through that on
its way to what has replaced it; so the log is folded before, up to where the rows are then, and only what has
come since is folded while it is open.

The log is read through the library `eventsourcing`, so that what serves the rows and what checks them do not
read alike; the rows are folded on a shelf, so that memory is bounded, and then compared with those that are
served, in the order of their keys.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
from psycopg import sql

from domain.envelope import Mark, Recorded
from projections.ports import Omitted
from runtime.audit_log.history import History
from runtime.audit_log.mapper import Kept
from runtime.postgres import Connection, connect
from runtime.process import CannotStart
from runtime.read_models.builds import Lane, head_of, marks_of, served_of
from runtime.read_models.folding import Model, Parts, fold, keys_of, types_of
from runtime.read_models.parked import Parked, omitted_of, parked_streams
from runtime.read_models.shelf import Shelf
from runtime.read_models.tables import Table

_ROLE: Final = "tallybook_reader"
PAGE_EVENTS: Final = 1_000
PAGE_ROWS: Final = 1_000
MAX_TOLD: Final = 20
MAX_EVENTS_TOLD: Final = 20
_LONGEST: Final = "2h"

Progress = Callable[[int], None]
"""Told of events that have been read."""


class NothingServed(CannotStart):
    """This release has no tables of the read model that have caught up with the log."""


@dataclass(slots=True)
class Difference:
    """A row that is not what the log says; None where there is none. `events`: the first that feed it.

    Where stored and expected are the same, it is the parts that differ, from which the row is folded on.
    """

    key: str
    stored: Any
    expected: Any
    events: list[Recorded]

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """What is stored and what is expected, by field, where they differ."""
        stored, expected = (msgspec.to_builtins(row) if row else {} for row in (self.stored, self.expected))
        names = [*expected, *(name for name in stored if name not in expected)]
        pairs = {name: (stored.get(name), expected.get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(slots=True)
class Verified:
    """`head`: the highest position that was applied. `told`: the first of the rows that differ.

    `parked`: the streams that stand still; of these it is compared what was folded before.
    """

    model: str
    rows: int
    head: int
    parked: Sequence[Parked]
    differing: int
    told: list[Difference]


@asynccontextmanager
async def patient_reader(url: str) -> AsyncIterator[Connection]:
    """A connection for one long look at the read models."""
    limits = dict.fromkeys(
        ("statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"), _LONGEST
    )
    async with connect(url, _ROLE, timezone="UTC", **limits) as connection:
        yield connection


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """As long as it is open, nothing that is read in it changes."""
    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read read only")
        yield


@dataclass(frozen=True, slots=True)
class Applied:
    """What of the log is in the rows of a build: all up to the marks, but for what it leaves out."""

    marks: Mapping[Lane, Mark]
    omitted: Omitted

    @property
    def head(self) -> int:
        return head_of(self.marks)

    def reaches(self, event: Kept) -> bool:
        return event.position <= self.marks[event.context, event.lane].position

    def holds(self, event: Kept) -> bool:
        return self.reaches(event) and not self.omitted.holds(event)

    def goes_on_from(self, earlier: "Applied") -> bool:
        """Whether it holds all that the other does, and what it holds besides comes later in every stream."""
        marks = [(self.marks.get(lane), mark) for lane, mark in earlier.marks.items()]
        return self.omitted == earlier.omitted and all(
            mark == before or (mark is not None and mark.position > before.position) for mark, before in marks
        )


class Cut:
    """What is served of one read model, as of one moment."""

    def __init__(
        self,
        connection: Connection,
        table: Table,
        applied: Applied,
        parked: Sequence[Parked],
        rows: int,
    ) -> None:
        self._connection = connection
        self._table = table
        self.applied = applied
        self.parked = parked
        self.rows = rows

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, model: Model) -> AsyncIterator["Cut"]:
        """As long as it is open, nothing in it changes. Raises NothingServed."""
        async with patient_reader(url) as connection, snapshot(connection):
            table, applied = await _served(connection, model)
            parked = await parked_streams(connection, [table.build])
            counted = await connection.execute(sql.SQL("select count(*) from {}").format(table.identifier))
            [(rows,)] = await counted.fetchall()
            yield cls(connection, table, applied, parked, rows)

    async def stored(self) -> AsyncIterator[tuple[str, Any, bytes]]:
        """Key, row and parts of each row, in the order of their keys; None for one that is not shown."""
        names = [column.name for column in self._table.columns]
        query = sql.SQL("select {key}, shown, parts, {columns} from {table} order by {key}").format(
            key=self._table.key.identifier,
            columns=sql.SQL(", ").join(column.identifier for column in self._table.columns),
            table=self._table.identifier,
        )
        async with self._connection.cursor(name="verify") as cursor:
            cursor.itersize = PAGE_ROWS
            async for key, shown, parts, *values in await cursor.execute(query, ()):
                row = dict(zip(names, values, strict=True))
                yield key, self._row(row) if shown else None, parts

    def _row(self, columns: dict[str, Any]) -> Any:  # noqa: ANN401 - rows
        """The columns as they are, where they cannot be a row: so it differs from any."""
        try:
            return msgspec.convert(columns, self._table.model.row)
        except msgspec.ValidationError:
            return columns

    def encoded(self, parts: Parts) -> bytes:
        """As they are stored."""
        return self._table.encode(parts)


async def _served(connection: Connection, model: Model) -> tuple[Table, Applied]:
    """What is served, and what of the log is in it. Raises NothingServed."""
    table = await served_of(connection, Table(model))
    if table is None:
        raise NothingServed(f"{model.name}: no projector of this release has caught up with the log")
    return table, Applied(await marks_of(connection, table.build), await omitted_of(connection, table))


class _Fold:
    """Of the log, on a shelf: up to one moment, then on from there to a later one."""

    def __init__(self, history: History, model: Model, shelf: Shelf, progress: Progress) -> None:
        self._history = history
        self._model = model
        self._shelf = shelf
        self._progress = progress
        self._taken: Applied | None = None
        self._after = 0

    async def up_to(self, applied: Applied) -> None:
        """From the beginning again, if what is folded cannot become that."""
        if self._taken and not applied.goes_on_from(self._taken):
            self._shelf.clear()
            self._taken, self._after = None, 0
        taken, after = self._taken, self._after
        beyond = applied.head + 1  # the first event that has to be read again

        def wanted(event: Kept) -> bool:
            nonlocal beyond
            if not applied.reaches(event):
                beyond = min(beyond, event.position)
            return applied.holds(event) and not (taken and taken.reaches(event))

        async for events in _events(self._history, self._model, applied.head, wanted, after):
            rows = self._shelf.take({key for one in events for key in keys_of(self._model, one)})
            changed = fold(self._model, rows, events)
            self._shelf.put({key: rows[key] for key in changed})
            self._progress(len(events))
        self._taken, self._after = applied, max(after, beyond - 1)


async def verify(history: History, url: str, model: Model, progress: Progress) -> Verified:
    """Every row of what is served, from zero. Raises NothingServed, and what a fold refuses."""
    with Shelf.open() as shelf:
        folded = _Fold(history, model, shelf, progress)
        async with patient_reader(url) as connection, snapshot(connection):
            _, applied = await _served(connection, model)
        await folded.up_to(applied)
        async with Cut.of(url, model) as cut:
            await folded.up_to(cut.applied)
            verified = await _compared(cut, model, shelf)
    if verified.told:
        await find_events(history, model, cut.applied, verified.told)
    return verified


async def _compared(cut: Cut, model: Model, shelf: Shelf) -> Verified:
    verified = Verified(model.name, cut.rows, cut.applied.head, cut.parked, 0, [])
    expected = _in_turns(shelf.in_order())
    coming = await anext(expected, None)
    async for key, stored, stored_parts in cut.stored():
        while coming and coming[0] < key:
            _note(verified, coming[0], None, model.combine(coming[1]))
            coming = await anext(expected, None)
        if coming and coming[0] == key:
            row = model.combine(coming[1])
            if stored != row or stored_parts != cut.encoded(coming[1]):
                _note(verified, key, stored, row)
            coming = await anext(expected, None)
        else:
            _note(verified, key, stored, None)
    while coming:
        _note(verified, coming[0], None, model.combine(coming[1]))
        coming = await anext(expected, None)
    return verified


async def _in_turns(rows: Iterable[tuple[str, Parts]]) -> AsyncIterator[tuple[str, Parts]]:
    """The rows; now and then somebody else has a turn, who may have been told to stop all this."""
    for number, row in enumerate(rows):
        if number % PAGE_ROWS == 0:
            await asyncio.sleep(0)
        yield row


def _note(verified: Verified, key: str, stored: Any, expected: Any) -> None:  # noqa: ANN401 - rows
    verified.differing += 1
    if len(verified.told) < MAX_TOLD:
        verified.told.append(Difference(key, stored, expected, []))


async def find_events(history: History, model: Model, applied: Applied, told: Iterable[Difference]) -> None:
    """The events that feed the rows that differ, found by looking through the log once more."""
    wanted = {difference.key: difference for difference in told}
    async for events in _events(history, model, applied.head, applied.holds):
        for recorded in events:
            for key in keys_of(model, recorded):
                if key in wanted and len(wanted[key].events) < MAX_EVENTS_TOLD:
                    wanted[key].events.append(recorded)


async def _events(
    history: History, model: Model, upto: int, wanted: Callable[[Kept], bool], after: int = 0
) -> AsyncIterator[Sequence[Recorded]]:
    """What feeds the model and is wanted, in the order of the log."""
    reading = history.events(after=after, upto=upto, types=types_of(model), wanted=wanted)
    while page := await asyncio.to_thread(lambda: list(islice(reading, PAGE_EVENTS))):
        yield page
