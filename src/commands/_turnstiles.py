"""Callers of a hot stream queue in the process, first come, first served.

Only a courtesy that keeps them from conflicting with each other; correctness rests on the tips.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from commands.ports import Contended

MAX_TURNSTILES: Final = 8
"""A command that writes more streams than this queues at the first of them only."""


class Turnstiles:
    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def through(self, streams: Iterable[str], deadline: float) -> AsyncIterator[None]:
        """Hold the streams' turnstiles. `Contended` at the deadline, by the running loop's clock."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(deadline):
                    for name in sorted(streams)[:MAX_TURNSTILES]:
                        lock = self._locks.setdefault(name, asyncio.Lock())
                        await held.enter_async_context(lock)
            except TimeoutError:
                raise Contended from None
            yield
