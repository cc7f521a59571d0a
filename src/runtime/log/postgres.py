"""The log in PostgreSQL, as writers see it: concurrent appends share one transaction.

One writer task drains the waiting appends into one call of `log.append`, answers each caller, and takes the
next batch. A batch grows by itself under load; an idle connection never waits for one to fill.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from prometheus_client import Counter, Histogram
from psycopg_pool import PoolTimeout
from uuid_utils import uuid7

from commands.ports import Append, LogFull, LogUnavailable, OutcomeUnknown, Verdict
from domain.envelope import Recorded
from runtime.log.batch import CALL, Encoded, parameters_of, verdicts_of
from runtime.log.limits import check
from runtime.log.reading import CHANNEL, COLUMNS, recorded_of
from runtime.points import reached
from runtime.postgres import Connection, Pool, arguments, connect, open_pool

logger = logging.getLogger(__name__)

ROLE: Final = "tallybook_writer"
POOL_SIZE: Final = 4
MAX_WAITING: Final = 8_192
MAX_WAITING_BYTES: Final = 64 * 2**20
MAX_BATCH_APPENDS: Final = 512
MAX_BATCH_EVENTS: Final = 4_096
MAX_BATCH_BYTES: Final = 8 * 2**20
CALL_S: Final = 35.0
"""Longer than the role's statement_timeout: when it passes, the connection is as good as lost."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
CLOSE_S: Final = 2.0
UNCERTAIN_STATES: Final = ("08", "57")
"""SQLSTATE classes after which the commit may or may not have happened: connection, operator intervention."""
FAULTY_STATES: Final = ("22", "23", "TB003")
"""What one append of a batch can be the fault of; the others are tried again without it."""

