"""The fold's transaction: checkpoint and rows move together, or not at all.

The checkpoint is compared and set first, so of several workers on one lane one wins and the others find out
before they have read anything. Rows are locked, then missing ones inserted, each in the order of their keys:
who waits for a row that another inserts holds all locks it wants, so lanes that feed one row wait for each
other and cannot deadlock. Where another lane has inserted a row that was missing, all of it is done again.
What a fold refuses is parked in the same transaction.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, LiteralString, TypeVar

from psycopg import DataError, sql
from psycopg.errors import ProgramLimitExceeded

from domain.envelope import Mark
from runtime import packing
from runtime.packing import Packed
from runtime.points import reached
from runtime.postgres import Connection
from runtime.read_models.builds import Lane
from runtime.read_models.parked import omitted_of, park, tell
from runtime.read_models.refusals import Arriving, Refusal, fold_or_refuse, keys_to_lock
from runtime.read_models.tables import Table

_MOVE = """
update read.checkpoints c set position = held.reached, event_id = held.event_id
from (
    select c.context, c.lane, wanted.reached, wanted.event_id
    from read.checkpoints c
    join unnest(%(contexts)b::text[], %(lanes)b::smallint[], %(incarnations)b::uuid[], %(expected)b::bigint[],
        %(reached)b::bigint[], %(event_ids)b::uuid[])
        as wanted (context, lane, incarnation, expected, reached, event_id) using (context, lane)
    where c.build = %(build)s and c.incarnation = wanted.incarnation and c.position = wanted.expected
    order by c.context, c.lane for update of c
) held
where c.build = %(build)s and c.context = held.context and c.lane = held.lane
returning c.context, c.lane, c.parked, c.skipped_upto
"""

KEPT: Final = 100
"""Statements of a kind; builds come and go."""
_BY_KEY: Final[LiteralString] = "select {key}, parts from {table} where {key} = any(%b::text[])"

T = TypeVar("T")
Write = Callable[[Connection, Table, Sequence[Arriving]], Awaitable[Sequence[Refusal]]]

REFUSED_VALUES: Final = (DataError, ProgramLimitExceeded)
"""What PostgreSQL says of values that a column, or its index, cannot hold."""
Rows = Mapping[str, Sequence[object]]
"""Parts, the other columns and `shown`, by key."""


@dataclass(frozen=True, slots=True)
class Step:
    """One lane's next events, and the marks before and after them."""

    context: str
    lane: int
    incarnation: str
    before: Mark
    events: Sequence[Arriving]

    def __post_init__(self) -> None:
        """Raises ValueError if they do not follow on `before`: they would be folded twice."""
        if self.events[0].position <= self.before.position:
            raise ValueError(f"{self.events[0].position} does not follow on {self.before.position}")

    @property
    def after(self) -> Mark:
        return Mark(self.events[-1].position, self.events[-1].event_id)

    @property
    def place(self) -> Lane:
        return self.context, self.lane


MAX_OVERTAKEN: Final = 50
"""How often other lanes may have inserted rows that were missing."""


class Overtaken(RuntimeError):
    """Other lanes went on inserting rows that were missing."""


async def apply(connection: Connection, table: Table, steps: Sequence[Step]) -> Sequence[Step]:
    """Folds the events of steps of different lanes into their rows, in one transaction.

    Returns the steps that were taken: those that begin where the lane's checkpoint is. An event that leaves
    every part as it was writes no row, so the row's revision says that the row changed. One that the fold
    refuses parks its stream. Raises Overtaken, TooManyParked.
    """
    taken, refusals = await at_last(lambda write: _apply(connection, table, steps, write))
    if taken:
        await reached("after_commit")
        tell(table, refusals)
    return taken


async def at_last(work: Callable[[Write], Awaitable[T]]) -> T:
    """Tries a transaction until no other lane is in its way, and one event at a time if a value will not do.

    Raises Overtaken.
    """
    write: Write = write_at_once
    for _ in range(MAX_OVERTAKEN):
        try:
            return await work(write)
        except Overtaken:
            continue
        except REFUSED_VALUES:
            if write is write_one_by_one:
                raise
            write = write_one_by_one
    raise Overtaken(f"{MAX_OVERTAKEN} times")


async def _apply(
    connection: Connection, table: Table, steps: Sequence[Step], write: Write
) -> tuple[Sequence[Step], Sequence[Refusal]]:
    """The steps that were taken, and what was refused of them and is parked."""
    async with connection.transaction():
        checkpoints = await _move(connection, table, steps)
        taken = [step for step in steps if step.place in checkpoints]
        if not taken:
            return [], []
        events = [event for step in taken for event in step.events]
        if any(_omits(step, *checkpoints[step.place]) for step in taken):
            omitted = await omitted_of(connection, table)
            events = list(omitted.out_of(events))
        refusals = await write(connection, table, events)
        if refusals:
            for step in taken:
                own = {event.stream for event in step.events}
                if of_step := [refusal for refusal in refusals if refusal.event.stream in own]:
                    await park(connection, table, step.context, step.lane, of_step)
        await reached("after_rows_before_commit")
    return taken, refusals


