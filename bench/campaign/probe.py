"""Whether all is well: a fresh write is acknowledged, every read model shows it, and nobody is far behind."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from psycopg import OperationalError

from bench.campaign.recovery import Look, recovered_at
from bench.campaign.traffic import PROBE, Traffic
from runtime.databases import DatabaseUnusable
from runtime.status import progress_of
from runtime.stopping import cancel

BEHIND: Final = 50
"""Positions; from so many on a reader is behind."""
LOOK_S: Final = 10.0
LONGEST_S: Final = 120.0
BETWEEN_S: Final = 0.05
KEPT: Final = 1_000
"""Looks: those of the last minute, at least."""


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
        except (OperationalError, DatabaseUnusable) as away:
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
        """The relay, the policies, every read model; event_index, which no token asks for, too."""
        progress = await progress_of(self._client.house.settings)
        readers = (*progress.relays, *progress.policies)
        behind = {one.name: one.positions for one in readers} | {
            one.build: one.positions for one in progress.builds
        }
        if late := {name: positions for name, positions in behind.items() if positions >= BEHIND}:
            self.what = f"behind: {late}"
        return not late