BATCHES = Histogram(
    "tallybook_log_batch_appends", "Appends in one call", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
SECONDS = Histogram("tallybook_log_append_seconds", "Time of one call")
UNKNOWN = Counter("tallybook_log_unknown_outcomes", "Appends whose connection broke while committing")

_STREAMS: Final[LiteralString] = (
    "select " + COLUMNS + " from unnest(%s::text[], %s::bigint[]) as u (stream, version)"
    " join log.events e on e.stream = u.stream and e.version > u.version order by e.stream, e.version"
)
_POSITIONS: Final[LiteralString] = (
    "select " + COLUMNS + " from log.events e where e.position >= %s and e.position < %s order by e.position"
)


@dataclass(slots=True)
class _Waiting:
    encoded: Encoded
    verdict: asyncio.Future[Verdict]


class PostgresLog:
    """Implements `commands.ports.Log`."""

    def __init__(self, url: str, role: str, pool: Pool) -> None:
        self._url = url
        self._role = role
        self._pool = pool
        self._writer = str(uuid7())
        self._generation = 0
        self._lanes = 0
        self._incarnation = ""
        self._connection: Connection | None = None
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._committed = asyncio.Event()
        self._idle = asyncio.Event()
        self._closing = False

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, role: str = ROLE) -> AsyncIterator["PostgresLog"]:
        """Connects first: `LogUnavailable` if that fails."""
        async with open_pool(url, role, size=POOL_SIZE, autocommit=True) as pool:
            log = cls(url, role, pool)
            await log._connect()
            writing = asyncio.create_task(log._write(), name="write the log")
            notifying = asyncio.create_task(log._notify(), name="notify the log's readers")
            try:
                yield log
            finally:
                await log._close(writing)
                notifying.cancel()
                await asyncio.wait({notifying})

    @property
    def incarnation(self) -> str:
        return self._incarnation

    async def ready(self) -> bool:
        """Whether an append would find a connection, or make one."""
        try:
            async with self._pool.connection() as connection:
                await connection.execute("select 1")
        except (psycopg.OperationalError, PoolTimeout):
            return False
        return not self._closing

    async def append(self, append: Append) -> Verdict:
        check(append)
        encoded = Encoded.of(append)
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes + encoded.size > MAX_WAITING_BYTES
        if full or self._closing:
            raise LogFull
        waiting = _Waiting(encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += encoded.size
        self._arrived.set()
        return await waiting.verdict

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found: dict[str, list[Recorded]] = {}
        for row in await self._rows(_STREAMS, (list(after), list(after.values()))):
            recorded = recorded_of(row)
            found.setdefault(recorded.stream, []).append(recorded)
        return found

    async def read_positions(self, first_position: int, count: int) -> Sequence[Recorded]:
        rows = await self._rows(_POSITIONS, (first_position, first_position + count))
        return [recorded_of(row) for row in rows]

    async def _rows(self, query: LiteralString, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            async with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
                await cursor.execute(query, parameters)
                return await cursor.fetchall()
        except (psycopg.OperationalError, PoolTimeout) as away:
            raise LogUnavailable(str(away)) from away

    async def _write(self) -> None:
        """The one writer: as long as the log is open, whatever happens to a batch."""
        pause = FIRST_PAUSE_S
        while True:
            self._idle.set()
            await self._arrived.wait()
            self._idle.clear()
            if self._connection is None:
                try:
                    await self._connect()
                except LogUnavailable as away:
                    logger.warning("the log cannot be reached: %s", away)
                    self._fail(self._drain(), away)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    continue
                pause = FIRST_PAUSE_S
            await self._commit(self._drain())

    def _drain(self) -> list[_Waiting]:
        """What goes into the next batch: those that wait longest, within its limits, and no digest twice."""
        batch: list[_Waiting] = []
        digests: set[bytes | None] = set()
        events = size = 0
        while self._waiting and len(batch) < MAX_BATCH_APPENDS:
            encoded = self._waiting[0].encoded
            events += len(encoded.data)
            size += encoded.size
            if batch and (
                events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES or encoded.append.digest in digests
            ):
                break
            if encoded.append.digest is not None:
                digests.add(encoded.append.digest)
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= encoded.size
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        encoded = [waiting.encoded for waiting in batch]
        try:
            await reached("before_commit")
            with SECONDS.time():
                row = await self._call(encoded)
            await reached("after_commit_before_answer")
            verdicts = verdicts_of(encoded, row, self._lanes)
        except asyncio.CancelledError:
            self._fail(batch, OutcomeUnknown("the process is stopping"))
            raise
        except Exception as failed:
            await self._sort_out(batch, failed)
            return
        BATCHES.observe(len(batch))
        self._committed.set()
        for waiting, verdict in zip(batch, verdicts, strict=True):
            if not waiting.verdict.done():
                waiting.verdict.set_result(verdict)

    async def _call(self, batch: list[Encoded]) -> Sequence[Any]:
        if self._connection is None:
            raise LogUnavailable("no connection")
        parameters = parameters_of(batch, self._lanes)
        parameters |= {"writer": self._writer, "generation": self._generation}
        async with asyncio.timeout(CALL_S), self._connection.cursor(binary=True) as cursor:
            await cursor.execute(CALL, parameters, prepare=True)
            [row] = await cursor.fetchall()
            return row

    async def _sort_out(self, batch: list[_Waiting], failed: Exception) -> None:
        """What a failed call means: refused by the database, so nothing is there; or nobody knows yet."""
        state = failed.sqlstate if isinstance(failed, psycopg.Error) else None
        alive = self._connection is not None and not self._connection.closed
        if not alive or state is None or state.startswith(UNCERTAIN_STATES):
            logger.warning("the outcome of %d appends is unknown: %s", len(batch), failed)
            UNKNOWN.inc(len(batch))
            await self._disconnect()
            self._fail(batch, OutcomeUnknown(str(failed)))
        elif not state.startswith(FAULTY_STATES):
            logger.warning("%d appends were not accepted: %s", len(batch), failed)
            await self._disconnect()
            self._fail(batch, LogUnavailable(str(failed)))
        elif len(batch) > 1:
            for waiting in batch:
                await self._commit([waiting])
        else:
            logger.error("an append that the log does not take: %s", failed)
            self._fail(batch, failed)

    def _fail(self, batch: Sequence[_Waiting], failure: Exception) -> None:
        for waiting in batch:
            if not waiting.verdict.done():
                waiting.verdict.set_exception(failure)

    async def _connect(self) -> None:
        """A new connection begins a new generation: from then on the old one cannot commit any more."""
        connection: Connection | None = None
        try:
            connection = await Connection.connect(self._url, autocommit=True, **arguments(self._role))
            begun = await connection.execute(
                "select generation, incarnation::text, lanes from log.begin_writing(%s)", (self._writer,)
            )
            [(self._generation, self._incarnation, self._lanes)] = await begun.fetchall()
        except psycopg.Error as error:
            if connection is not None:
                await connection.close()
            raise LogUnavailable(str(error)) from error
        self._connection = connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _notify(self) -> None:
        """Wakes readers after commits, on a connection of its own: in the commit it would cost half the rate."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                async with connect(self._url, self._role, synchronous_commit="off") as connection:
                    pause = FIRST_PAUSE_S
                    while True:
                        await self._committed.wait()
                        self._committed.clear()
                        await connection.execute("select pg_notify(%s, '')", (CHANNEL,))
            except psycopg.OperationalError as lost:
                logger.warning("readers are not notified, they poll: %s", lost)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _close(self, writing: asyncio.Task[None]) -> None:
        """Answer who waits, for a bounded time; nobody new is let in."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._waiting:
                    await asyncio.sleep(0.01)
                await self._idle.wait()
        writing.cancel()
        await asyncio.wait({writing})
        self._fail(self._waiting, LogUnavailable("the process is stopping"))
        await self._disconnect()
