"""The auditor's half for a door: what is synchronous is done in threads, so many at once and only so long."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from eventsourcing.persistence import InterfaceError, OperationalError

from domain.envelope import Mark
from runtime.audit_log.history import History
from runtime.audit_log.mapper import Kept
from runtime.audit_log.subscription import Watch

logger = logging.getLogger(__name__)

THREADS: Final = 8
WAIT_S: Final = 5.0
"""For a connection."""
ANSWER_S: Final = 15.0
"""For a thread, a connection and the answer: shorter than a request of the door may take."""
AWAY_PAUSE_S: Final = 1.0
LOOK_S: Final = 5.0
"""How long a subscription sleeps at most, whatever becomes of what should wake it."""

R = TypeVar("R")


class HistoryAway(Exception):
    """The history cannot be read at present."""


class ThreadedHistory:
    """Implements `api.audit.ports.History`. Every call raises HistoryAway, but the subscription waits.

    Who is cancelled has only stopped waiting: the thread comes to its end, which is bounded, and gives its
    connection back.
    """

    def __init__(self, history: History, threads: ThreadPoolExecutor) -> None:
        self._history = history
        self._threads = threads
        self._watch: Watch | None = None
        self._woken: set[asyncio.Event] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["ThreadedHistory"]:
        with ExitStack() as opened:
            history = opened.enter_context(History.open(url, wait_s=WAIT_S))
            threads = opened.enter_context(ThreadPoolExecutor(THREADS, "read the history"))
            threaded = cls(history, threads)
            try:
                yield threaded
            finally:
                opened.callback(threaded._stop)
                await asyncio.to_thread(opened.close)

    async def head(self) -> int:
        return await self._ask(self._history.head)

    async def incarnation(self) -> str:
        return await self._ask(self._history.incarnation)

    async def heads(self, upto: int) -> Mapping[tuple[str, int], Mark]:
        return await self._ask(self._history.heads, upto)

    async def position_at(self, at: datetime) -> int:
        return await self._ask(self._history.position_at, at)

    async def read(self, after: int, limit: int) -> Sequence[Kept]:
        return await self._ask(self._history.read, after, limit)

    async def read_stream(self, stream: str, *, after_version: int, limit: int) -> Sequence[Kept]:
        return await self._ask(
            partial(self._history.read_stream, stream, after_version=after_version, limit=limit)
        )

    async def read_context(self, context: str, *, after: int, upto: int, limit: int) -> Sequence[Kept]:
        return await self._ask(
            partial(self._history.read_context, context, after=after, upto=upto, limit=limit)
        )

    async def read_positions(self, positions: Sequence[int]) -> Sequence[Kept]:
        return await self._ask(self._history.read_positions, positions)

    async def event(self, event_id: str) -> Kept | None:
        return await self._ask(self._history.event, event_id)

    async def subscribe(self, after: int, limit: int) -> AsyncGenerator[Sequence[Kept]]:
        """Batches of events after a position, for ever. A database that is away is waited for."""
        woken = asyncio.Event()
        self._wake(woken)
        try:
            while True:
                woken.clear()
                try:
                    batch = await self.read(after, limit)
                except HistoryAway as away:
                    logger.warning("the log cannot be read, again in %.1f s: %s", AWAY_PAUSE_S, away)
                    await asyncio.sleep(AWAY_PAUSE_S)
                    continue
                if batch:
                    after = batch[-1].position
                    yield batch
                else:
                    await _first_of(woken, LOOK_S)
        finally:
            self._woken.discard(woken)

    def _wake(self, woken: asyncio.Event) -> None:
        """Whenever the log has grown: one watch does for all who follow it."""
        self._woken.add(woken)
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = self._history.watch(partial(loop.call_soon_threadsafe, self._wake_all))
            self._watch.start()

    def _wake_all(self) -> None:
        for woken in self._woken:
            woken.set()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch.join()

    async def _ask(self, read: Callable[..., R], *arguments: object) -> R:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await loop.run_in_executor(self._threads, read, *arguments)
        except TimeoutError:
            raise HistoryAway(f"no answer in {ANSWER_S:.1f} s") from None
        except (InterfaceError, OperationalError) as away:
            raise HistoryAway(str(away)) from away


async def _first_of(woken: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return
