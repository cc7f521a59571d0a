"""What a build leaves out: streams parked at an event that a fold refuses, and events that are skipped.

Whoever folds for a build asks here first. A worker learns from the checkpoint's row, which it has to lock in
any case, whether there is anything to ask for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString

from prometheus_client import Counter

from projections.ports import Omitted
from runtime.postgres import Connection
from runtime.read_models.refusals import Refusal
from runtime.read_models.tables import Table

logger = logging.getLogger(__name__)

MAX_PARKED: Final = 1_000
"""Streams of a build, but for what other lanes park meanwhile; a fold that refuses more is itself broken."""

PARKINGS: Final = Counter(
    "tallybook_projector_parkings", "Streams that were parked at an event which a fold refuses", ["model"]
)

_PARK: Final[LiteralString] = """
with added as (
    insert into read.parked (build, context, lane, stream, position, version, event_id, type, error)
    select %s, %s, %s, new.*
    from unnest(%s::text[], %s::bigint[], %s::bigint[], %s::uuid[], %s::text[], %s::text[]) as new
    returning build, context, lane
)
update read.checkpoints set parked = parked + %s
where (build, context, lane) in (select build, context, lane from added)
"""


class TooManyParked(RuntimeError):
    """A fold refuses events of more streams than may be parked: not the events are broken, but the fold."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A stream that stands still in a build, and the event at which it does."""

    build: str
    context: str
    lane: int
    stream: str
    position: int
    version: int
    event_id: str
    type: str
    error: str
    tries: int
    parked_at: datetime


_COLUMNS: Final[LiteralString] = (
    "build, context, lane, stream, position, version, event_id::text, type, error, tries, parked_at"
)


async def omitted_of(connection: Connection, table: Table) -> Omitted:
    """By the build: its parked streams, and what all builds of its declaration skip."""
    found = await connection.execute(
        "select true, stream, position from read.parked where build = %s"
        " union all select false, event_id::text, position from read.skipped where declaration = %s",
        [table.build, table.declaration],
    )
    omitted: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for is_parked, name, position in await found.fetchall():
        omitted[is_parked][name] = position
    return Omitted(parked=omitted[True], skipped=omitted[False])


async def skips_of(connection: Connection, table: Table) -> Omitted:
    """What all builds of the declaration skip, alone."""
    return Omitted(skipped=(await omitted_of(connection, table)).skipped)


async def park(
    connection: Connection, table: Table, context: str, lane: int, refusals: Sequence[Refusal]
) -> None:
    """In the transaction that holds the lane's checkpoint. Raises TooManyParked."""
    counted = await connection.execute(
        "select coalesce(sum(parked), 0) from read.checkpoints where build = %s", [table.build]
    )
    [(parked,)] = await counted.fetchall()
    if parked + len(refusals) > MAX_PARKED:
        raise TooManyParked(f"{table.build}: {parked} streams and {refusals[0].error}") from refusals[0].cause
    events = [refusal.event for refusal in refusals]
    await connection.execute(
        _PARK,
        [
            table.build,
            context,
            lane,
            [event.stream for event in events],
            [event.position for event in events],
            [event.version for event in events],
            [event.event_id for event in events],
            [event.type for event in events],
            [refusal.error for refusal in refusals],
            len(refusals),
        ],
    )


def tell(table: Table, refusals: Sequence[Refusal]) -> None:
    """Loudly, once they are parked."""
    for refusal in refusals:
        event = refusal.event
        PARKINGS.labels(table.model.name).inc()
        logger.error(
            "%s parks %s at event %s (%s, position %d); `tallybook parked` lists what to do",
            table.build,
            event.stream,
            event.event_id,
            event.type,
            event.position,
            exc_info=refusal.cause,
        )


async def parked_streams(connection: Connection, builds: Sequence[str] | None = None) -> list[Parked]:
    """Of these builds, else of all, in the order of the log."""
    query: LiteralString = "select " + _COLUMNS + " from read.parked"
    if builds is None:
        found = await connection.execute(query + " order by position, build")
    else:
        found = await connection.execute(query + " where build = any(%s) order by position, build", [builds])
    return [Parked(*row) for row in await found.fetchall()]
