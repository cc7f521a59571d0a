"""A parked stream resumes in order, from the log: when its fold is mended, or when one event is skipped.

Each step is a transaction that holds the lane's checkpoint, so no worker moves it meanwhile: what the stream
has up to there is folded here, what comes behind it is the workers' again once nothing is parked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, LiteralString

from runtime.log.reading import LogReader, StoredEvent
from runtime.points import reached
from runtime.postgres import Connection
from runtime.process import CannotStart
from runtime.read_models import builds
from runtime.read_models.apply import Write, at_last
from runtime.read_models.parked import Parked, parked_streams, skips_of
from runtime.read_models.refusals import Arriving
from runtime.read_models.tables import Table

STEP_EVENTS: Final = 500
MAX_STEPS: Final = 2_000
"""Of one retry; a stream that is longer is parked further on, and the next retry goes on there."""
MAX_SKIPPED: Final = 1_000
"""Events of one declaration: more of them are no exceptions, but another fold."""
MAX_REASON_CHARS: Final = 1_000
NOT_TRIED: Final = "not tried since the events before it were folded"

_UNPARK: Final[LiteralString] = """
with removed as (
    delete from read.parked where build = %s and stream = %s returning build, context, lane
)
update read.checkpoints set parked = parked - 1
where (build, context, lane) in (select build, context, lane from removed)
"""
_SKIP: Final[LiteralString] = """
insert into read.skipped (declaration, event_id, context, lane, stream, position, reason, skipped_by)
values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing
"""
_MOVE: Final[LiteralString] = """
update read.parked set position = %s, version = %s, event_id = %s, type = %s, error = %s, tries = %s
where build = %s and stream = %s
"""


class NotParked(CannotStart):
    """The stream does not stand still at this event, or not in all that might have folded it."""


class NotInLog(CannotStart):
    """The log does not have the event at which a stream is parked."""

    def __init__(self, table: Table, parked: Parked) -> None:
        model = table.model.name
        super().__init__(
            f"the log does not have event {parked.event_id} of {parked.stream}: have the read model made "
            f"from what it has, `tallybook rebuild {model}`, then `tallybook drop {model}`"
        )


class TooManySkipped(CannotStart):
    """So many events are skipped that it is the fold that should change."""


@dataclass(frozen=True, slots=True)
class Skip:
    """An event to be left out for ever; why, and by whose word."""

    stream: str
    event_id: str
    reason: str
    by: str


async def parked_in(connection: Connection, table: Table, stream: str | None = None) -> list[Parked]:
    """The parked streams of the declaration's builds, or the one of this name, in the order of the log."""
    found = await connection.execute(
        "select build from read.builds where declaration = %s", [table.declaration]
    )
    parked = await parked_streams(connection, [build for (build,) in await found.fetchall()])
    return [one for one in parked if stream in (None, one.stream)]


async def resume(connection: Connection, reader: LogReader, table: Table, parked: Parked) -> Parked | None:
    """Folds what has waited in the build; None, or where the stream stands still again.

    One that was not refused there (`tries` is 0) was too long for one retry. Raises NotInLog, Overtaken.
    """
    still: Parked | None = parked
    for _ in range(MAX_STEPS):
        still = await at_last(partial(_step, connection, reader, Table(table.model, parked.build), parked))
        await reached("after_resumed_step")
        if still is None or still.tries:
            break
    return still


async def _step(
    connection: Connection, reader: LogReader, table: Table, parked: Parked, write: Write
) -> Parked | None:
    async with connection.transaction():
        upto = await _hold(connection, parked)
        now = await _present(connection, parked)
        if upto is None or now is None:
            return None  # somebody else has resumed it, or dropped the build
        stored = await reader.read_stream(now.stream, after_version=now.version - 1, limit=STEP_EVENTS + 1)
        due = [event for event in stored if event.position <= upto]
        if not due or due[0].event_id != now.event_id:
            raise NotInLog(table, now)
        skips = await skips_of(connection, table)
        events = [reader.decode_or_not(event) for event in skips.out_of(due[:STEP_EVENTS])]
        refusals = await write(connection, table, events)
        still = None
        if refusals:
            event = refusals[0].event
            tries = now.tries + 1 if event.event_id == now.event_id else 1
            still = _moved(now, event, refusals[0].error, tries)
        elif len(due) > STEP_EVENTS:
            still = _moved(now, due[STEP_EVENTS], NOT_TRIED, 0)
        await _store(connection, now, still)
        await reached("after_rows_before_resumed")
    return still


