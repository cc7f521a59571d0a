"""How far readers are behind the log: in positions of the log, and in seconds by its database's clock.

A reader of all of the log, as the relay, is behind by head minus checkpoint: by so many events. One of a lane
is behind by the lane's last event minus its checkpoint: by so many events at most, for other lanes have
positions in between. Seconds count from when the oldest event that was not read was recorded. Who has read
all there is, is behind by neither.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from prometheus_client import Gauge

from runtime.stopping import cancel, stop_if_cancelled

logger = logging.getLogger(__name__)

Place = tuple[str, int, int]
"""A lane (context, lane) and the position of the last event that was read of it."""

WATCH_S: Final = 1.0

_SECONDS: Final[LiteralString] = (
    "coalesce(greatest(extract(epoch from clock_timestamp() - oldest.recorded_at), 0), 0)::float8"
)
# Rows are compared, so that both look-ups go straight to their place in the index (context, lane, position).
LANES: Final[LiteralString] = (
    "select at.context, at.lane, at.position, newest.position - at.position, " + _SECONDS + " from"
    " unnest(%s::text[], %s::smallint[], %s::bigint[]) as at (context, lane, position)"
    " cross join lateral (select e.context, e.lane, e.recorded_at from log.events e"
    "   where (e.context, e.lane, e.position) > (at.context, at.lane, at.position)"
    "   order by e.context, e.lane, e.position limit 1) oldest"
    " cross join lateral (select e.position from log.events e"
    "   where (e.context, e.lane, e.position) <= (at.context, at.lane, 9223372036854775807)"
    "   order by e.context desc, e.lane desc, e.position desc limit 1) newest"
    " where (oldest.context, oldest.lane) = (at.context, at.lane)"
)
"""Of places, those that are behind: the place, positions, seconds. Parameters: `columns_of`."""
_OF_ALL: Final[LiteralString] = (
    ", greatest(head.position - at.position, 0), " + _SECONDS + " from at"
    " cross join (select coalesce(max(position), 0) as position from log.events) head"
    " left join log.events oldest on oldest.position = at.position + 1 order by 1"
)
RELAYS: Final[LiteralString] = (
    "with at as (select name, position from relay.checkpoint) select at.name" + _OF_ALL
)
"""Name, positions, seconds; for who may read the checkpoints: the relay's role."""
POLICIES: Final[LiteralString] = (
    "with at as (select policy, position from policies.checkpoint) select at.policy" + _OF_ALL
)
"""As `RELAYS`, for the policies' role."""


@dataclass(frozen=True, slots=True)
class Lag:
    positions: int
    seconds: float


NONE: Final = Lag(0, 0.0)


def columns_of(places: Iterable[Place]) -> list[list[Any]]:
    """The parameters of `LANES`."""
    return [list(column) for column in zip(*places, strict=True)] or [[], [], []]


def lags_of(rows: Iterable[Sequence[Any]]) -> Mapping[Place, Lag]:
    """Of the rows of `LANES`; a place that is not behind has none."""
    return {(context, lane, position): Lag(*behind) for context, lane, position, *behind in rows}


@asynccontextmanager
async def watched(
    look: Callable[[], Awaitable[Mapping[str, Lag]]], positions: Gauge, seconds: Gauge
) -> AsyncIterator[None]:
    """Meanwhile it is told each second how far readers of all of the log are behind, each by its name.

    Beside their work, for a reader that is stuck tells nothing.
    """
    watching = asyncio.create_task(_watch(look, positions, seconds), name="watch the lag")
    try:
        yield
    finally:
        await cancel(watching)


async def _watch(look: Callable[[], Awaitable[Mapping[str, Lag]]], positions: Gauge, seconds: Gauge) -> None:
    while True:
        stop_if_cancelled()
        try:
            for name, lag in (await look()).items():
                positions.labels(name).set(lag.positions)
                seconds.labels(name).set(lag.seconds)
        except psycopg.Error as refused:
            logger.warning("how far behind the log its readers are cannot be seen: %s", refused)
        await asyncio.sleep(WATCH_S)
