"""The log in PostgreSQL, as writers see it: concurrent appends share one transaction.

One writer task drains the waiting appends into one call of `log.append`, answers each caller, and takes the
next batch. A batch grows by itself under load; an idle connection never waits for one to fill.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString

import psycopg
from prometheus_client import Counter, Histogram
from psycopg_pool import PoolTimeout
from uuid_utils import uuid7

from commands.ports import Append, LogUnavailable, OutcomeUnknown, Verdict
from domain.envelope import Recorded
from runtime.log.batch import Encoded, parameters_of, verdicts_of
from runtime.log.limits import check
from runtime.log.queue import Queue, Waiting
from runtime.log.reading import COLUMNS, recorded_of
from runtime.log.session import Session
from runtime.log.waking import wake_readers
from runtime.points import reached
from runtime.postgres import Pool, open_pool

logger = logging.getLogger(__name__)

ROLE: Final = "tallybook_writer"
POOL_SIZE: Final = 4
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
CLOSE_S: Final = 2.0
READY_S: Final = 2.0
STOPPING: Final = "the process is stopping"
UNCERTAIN_STATES: Final = ("08", "57P")
"""SQLSTATEs after which the commit may or may not have happened: connection, operator intervention."""
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


class PostgresLog:
    """Implements `commands.ports.Log`."""

    def __init__(self, url: str, role: str, pool: Pool, session: Session, writer: str) -> None:
        self._url = url
        self._role = role
        self._pool = pool
        self._writer = writer
        self._session: Session | None = session
        self._incarnation = session.incarnation
        self._queue = Queue()
        self._committed = asyncio.Event()
        self._idle = asyncio.Event()
        self._closing = False

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, role: str = ROLE) -> AsyncIterator["PostgresLog"]:
        """Connects first: `LogUnavailable` if that fails."""
        writer = str(uuid7())
        async with open_pool(url, role, size=POOL_SIZE, autocommit=True) as pool:
            log = cls(url, role, pool, await Session.begin(url, role, writer), writer)
            writing = asyncio.create_task(log._write(), name="write the log")
            waking = asyncio.create_task(
                wake_readers(url, role, log._committed), name="wake the log's readers"
            )
            try:
                yield log
            finally:
                await log._close(writing)
                waking.cancel()
                await asyncio.wait({waking})

    @property
    def incarnation(self) -> str:
        return self._incarnation

    async def ready(self) -> bool:
        """Whether appends and reads find a connection."""
        if self._session is None or self._closing:
            return False
        try:
            async with self._pool.connection(READY_S) as connection:
                await connection.execute("select 1")
        except (psycopg.OperationalError, PoolTimeout):
            return False
        return True

    async def append(self, append: Append) -> Verdict:
        check(append)
        encoded = Encoded.of(append)
        if self._closing:
            raise LogUnavailable(STOPPING)
        waiting = self._queue.put(encoded)
        self._idle.clear()
        return await waiting.verdict

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found: dict[str, list[Recorded]] = {stream: [] for stream in after}
        for row in await self._rows(_STREAMS, (list(after), list(after.values()))):
            recorded = recorded_of(row)
            found[recorded.stream].append(recorded)
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
            if not self._queue:
                self._idle.set()
            if self._session is None:
                try:
                    self._session = await Session.begin(self._url, self._role, self._writer)
                except Exception as away:  # noqa: BLE001 - the writer must live on; logged, and told to who waits
                    logger.warning("the log cannot be reached, again in %.2f s: %s", pause, away)
                    _fail(self._queue.take_all(), LogUnavailable, away)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    continue
                self._incarnation = self._session.incarnation
                pause = FIRST_PAUSE_S
            await self._queue.not_empty()
            await self._commit(self._session, self._queue.next_batch())

    async def _commit(self, session: Session, batch: list[Waiting]) -> None:
        encoded = [waiting.encoded for waiting in batch]
        try:
            parameters = parameters_of(encoded, session.lanes)
        except Exception as faulty:
            logger.exception("a batch that cannot be sent")
            self._sort_faulty(batch, faulty)
            return
        try:
            await reached("before_commit")
            with SECONDS.time():
                row = await session.append(parameters)
            await reached("after_commit_before_answer")
            verdicts = verdicts_of(encoded, row, session.lanes)
        except asyncio.CancelledError:
            _fail(batch, OutcomeUnknown, STOPPING)
            raise
        except Exception as failed:  # noqa: BLE001 - whatever it was, each caller is told what it means
            await self._sort_out(session, batch, failed)
            return
        BATCHES.observe(len(batch))
        self._committed.set()
        for waiting, verdict in zip(batch, verdicts, strict=True):
            waiting.answer(verdict)

    async def _sort_out(self, session: Session, batch: list[Waiting], failed: Exception) -> None:
        """What a failed call means: refused by the database, so nothing is there; or nobody knows yet."""
        state = failed.sqlstate if isinstance(failed, psycopg.Error) else None
        if session.broken or state is None or state.startswith(UNCERTAIN_STATES):
            logger.warning("the outcome of %d appends is unknown: %s", len(batch), failed)
            UNKNOWN.inc(len(batch))
            _fail(batch, OutcomeUnknown, failed)
        elif state.startswith(FAULTY_STATES):
            self._sort_faulty(batch, failed)
            return
        else:
            logger.warning("%d appends were not accepted: %s", len(batch), failed)
            _fail(batch, LogUnavailable, failed)
        self._session = None
        await session.close()

    def _sort_faulty(self, batch: list[Waiting], faulty: Exception) -> None:
        """Nothing of the batch is there, and one of its appends is to blame."""
        if len(batch) > 1:
            self._queue.try_alone(batch)
        else:
            logger.error("an append that the log does not take: %s", faulty)
            _fail(batch, ValueError, faulty)

    async def _close(self, writing: asyncio.Task[None]) -> None:
        """Answer who waits, for a bounded time; nobody new is let in."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._idle.wait()
        writing.cancel()
        await asyncio.wait({writing})
        _fail(self._queue.take_all(), LogUnavailable, STOPPING)
        if self._session is not None:
            await self._session.close()


def _fail(batch: Iterable[Waiting], kind: type[Exception], reason: object) -> None:
    """Each gets an exception of its own: who raises one adds to its traceback."""
    for waiting in batch:
        waiting.fail(kind(str(reason)))
