"""Whether all is well: a fresh write is acknowledged, every read model shows it, and nobody is far behind."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import fmean
from time import monotonic
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, OperationalError

from bench.campaign.recovery import Look, recovered_at
from bench.campaign.traffic import PROBE, Traffic
from runtime.settings import Settings
from runtime.stopping import cancel

BEHIND: Final = 50
"""Events; from so many on a reader is behind."""
CONNECT_S: Final = 2
LOOK_S: Final = 10.0
LONGEST_S: Final = 120.0
BETWEEN_S: Final = 0.1
CALM_S: Final = 10.0
KEPT: Final = 1_000
"""Looks: those of the last minute, at least."""


_PLACES: Final[LiteralString] = (
    "select model, context, lane, position from read.checkpoints join read.builds using (build) where served"
)
_EVENTS: Final[LiteralString] = (
    "select model, coalesce(sum(events), 0)::int"
    " from unnest(%s::text[], %s::text[], %s::smallint[], %s::bigint[]) at (model, context, lane, position)"
    " cross join lateral (select count(*) as events from log.events e where e.context = at.context"
    "   and e.lane = at.lane and e.position > at.position) lane group by model"
)
_POLICIES: Final[LiteralString] = (
    "select policy, (head - position)::int from policies.checkpoint"
    " cross join (select coalesce(max(position), 0) as head from log.events) log"
)
_RELAY: Final[LiteralString] = (
    "select max(e.position) - (select position from relay.checkpoint where name = 'kafka') from log.events e"
)


class NotRecovered(RuntimeError):
    """A fault is still felt after two minutes."""


class Probe:
    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._client = traffic.client
        self._looks: deque[Look] = deque(maxlen=KEPT)
        self.what = ""
        """What was not well, the last time."""

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """One look after the other."""
        task = asyncio.create_task(self._look_again_and_again())
        try:
            yield
        finally:
            await cancel(task)

    async def calm(self) -> float:
        """The share of looks that find something amiss while nothing strikes: faults are held against it.

        ValueError where there was no look.
        """
        before = len(self._looks)
        await asyncio.sleep(CALM_S)
        found = list(self._looks)[before:]
        return fmean(not look.finds_it_well for look in found)

    async def recovered(self, began: float) -> float:
        """After how many seconds it was, from that moment on the monotonic clock. Raises NotRecovered."""
        until = monotonic() + LONGEST_S
        while (found := recovered_at(self._looks, began)) is None:
            if monotonic() > until:
                raise NotRecovered(self.what)
            await asyncio.sleep(BETWEEN_S)
        return found - began

    async def _look_again_and_again(self) -> None:
        while True:
            self._looks.append(await self.look())
            await asyncio.sleep(BETWEEN_S)

    async def look(self) -> Look:
        began = monotonic()
        try:
            async with asyncio.timeout(LOOK_S):
                well = await self._shows_a_write() and await self._nobody_is_behind()
        except TimeoutError:
            well, self.what = False, f"no answer in {LOOK_S:.0f} s"
        except OperationalError as away:
            well, self.what = False, str(away)
        return Look(began, monotonic(), well)

    async def _shows_a_write(self) -> bool:
        placed = await self._traffic.order(PROBE, 1)
        if placed.fate != "acknowledged":
            self.what = f"an order is {placed.fate}: {placed.body}"
            return False
        today = datetime.now(UTC).date()
        item, order_id = self._traffic.items[PROBE], placed.body["order_id"]
        for role, path in (
            ("support", f"/orders/{order_id}"),
            ("support", "/orders?limit=1"),
            ("customer", f"/stock/{PROBE}"),
            ("customer", f"/products/{item.product_id}"),
            ("customer", "/products?limit=1"),
            ("finance", f"/reports/sales_daily?from={today}&to={today}"),
            ("auditor", f"/feed?after={placed.body['events'][0]['position'] - 1}&limit=1"),
        ):
            if await self._client.get(role, path, placed.token, 1) is None:
                self.what = f"{path} does not show what was written"
                return False
        return True

    async def _nobody_is_behind(self) -> bool:
        """No read model that is served, nor a policy."""
        behind = await behind_of(self._client.house.settings)
        if late := {name: events for name, events in behind.items() if events >= BEHIND}:
            self.what = f"behind: {late}"
        return not late


async def behind_of(settings: Settings) -> Mapping[str, int]:
    """How many events each has still to read. Raises psycopg's OperationalError.

    Counted: a lane's positions say less, for those of the other lanes lie in between.
    """
    async with await _owner(settings.read_migration_database_url) as read:
        places = await (await read.execute(_PLACES)).fetchall()
    columns = [list(column) for column in zip(*places, strict=True)] or [[], [], [], []]
    async with await _owner(settings.migration_database_url) as log:
        lanes = await (await log.execute(_EVENTS, columns)).fetchall()
        policies = await (await log.execute(_POLICIES)).fetchall()
    return {**dict(lanes), **dict(policies)}


async def relay_behind(settings: Settings) -> int:
    """How many events Kafka does not have. Raises psycopg's OperationalError."""
    async with await _owner(settings.migration_database_url) as log:
        found = await (await log.execute(_RELAY)).fetchone()
    return int(found[0]) if found else 0


async def _owner(url: str) -> AsyncConnection[tuple[Any, ...]]:
    """Who may see every checkpoint."""
    return await AsyncConnection.connect(url, autocommit=True, connect_timeout=CONNECT_S)
