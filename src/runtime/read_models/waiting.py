"""Who asks for more than a read model has applied sleeps here until it has.

However many wait, one connection listens for the projector's notifications, and each is followed by one look
at the checkpoints of the builds that are served; those whose positions are reached are woken, nobody else.
Being woken promises nothing: whoever was asks again, in a snapshot of its own.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from prometheus_client import Counter, Gauge
from psycopg_pool import PoolTimeout

from projections.ports import TooManyWaiting
from runtime.postgres import Pool, fetch
from runtime.read_models.builds import Lane
from runtime.stopping import cancel
from runtime.waking import first_of, hear

logger = logging.getLogger(__name__)

CHANNEL: Final = "tallybook_read"
POLL_S: Final = 0.05
"""Between two looks while somebody waits and nothing is heard: what a lost notification costs."""
LOOK_S: Final = 5.0
MAX_WAITING: Final = 500
"""Half of the requests that a door takes at once: they leave room for those that wait for nothing."""
_LOOK: Final[LiteralString] = (
    "select declaration, context, lane, position from read.checkpoints join read.builds using (build)"
    " where served and declaration = any(%s)"
)

WAITING: Final = Gauge("tallybook_read_waiting", "Queries that wait for a read model to come further")
LOOKS: Final = Counter("tallybook_read_looks", "Looks at how far read models have come, for whoever waits")

Positions = Mapping[Lane, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    declaration: str
    wanted: Positions
    woken: asyncio.Event


class Arrivals:
    """`looks`: how many there were. Who has asked in vain says how many when it asked."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._heard = asyncio.Event()
        self._awaited = asyncio.Event()
        self._waiters: set[_Waiter] = set()
        self._stood: Mapping[str, Positions] = {}
        self.looks = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, pool: Pool, role: str) -> AsyncIterator["Arrivals"]:
        arrivals = cls(pool)
        hearing = asyncio.create_task(hear(pool.url, role, CHANNEL, arrivals._heard), name="hear rows come")
        watching = asyncio.create_task(arrivals._watch(), name="watch rows come")
        try:
            yield arrivals
        finally:
            await cancel(hearing)
            await cancel(watching)

    async def wait(self, declaration: str, wanted: Positions, since: int, seconds: float) -> None:
        """Until its served build may have come so far, or the time is over. Raises TooManyWaiting."""
        if len(self._waiters) >= MAX_WAITING:
            raise TooManyWaiting
        waiter = _Waiter(declaration, wanted, asyncio.Event())
        if self.looks != since and _reached(waiter, self._stood):
            return
        self._waiters.add(waiter)
        self._awaited.set()
        try:
            with WAITING.track_inprogress():
                await first_of(waiter.woken, seconds)
        finally:
            self._waiters.discard(waiter)

    async def _watch(self) -> None:
        while True:
            await self._awaited.wait()
            if not self._waiters:
                self._awaited.clear()
                continue
            await first_of(self._heard, POLL_S)
            self._heard.clear()
            try:
                self._stood = await self._look()
            except (psycopg.Error, PoolTimeout) as away:
                logger.warning("cannot see how far read models have come: %s", away)
                await asyncio.sleep(POLL_S)
                continue
            self.looks += 1
            for waiter in self._waiters:
                if _reached(waiter, self._stood):
                    waiter.woken.set()

    async def _look(self) -> Mapping[str, Positions]:
        LOOKS.inc()
        declarations = {waiter.declaration for waiter in self._waiters}
        found = await fetch(self._pool, _LOOK, [sorted(declarations)], seconds=LOOK_S)
        stood: dict[str, dict[Lane, int]] = defaultdict(dict)
        for declaration, context, lane, position in found:
            stood[declaration][context, lane] = position
        return stood


def _reached(waiter: _Waiter, stood: Mapping[str, Positions]) -> bool:
    """A lane that the build does not have keeps nobody waiting: the query itself refuses it."""
    positions = stood.get(waiter.declaration)
    if positions is None:
        return False
    return all(positions.get(lane, position) >= position for lane, position in waiter.wanted.items())
