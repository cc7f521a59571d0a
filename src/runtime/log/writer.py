"""The one writer of a process: batches of appends, two in flight, and what becomes of a lost connection.

A batch grows by itself under load; an idle connection never waits for one to fill. When the connection breaks
while a batch is in flight, nobody knows whether it was committed. The writer then begins a new generation,
after which nothing of the old one can be committed any more, looks for the event ids, and sends again what is
not there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import psycopg
from prometheus_client import Counter, Histogram
from psycopg import pq

from commands.ports import Append, Appended, LogUnavailable, OutcomeUnknown
from domain.envelope import Recorded
from runtime.log.batch import Encoded, judged, parameters_of
from runtime.log.queue import Queue, Waiting
from runtime.log.session import CALL_S, Session
from runtime.points import reached

logger = logging.getLogger(__name__)

IN_FLIGHT: Final = 2
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.25
AWAY_S: Final = 5.0
"""How long the log may be away before those who wait are told so."""
MAX_SENT: Final = 3
"""After so many broken connections nobody sends an append once more."""
CLOSE_S: Final = 2.0
STOPPING: Final = "the process is stopping"
UNCERTAIN_STATES: Final = ("08", "57P")
"""SQLSTATEs after which the commit may or may not have happened: connection, operator intervention."""
DEADLY: Final = ("FATAL", "PANIC")
FAULTY_STATES: Final = ("22", "23", "TB003")
"""What one append of a batch can be the fault of; the others are tried again without it."""

BATCHES = Histogram(
    "tallybook_log_batch_appends", "Appends in one call", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
SECONDS = Histogram("tallybook_log_append_seconds", "Time of one call")
UNKNOWN = Counter("tallybook_log_unknown_outcomes", "Appends whose connection broke while committing")
SETTLED = Counter("tallybook_log_settled_outcomes", "Those of them that turned out to be committed")

Answer = asyncio.Future[pq.abc.PGresult]
Begin = Callable[[], Awaitable[Session]]
Find = Callable[[Sequence[str]], Awaitable[Mapping[str, Recorded]]]
"""Events by id; those that are not there are missing. `LogUnavailable`."""


class Writer:
    def __init__(self, session: Session, begin: Begin, find: Find) -> None:
        self._session: Session | None = session
        self._begin = begin
        self._find = find
        self._queue = Queue()
        self._flying: set[asyncio.Task[None]] = set()
        self._unsettled: list[Waiting] = []
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._closing = False
        self._head: int | None = None
        self._others_write = False
        self.incarnation = session.incarnation
        self.committed = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._session is not None and not self._closing

    def put(self, encoded: Encoded) -> Waiting:
        """`LogFull`; `LogUnavailable` when it is closing."""
        if self._closing:
            raise LogUnavailable(STOPPING)
        waiting = self._queue.put(encoded)
        self._idle.clear()
        self._changed.set()
        return waiting

    async def run(self) -> None:
        """As long as the log is open, whatever happens to a batch."""
        while True:
            self._changed.clear()
            if self._session is not None and self._session.broken:
                await self._leave(self._session)
            while self._session and self._queue and len(self._flying) < self._may_fly():
                half = not self._flying and self._may_fly() > 1
                await self._send(self._session, self._queue.next_batch(half=half))
            if self._session is None and not self._flying:
                await self._begin_again()
                continue
            if not self._queue and not self._flying:
                self._idle.set()
            await self._changed.wait()

    async def close(self, running: asyncio.Task[None]) -> None:
        """Answer who waits, for a bounded time; nobody new is let in."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._idle.wait()
        running.cancel()
        await asyncio.wait({running})
        if self._flying:
            for task in self._flying:
                task.cancel()
            await asyncio.wait({*self._flying})
        _fail(self._unsettled, OutcomeUnknown, STOPPING)
        _fail(self._queue.take_all(), LogUnavailable, STOPPING)
        if self._session is not None:
            await self._session.close()

    def _may_fly(self) -> int:
        """How many batches: while other processes write, each waits for its turn, and few turns cost less."""
        return 1 if self._others_write else IN_FLIGHT

    async def _send(self, session: Session, batch: list[Waiting]) -> None:
        try:
            parameters = parameters_of([waiting.encoded for waiting in batch], session.lanes)
        except Exception as faulty:
            logger.exception("a batch that cannot be sent")
            self._sort_faulty(batch, faulty)
            return
        try:
            await reached("before_commit")
        except asyncio.CancelledError:
            self._queue.put_back(batch)
            raise
        flying = asyncio.create_task(
            self._commit(session, batch, session.append(parameters)), name="a batch in flight"
        )
        self._flying.add(flying)
        flying.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._changed.set()

    async def _commit(self, session: Session, batch: list[Waiting], answer: Answer) -> None:
        try:
            with SECONDS.time():
                async with asyncio.timeout(CALL_S):
                    result = await answer
            await reached("after_commit_before_answer")
            verdicts, before, after = judged([waiting.encoded for waiting in batch], result, session.lanes)
        except asyncio.CancelledError:
            _fail(batch, OutcomeUnknown, STOPPING)
            raise
        except Exception as failed:  # noqa: BLE001 - whatever it was, each caller is told what it means
            await self._sort_out(session, batch, failed)
            return
        self._others_write = self._head not in (None, before)
        self._head = after
        BATCHES.observe(len(batch))
        self.committed.set()
        for waiting, verdict in zip(batch, verdicts, strict=True):
            waiting.answer(verdict)

    async def _sort_out(self, session: Session, batch: list[Waiting], failed: Exception) -> None:
        """What a failed call means: refused by the database, so nothing is there; or nobody knows yet."""
        state = failed.sqlstate if isinstance(failed, psycopg.Error) else None
        if isinstance(failed, psycopg.Error) and failed.diag.severity_nonlocalized in DEADLY:
            state = None  # the session or the server ended, perhaps after the commit
        if state is not None and state.startswith(FAULTY_STATES):
            self._sort_faulty(batch, failed)
            return
        if state is None or state.startswith(UNCERTAIN_STATES):
            logger.warning("the outcome of %d appends is unknown: %s", len(batch), failed)
            UNKNOWN.inc(len(batch))
            self._unsettled += batch
        else:
            logger.warning("%d appends were not accepted: %s", len(batch), failed)
            _fail(batch, LogUnavailable, failed)
        await self._leave(session)

    async def _leave(self, session: Session) -> None:
        if self._session is session:
            self._session = None
            await session.close()

    def _sort_faulty(self, batch: list[Waiting], faulty: Exception) -> None:
        """Nothing of the batch is there, and one of its appends is to blame."""
        if len(batch) > 1:
            for waiting in batch:
                waiting.alone = True
            self._queue.put_back(batch)
        else:
            logger.error("an append that the log does not take: %s", faulty)
            _fail(batch, ValueError, faulty)

    async def _begin_again(self) -> None:
        """A new session, and the unknown outcomes settled; if the log stays away, who waits is told."""
        deadline = asyncio.get_running_loop().time() + AWAY_S
        pause = FIRST_PAUSE_S
        while self._session is None:
            try:
                session = await self._begin()
                try:
                    await self._settle()
                except BaseException:
                    await session.close()
                    raise
            except Exception as away:  # noqa: BLE001 - the writer must live on; logged, and told to who waits
                logger.warning("the log cannot be reached, again in %.2f s: %s", pause, away)
                if asyncio.get_running_loop().time() > deadline:
                    _fail(self._unsettled, OutcomeUnknown, away)
                    self._unsettled.clear()
                    _fail(self._queue.take_all(), LogUnavailable, away)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._session = session
                self.incarnation = session.incarnation

    async def _settle(self) -> None:
        """What was committed is answered, what was not is sent again: the generation that sent it is over."""
        appends = [waiting.encoded.append for waiting in self._unsettled]
        found = await self._find([new.event_id for append in appends for new in append.events])
        again = []
        for waiting, append in zip(self._unsettled, appends, strict=True):
            waiting.sent += 1
            if _was_committed(append, found):
                SETTLED.inc()
                waiting.answer(Appended(tuple(found[new.event_id] for new in append.events)))
            elif waiting.sent < MAX_SENT:
                again.append(waiting)
            else:
                waiting.fail(LogUnavailable(f"the connection broke {MAX_SENT} times"))
        self._unsettled.clear()
        self._queue.put_back(again)
        if found:
            self.committed.set()


def _was_committed(append: Append, found: Mapping[str, Recorded]) -> bool:
    """An id alone proves nothing: by mistake it may be that of an event which the log had already."""
    if not append.events or not all(new.event_id in found for new in append.events):
        return False
    stream = append.events[0].stream
    first = found[append.events[0].event_id]
    return (first.stream, first.version) == (stream, append.tips[stream].version + 1)


def _fail(batch: Iterable[Waiting], kind: type[Exception], reason: object) -> None:
    """Each gets an exception of its own: who raises one adds to its traceback."""
    for waiting in batch:
        waiting.fail(kind(str(reason)))
