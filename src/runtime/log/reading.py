"""Reading the log: by position, by lane, by stream, and as it grows."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from psycopg_pool import PoolTimeout

from commands.ports import Item
from domain import CONTEXTS
from domain.envelope import NO_EVENT, Mark, Recorded
from runtime.codec import decode, decode_metadata
from runtime.lag import LANES, Lag, Place, columns_of, lags_of
from runtime.log.limits import check_query
from runtime.postgres import Pool, fetch, open_pool
from runtime.stopping import cancel
from runtime.waking import first_of, hear

logger = logging.getLogger(__name__)

CHANNEL: Final = "tallybook_log"
POOL_SIZE: Final = 4
BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of data and metadata; what a batch begins with may go beyond, for an event has no limit of its own here."""
LAST_POSITION: Final = 2**63 - 1
POLL_S: Final = 0.1
"""How long a subscription sleeps at most: what a lost notification costs."""
READ_S: Final = 35.0
"""For a connection and an answer, longer than a statement may take: a peer may fall silent without a word."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 0.25
"""However long a database was away, it is in use within two seconds; a try costs a connection."""

COLUMNS: Final[LiteralString] = (
    "e.position, e.stream, e.version, e.event_id::text, e.type, e.context, e.lane, e.data, e.metadata,"
    " e.recorded_at"
)
# Rows are compared, here and below, so that only a look-up in (context, lane, position) will do: given two
# equalities, a planner that takes the lane's events for frequent walks through the whole log to the next one.
_PREVIOUS: Final[LiteralString] = (
    ", coalesce((select case when (p.context, p.lane) = (e.context, e.lane) then p.position end"
    " from log.events p where (p.context, p.lane, p.position) < (e.context, e.lane, e.position)"
    " order by p.context desc, p.lane desc, p.position desc limit 1), 0)"
)
_SELECT: Final[LiteralString] = "select " + COLUMNS + _PREVIOUS + " from log.events e "
_BATCH: Final[LiteralString] = (
    "select " + COLUMNS + _PREVIOUS + " from ("
    "   select n.*, sum(octet_length(n.data) + octet_length(n.metadata)) over (order by n.position"
    "     rows between unbounded preceding and 1 preceding) as before from ("
    "     select * from log.events where position > %s order by position limit %s"
    "   ) n"
    " ) e where coalesce(e.before, 0) < %s order by e.position"
)
# The head comes with them, of the same snapshot; alone, with nulls, when nothing matches.
_MATCHING: Final[LiteralString] = (
    " from (select coalesce(max(position), 0) as position from log.events) h"
    " left join lateral ("
    "   select found.* from ("
    "     select distinct p.position from jsonb_to_recordset(%s::jsonb) as i (types text[], tags text[])"
    "     cross join lateral log.positions_of(i.types, i.tags, %s, h.position, %s) as p (position)"
    "     order by p.position limit %s"
    "   ) p join log.events found on found.position = p.position"
    " ) e on true order by e.position"
)
QUERY: Final[LiteralString] = "select h.position, " + COLUMNS + _MATCHING
_STORED_QUERY: Final[LiteralString] = "select h.position, " + COLUMNS + _PREVIOUS + _MATCHING


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the log, its bytes untouched.

    `previous` is the position of the event before it in the same (context, lane), 0 when there is none.
    """

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    context: str
    lane: int
    data: bytes
    metadata: bytes
    recorded_at: datetime
    previous: int


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An event that this code cannot decode, and why."""

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    cause: Exception


def recorded_of(row: Sequence[Any]) -> Recorded:
    """The event of a row of `COLUMNS`."""
    position, stream, version, event_id, type_, context, lane, data, metadata, recorded_at, *_ = row
    return Recorded(
        position,
        stream,
        version,
        event_id,
        context,
        lane,
        decode(type_, data),
        decode_metadata(metadata),
        recorded_at,
    )


def parameters_of(query: Sequence[Item], after: int, limit: int) -> Sequence[object]:
    """Of `QUERY`. ValueError for one that no log answers."""
    check_query(query, after, limit)
    items = [{"types": sorted(item.types), "tags": sorted(item.tags)} for item in query]
    return (msgspec.json.encode(items).decode(), after, limit, limit)


def matching(rows: Sequence[Sequence[Any]], limit: int) -> tuple[list[Sequence[Any]], int]:
    """The rows of `QUERY` without the head, and up to which position they are all."""
    head = rows[0][0]
    found = [row[1:] for row in rows if row[1] is not None]
    return found, int(found[-1][0] if len(found) == limit else head)


class LogReader:
    def __init__(self, pool: Pool, url: str, role: str) -> None:
        self._pool = pool
        self._url = url
        self._role = role

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, role: str = "tallybook_reader") -> AsyncIterator["LogReader"]:
        async with open_pool(url, role, size=POOL_SIZE, autocommit=True) as pool:
            yield cls(pool, url, role)

    @staticmethod
    def decode(stored: StoredEvent) -> Recorded:
        return Recorded(
            stored.position,
            stored.stream,
            stored.version,
            stored.event_id,
            stored.context,
            stored.lane,
            decode(stored.type, stored.data),
            decode_metadata(stored.metadata),
            stored.recorded_at,
        )

    @staticmethod
    def decode_or_not(stored: StoredEvent) -> Recorded | Undecodable:
        try:
            return LogReader.decode(stored)
        except (
            ValueError,
            RecursionError,
        ) as cause:  # the last: nested too deep
            return Undecodable(
                stored.position, stored.stream, stored.version, stored.event_id, stored.type, cause
            )

    async def incarnation(self) -> str:
        [(incarnation,)] = await self._rows(
            "select id::text from log.incarnations order by from_position desc, timeline desc limit 1", ()
        )
        return str(incarnation)

    async def lanes(self) -> int:
        [(lanes,)] = await self._rows("select lanes from log.settings", ())
        return int(lanes)

    async def head(self) -> Mark:
        """Position 0 when the log is empty."""
        rows = await self._rows(
            "select position, event_id::text from log.events order by position desc limit 1", ()
        )
        return Mark(*rows[0]) if rows else Mark(0, NO_EVENT)

    async def position_at(self, at: datetime) -> int:
        """Of the last event recorded until then, 0 before the first: recorded_at grows with the position."""
        before, after = 0, (await self.head()).position + 1
        while after - before > 1:
            middle = (before + after) // 2
            [(recorded_at,)] = await self._rows(
                "select recorded_at from log.events where position = %s", (middle,)
            )
            before, after = (middle, after) if recorded_at <= at else (before, middle)
        return before

    async def newest(self) -> tuple[int, datetime | None]:
        """The head, and when its event was recorded."""
        rows = await self._rows(
            "select position, recorded_at from log.events order by position desc limit 1", ()
        )
        return rows[0] if rows else (0, None)

    async def read_streams(self, streams: Sequence[str], *, upto: int, limit: int) -> list[StoredEvent]:
        """The first `limit` events of these streams up to a position, stream by stream."""
        return await self._events(
            "select " + COLUMNS + ", 0 from unnest(%s::text[]) as u (stream)"
            " cross join lateral (select f.* from log.events f"
            "   where f.stream = u.stream and f.position <= %s order by f.version) e limit %s",
            (list(streams), upto, limit),
        )

    async def heads(self, upto: int = LAST_POSITION) -> Mapping[tuple[str, int], Mark]:
        """The last event of each (context, lane) up to a position: one look-up in the index each."""
        rows = await self._rows(
            "select t.context, t.lane, t.position, t.event_id::text"
            " from unnest(%s::text[]) as c (context)"
            " cross join (select generate_series(0, lanes - 1)::smallint as lane from log.settings) l"
            " cross join lateral (select e.context, e.lane, e.position, e.event_id from log.events e"
            "   where (e.context, e.lane, e.position) <= (c.context, l.lane, %s)"
            "   order by e.context desc, e.lane desc, e.position desc limit 1) t"
            " where (t.context, t.lane) = (c.context, l.lane)",
            (sorted(set(CONTEXTS.values())), upto),
        )
        return {(context, lane): Mark(position, event_id) for context, lane, position, event_id in rows}

    async def lags(self, places: Iterable[Place]) -> Mapping[Place, Lag]:
        """How far those are behind that are."""
        return lags_of(await self._rows(LANES, columns_of(places)))

    async def lags_of_all(self, query: LiteralString) -> Mapping[str, Lag]:
        """How far readers of all of the log are behind, by name: `runtime.lag.RELAYS` or `POLICIES`."""
        return {name: Lag(*behind) for name, *behind in await self._rows(query, ())}

    async def read(self, after: int, limit: int = BATCH_EVENTS) -> list[StoredEvent]:
        """In the order of the log; fewer than `limit` where they have more than `BATCH_BYTES`."""
        return await self._events(_BATCH, (after, limit, BATCH_BYTES))

    async def read_lane(
        self, context: str, lane: int, *, after: int, upto: int, limit: int = BATCH_EVENTS
    ) -> list[StoredEvent]:
        """The events of a (context, lane) after one position, up to another."""
        return await self._events(
            _SELECT + "where (e.context, e.lane, e.position) > (%s, %s, %s)"
            " and (e.context, e.lane, e.position) <= (%s, %s, %s)"
            " order by e.context, e.lane, e.position limit %s",
            (context, lane, after, context, lane, upto, limit),
        )

    async def read_types(self, types: Sequence[str], *, after: int, upto: int) -> list[Recorded]:
        """All events of these stored names after one position, up to another."""
        rows = await self._rows(
            "select " + COLUMNS + " from log.events e"
            " where e.position > %s and e.position <= %s and e.type = any(%s) order by e.position",
            (after, upto, list(types)),
        )
        return [recorded_of(row) for row in rows]

    async def read_stream(self, stream: str, *, after_version: int = 0, limit: int) -> list[StoredEvent]:
        return await self._events(
            _SELECT + "where e.stream = %s and e.version > %s order by e.version limit %s",
            (stream, after_version, limit),
        )

    async def read_query(
        self, query: Sequence[Item], *, after: int = 0, limit: int = BATCH_EVENTS
    ) -> tuple[list[StoredEvent], int]:
        """As `commands.ports.Log.read_query`."""
        rows = await self._rows(_STORED_QUERY, parameters_of(query, after, limit))
        found, upto = matching(rows, limit)
        return [StoredEvent(*row) for row in found], upto

    async def event(self, event_id: str) -> StoredEvent | None:
        events = await self._events(_SELECT + "where e.event_id = %s::uuid", (event_id,))
        return events[0] if events else None

    async def subscribe(
        self, after: int, limit: int = BATCH_EVENTS, *, rest_s: float = 0.0
    ) -> AsyncGenerator[list[StoredEvent]]:
        """Batches of events after a position, for ever. A connection that breaks is made again.

        `rest_s`: once all there was has been read, until what has come since is. Each batch has a price,
        however small it is; who need not have each event at once need not pay it for each.
        """
        pause = FIRST_PAUSE_S
        async with self._heard(rest_s) as woken:
            while True:
                woken.clear()
                try:
                    batch = await self.read(after, limit)
                except (psycopg.OperationalError, PoolTimeout) as away:
                    logger.warning("the log cannot be read, again in %.1f s: %s", pause, away)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    continue
                pause = FIRST_PAUSE_S
                if batch:
                    after = batch[-1].position
                    yield batch
                    if len(batch) == limit:
                        continue
                elif rest_s < POLL_S:
                    await first_of(woken, POLL_S)
                await asyncio.sleep(rest_s)

    @asynccontextmanager
    async def _heard(self, rest_s: float) -> AsyncIterator[asyncio.Event]:
        """Set when the log has grown; who rests as long as it would sleep at most need not hear of that."""
        woken = asyncio.Event()
        if rest_s >= POLL_S:
            yield woken
            return
        hearing = asyncio.create_task(hear(self._url, self._role, CHANNEL, woken), name="hear the log")
        try:
            yield woken
        finally:
            await cancel(hearing)

    async def _events(self, query: LiteralString, parameters: Sequence[object]) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in await self._rows(query, parameters)]

    async def _rows(self, query: LiteralString, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        return await fetch(self._pool, query, parameters, seconds=READ_S)
