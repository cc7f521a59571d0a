"""The log in PostgreSQL, as writers see it: concurrent appends share one transaction."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString

import psycopg
from uuid_utils import uuid7

from commands.ports import Append, Item, LogUnavailable, Verdict
from domain.envelope import Recorded
from runtime.log.batch import Encoded
from runtime.log.limits import check
from runtime.log.reading import CHANNEL, COLUMNS, QUERY, matching, parameters_of, recorded_of
from runtime.log.session import Session
from runtime.log.writer import Begin, Writer
from runtime.postgres import Pool, fetch, open_pool
from runtime.waking import wake_readers

ROLE: Final = "tallybook_writer"
POOL_SIZE: Final = 4
READY_S: Final = 1.5
"""Less than the door gives it: cut off in the middle, it would end seconds later."""
READ_S: Final = 10.0
"""For a connection and an answer: a peer may fall silent without a word."""

# Stream by stream, each along its index: nothing is sorted.
_STREAMS: Final[LiteralString] = (
    "select " + COLUMNS + " from unnest(%s::text[], %s::bigint[]) as u (stream, version)"
    " cross join lateral (select f.* from log.events f"
    "   where f.stream = u.stream and f.version > u.version order by f.version) e"
)
_POSITIONS: Final[LiteralString] = (
    "select " + COLUMNS + " from log.events e where e.position >= %s and e.position < %s order by e.position"
)
_IDS: Final[LiteralString] = (
    "select " + COLUMNS + " from unnest(%s::uuid[]) as u (id) join log.events e on e.event_id = u.id"
)


class PostgresLog:
    """Implements `commands.ports.Log`."""

    def __init__(self, pool: Pool, begin: Begin, session: Session) -> None:
        self._pool = pool
        self._writer = Writer(session, begin, self._by_ids)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, role: str = ROLE) -> AsyncIterator["PostgresLog"]:
        """Connects first: `LogUnavailable` if that fails."""
        name = str(uuid7())

        async def begin() -> Session:
            return await Session.begin(url, role, name)

        async with open_pool(url, role, size=POOL_SIZE, autocommit=True) as pool:
            log = cls(pool, begin, await begin())
            writer = log._writer
            writing = asyncio.create_task(writer.run(), name="write the log")
            waking = asyncio.create_task(
                wake_readers(url, role, CHANNEL, writer.committed), name="wake the readers"
            )
            try:
                yield log
            finally:
                await writer.close(writing)
                waking.cancel()
                await asyncio.wait({waking})

    @property
    def incarnation(self) -> str:
        return self._writer.incarnation

    async def ready(self) -> bool:
        """Whether appends and reads find a connection."""
        if not self._writer.ready:
            return False
        try:
            await fetch(self._pool, "select 1", (), seconds=READY_S)
        except psycopg.OperationalError:
            return False
        return True

    async def append(self, append: Append) -> Verdict:
        check(append)
        return await self._writer.put(Encoded.of(append)).verdict

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found: dict[str, list[Recorded]] = {stream: [] for stream in after}
        for row in await self._rows(_STREAMS, (list(after), list(after.values()))):
            recorded = recorded_of(row)
            found[recorded.stream].append(recorded)
        return found

    async def read_positions(self, first_position: int, count: int) -> Sequence[Recorded]:
        rows = await self._rows(_POSITIONS, (first_position, first_position + count))
        return [recorded_of(row) for row in rows]

    async def read_query(
        self, query: Sequence[Item], *, after: int = 0, limit: int
    ) -> tuple[Sequence[Recorded], int]:
        found, upto = matching(await self._rows(QUERY, parameters_of(query, after, limit)), limit)
        return [recorded_of(row) for row in found], upto

    async def _by_ids(self, event_ids: Sequence[str]) -> Mapping[str, Recorded]:
        rows = await self._rows(_IDS, (list(event_ids),)) if event_ids else []
        return {recorded.event_id: recorded for recorded in map(recorded_of, rows)}

    async def _rows(self, query: LiteralString, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return await fetch(self._pool, query, parameters, seconds=READ_S)
        except psycopg.OperationalError as away:
            raise LogUnavailable(str(away)) from away
