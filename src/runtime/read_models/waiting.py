"""Who asks for more than a read model has applied sleeps here until it has.

However many wait, one connection listens for the projector's notifications, and each is followed by one look
at the checkpoints of the builds that are served; those whose positions are reached are woken, nobody else.
Being woken promises nothing: whoever was asks again, in a snapshot of its own.
"""

import asyncio
import logging
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
    "select declaration, incarnation::text, context, lane, position"
    " from read.checkpoints join read.builds using (build) where served and declaration = any(%s)"
)

WAITING: Final = Gauge("tallybook_read_waiting", "Queries that wait for a read model to come further")
LOOKS: Final = Counter("tallybook_read_looks", "Looks at how far read models have come, for whoever waits")

Positions = Mapping[Lane, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How far the served build of a declaration is to have come; of which log, if that was said."""

    declaration: str
    incarnation: str | None
    positions: Positions


@dataclass(frozen=True, slots=True)
class _Stood:
    incarnation: str
    positions: dict[Lane, int]

    def reached(self, wanted: Wanted) -> bool:
        """Nobody waits for another log, or for a lane that the build has not: the query refuses that."""
        return wanted.incarnation not in (None, self.incarnation) or all(
            self.positions.get(lane, position) >= position for lane, position in wanted.positions.items()
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    wanted: Wanted
    woken: asyncio.Event


class Arrivals:
    """`looks`: how many there were. Who has asked in vain says how many when it asked."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._heard = asyncio.Event()
        self._awaited = asyncio.Event()
        self._waiters: set[_Waiter] = set()
        self._stood: Mapping[str, _Stood] = {}
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

    def expects(self, wanted: Wanted) -> bool:
        """Whether it was not there yet at the last look: to ask for rows would be in vain, to wait is not.

        If it has come there since, that was heard, or will be, and another look follows at once.
        """
        stood = self._stood.get(wanted.declaration)
        return stood is not None and not stood.reached(wanted)

    async def wait(self, wanted: Wanted, since: int, seconds: float) -> None:
        """Until it may have come there, or the time is over. Raises TooManyWaiting."""
        if len(self._waiters) >= MAX_WAITING:
            raise TooManyWaiting
        if self.looks != since and self._is_there(wanted):
            return
        waiter = _Waiter(wanted, asyncio.Event())
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
                if self._is_there(waiter.wanted):
                    waiter.woken.set()

    def _is_there(self, wanted: Wanted) -> bool:
        """At the last look."""
        stood = self._stood.get(wanted.declaration)
        return stood is not None and stood.reached(wanted)

    async def _look(self) -> Mapping[str, _Stood]:
        LOOKS.inc()
        declarations = {waiter.wanted.declaration for waiter in self._waiters}
        found = await fetch(self._pool, _LOOK, [sorted(declarations)], seconds=LOOK_S)
        stood: dict[str, _Stood] = {}
        for declaration, incarnation, context, lane, position in found:
            here = stood.setdefault(declaration, _Stood(incarnation, {}))
            here.positions[context, lane] = position
        return stood