async def _move(
    connection: Connection, table: Table, steps: Sequence[Step]
) -> Mapping[Lane, tuple[int, int]]:
    """Of lanes whose checkpoints moved: how many streams are parked, and up to where events are skipped."""
    moved = await connection.execute(
        _MOVE,
        {
            "build": table.build,
            "contexts": Packed(packing.texts([step.context for step in steps])),
            "lanes": Packed(packing.smallints([step.lane for step in steps])),
            "incarnations": Packed(packing.uuids([step.incarnation for step in steps])),
            "expected": Packed(packing.bigints([step.before.position for step in steps])),
            "reached": Packed(packing.bigints([step.after.position for step in steps])),
            "event_ids": Packed(packing.uuids([step.after.event_id for step in steps])),
        },
    )
    return {
        (context, lane): (parked, skipped_upto)
        for context, lane, parked, skipped_upto in await moved.fetchall()
    }


def _omits(step: Step, parked: int, skipped_upto: int) -> bool:
    return parked > 0 or skipped_upto > step.before.position


async def write_at_once(
    connection: Connection, table: Table, events: Sequence[Arriving]
) -> Sequence[Refusal]:
    """Folds events of lanes whose checkpoints are held into their rows; says what was refused.

    Raises Overtaken, and REFUSED_VALUES.
    """
    keys = keys_to_lock(table, events)
    stored = await _lock(connection, table, keys) if keys else {}
    folded = fold_or_refuse(table, stored, events)
    await _insert(connection, table, {k: values for k, values in folded.values.items() if k not in stored})
    await update(connection, table, {k: values for k, values in folded.values.items() if k in stored})
    return folded.refusals


async def write_one_by_one(
    connection: Connection, table: Table, events: Sequence[Arriving]
) -> Sequence[Refusal]:
    """The same, where PostgreSQL has refused a value: it is found whose."""
    await _lock(connection, table, keys_to_lock(table, events))  # in order, as by who writes them at once
    refused: dict[str, Refusal] = {}
    for event in events:
        if event.stream in refused:
            continue
        try:
            async with connection.transaction():
                found = await write_at_once(connection, table, [event])
        except REFUSED_VALUES as cause:
            found = [Refusal(event, cause)]
        refused.update((refusal.event.stream, refusal) for refusal in found)
    return list(refused.values())


async def _lock(connection: Connection, table: Table, keys: list[str]) -> dict[str, bytes]:
    found = await connection.execute(
        _by_key(table, " order by {key} for update"), [Packed(packing.texts(keys))]
    )
    return dict(await found.fetchall())


async def stored_parts(connection: Connection, table: Table, keys: list[str]) -> dict[str, bytes]:
    """Of those of the rows that are there."""
    found = await connection.execute(_by_key(table, ""), [Packed(packing.texts(keys))])
    return dict(await found.fetchall())


# Statements are kept as bytes: putting one together again for each execution would cost more than sending it.
@lru_cache(KEPT)
def _by_key(table: Table, then: LiteralString) -> bytes:
    return sql.SQL(_BY_KEY + then).format(table=table.identifier, key=table.key.identifier).as_bytes()


async def _insert(connection: Connection, table: Table, rows: Rows) -> None:
    if rows:
        inserted = await connection.execute(_insertion(table), table.pack(rows))
        if inserted.rowcount != len(rows):
            raise Overtaken


async def update(connection: Connection, table: Table, rows: Rows) -> None:
    if rows:
        await connection.execute(_change(table), table.pack(rows))


@lru_cache(KEPT)
def _insertion(table: Table) -> bytes:
    names, casts = _fields(table)
    insertion = sql.SQL(
        "insert into {table} ({fields}, revision) select new.*, 1 from unnest({casts}) as new ({fields}) "
        "on conflict do nothing"
    ).format(table=table.identifier, fields=sql.SQL(", ").join(names), casts=casts)
    return insertion.as_bytes()


@lru_cache(KEPT)
def _change(table: Table) -> bytes:
    (key, *rest), casts = _fields(table)
    change = sql.SQL(
        "update {table} as stored set {sets}, revision = stored.revision + 1 "
        "from unnest({casts}) as new ({key}, {fields}) where stored.{key} = new.{key}"
    ).format(
        table=table.identifier,
        key=key,
        sets=sql.SQL(", ").join(sql.SQL("{0} = new.{0}").format(field) for field in rest),
        casts=casts,
        fields=sql.SQL(", ").join(rest),
    )
    return change.as_bytes()


def _fields(table: Table) -> tuple[list[sql.Identifier], sql.Composed]:
    """What is written of a row, and the arrays that carry it."""
    return table.written, sql.SQL(", ").join(sql.SQL("%b::{}").format(type_) for type_ in table.packed)
