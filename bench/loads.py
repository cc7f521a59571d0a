"""The kinds of load on Tallybook's log. Each has a `once` that appends, and returns how many events it was.

Every append has one request, and is made on the tip of each stream that it writes.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench.payload import (
    FINGERPRINT,
    LOCATION,
    NOTE,
    STAFF,
    TRACE,
    append_of,
    digest,
    event,
    ids,
    metadata,
    sku_of,
)
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.ports import Append, Appended, Conflict, Issued, Log, NewEvent, Verdict
from commands.shop import Shop
from domain.envelope import Recorded, Tip

ORDER_STREAMS: Final = 4
AT_ONCE: Final = 500


class Spread:
    """A caller takes streams that no other is appending to, at random among many, and knows their tips."""

    def __init__(
        self, log: Log, tips: Mapping[str, Tip], *, events: int, digest: Callable[[], bytes] = digest
    ) -> None:
        self._log = log
        self._free = list(tips.items())
        self._events = events
        self._digest = digest

    async def once(self) -> int:
        """All events of an append go to one stream."""
        stream, tip = self._take()
        return await self._append({stream: tip}, [stream] * self._events)

    async def order(self) -> int:
        """Five events over four streams: two of one, as an order's, and one of each of the others."""
        tips = dict(self._take() for _ in range(ORDER_STREAMS))
        return await self._append(tips, [next(iter(tips)), *tips])

    async def _append(self, tips: dict[str, Tip], streams: Sequence[str]) -> int:
        events = _appended(await self._log.append(append_of(tips, streams, self._digest())))
        self._free += {one.stream: Tip(one.version, one.event_id) for one in events}.items()
        return len(events)

    def _take(self) -> tuple[str, Tip]:
        chosen = random.randrange(len(self._free))  # noqa: S311 - not a secret
        self._free[chosen], self._free[-1] = self._free[-1], self._free[chosen]
        return self._free.pop()


class Hot:
    """All callers append to one stream: each on the event that was queued before its own.

    The log judges appends in the order in which they came. When one conflicts, those that build on it do too;
    the first to learn it begins a new chain at the log's tip, and the others wait for that.
    """

    def __init__(self, log: Log, stream: str, tip: Tip) -> None:
        self._log = log
        self._stream = stream
        self._settled = tip
        self._queued = tip
        self._chain = 0
        self._may_queue = asyncio.Event()
        self._may_queue.set()
        self.conflicts = 0

    async def once(self) -> int:
        while True:
            await self._may_queue.wait()
            base, chain = self._queued, self._chain
            new = NewEvent(self._stream, ids.new(), event(self._stream))
            self._queued = Tip(base.version + 1, new.event_id)
            verdict = await self._log.append(
                Append({self._stream: base}, [new], metadata(), digest(), FINGERPRINT)
            )
            if not isinstance(verdict, Conflict):
                self._settle(_appended(verdict))
                return 1
            self.conflicts += 1
            if chain == self._chain:
                self._chain += 1
                await self._begin_chain()

    async def _begin_chain(self) -> None:
        self._may_queue.clear()
        found = await self._log.read_streams({self._stream: self._settled.version})
        self._settle(found[self._stream])
        self._queued = self._settled
        self._may_queue.set()

    def _settle(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if recorded.version > self._settled.version:
                self._settled = Tip(recorded.version, recorded.event_id)


class Deciding:
    """Stock is adjusted by the command handler: read, decide, append, on the tips of three streams.

    Everything of the write door but HTTP. As in `Spread`, no two callers adjust the same item at once, unless
    there is but one item.
    """

    def __init__(self, shop: Shop, items: Sequence[int]) -> None:
        self._shop = shop
        self._free = [sku_of(number) for number in items]
        self._hot = len(self._free) == 1

    async def once(self) -> int:
        if self._hot:
            return await self._adjust(self._free[0])
        chosen = random.randrange(len(self._free))  # noqa: S311 - not a secret
        self._free[chosen], self._free[-1] = self._free[-1], self._free[chosen]
        sku = self._free.pop()
        events = await self._adjust(sku)
        self._free.append(sku)
        return events

    async def every(self) -> None:
        """Adjust each item once, so that what is measured decides on states that are in memory."""
        for first in range(0, len(self._free), AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for sku in self._free[first : first + AT_ONCE]:
                    group.create_task(self._adjust(sku))

    async def _adjust(self, sku: str) -> int:
        issued = Issued(STAFF, ids.new(), ids.new(), digest(), FINGERPRINT, trace_id=TRACE)
        command = AdjustStock(sku, LOCATION, "found", delta=1, note=NOTE)
        return len((await adjust_stock(self._shop, issued, command)).events)


def _appended(verdict: Verdict) -> tuple[Recorded, ...]:
    if not isinstance(verdict, Appended):
        raise TypeError(f"not the verdict on a new request at the tip: {verdict}")
    return verdict.events