def _moved(parked: Parked, event: Arriving | StoredEvent, error: str, tries: int) -> Parked:
    return replace(
        parked,
        position=event.position,
        version=event.version,
        event_id=event.event_id,
        type=event.type,
        error=error,
        tries=tries,
    )


async def _present(connection: Connection, parked: Parked) -> Parked | None:
    present = [one for one in await parked_streams(connection, [parked.build]) if one.stream == parked.stream]
    return present[0] if present else None


async def _store(connection: Connection, now: Parked, still: Parked | None) -> None:
    if still is None:
        await connection.execute(_UNPARK, [now.build, now.stream])
    else:
        values = [still.position, still.version, still.event_id, still.type, still.error, still.tries]
        await connection.execute(_MOVE, [*values, now.build, now.stream])


async def skip(connection: Connection, reader: LogReader, table: Table, wanted: Skip) -> None:
    """Records that all builds of the declaration leave the event out for ever; then they can `resume`.

    Raises NotParked unless each that has come so far stands still at the event or before: none may have
    folded it. NotInLog, TooManySkipped.
    """
    async with connection.transaction():
        at = await _parked_at(connection, table, wanted)
        if await reader.event(at.event_id) is None:
            raise NotInLog(table, at)
        # As who replaces a build: lanes, the served build's first, then what keeps others from being made.
        await _hold_all(connection, table, at)
        await builds.lock_definitions(connection)
        reached_by = await _hold_all(connection, table, at)
        stands = {one.build: one.position for one in await parked_in(connection, table, wanted.stream)}
        for build, upto in reached_by.items():
            if upto >= at.position and stands.get(build, upto + 1) > at.position:
                raise NotParked(f"{build} has folded event {wanted.event_id}: retry {wanted.stream} instead")
        if len((await skips_of(connection, table)).skipped) >= MAX_SKIPPED:
            raise TooManySkipped(f"{MAX_SKIPPED} events of {table.model.name} are skipped already")
        event = [wanted.event_id, at.context, at.lane, wanted.stream, at.position]
        await connection.execute(_SKIP, [table.declaration, *event, wanted.reason, wanted.by])
        await connection.execute(
            "update read.checkpoints set skipped_upto = greatest(skipped_upto, %s)"
            " where build = any(%s) and context = %s and lane = %s",
            [at.position, list(reached_by), at.context, at.lane],
        )
        await reached("before_skip_commits")


async def _parked_at(connection: Connection, table: Table, wanted: Skip) -> Parked:
    for one in await parked_in(connection, table, wanted.stream):
        if one.event_id == wanted.event_id:
            return one
    raise NotParked(f"{table.model.name} does not stand still at event {wanted.event_id} of {wanted.stream}")


async def _hold_all(connection: Connection, table: Table, parked: Parked) -> Mapping[str, int]:
    """How far each build of the declaration is in the lane; they stay there until the transaction ends."""
    found = await connection.execute(
        "select build, position from read.checkpoints join read.builds using (build)"
        " where declaration = %s and context = %s and lane = %s"
        " order by served desc, build for update of checkpoints",
        [table.declaration, parked.context, parked.lane],
    )
    return dict(await found.fetchall())


async def _hold(connection: Connection, parked: Parked) -> int | None:
    """How far the lane has come; it stays there until the transaction ends. None if the build is not fed."""
    found = await connection.execute(
        "select position from read.checkpoints where build = %s and context = %s and lane = %s for update",
        [parked.build, parked.context, parked.lane],
    )
    row = await found.fetchone()
    return None if row is None else int(row[0])
