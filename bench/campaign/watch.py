"""What relays and projectors say of themselves meanwhile, summed over all that lived, and their memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from bench.campaign.client import Client
from bench.campaign.house import figure_of
from bench.campaign.schedule import PROJECTOR, RELAY
from bench.processes import peak_mb
from runtime.stopping import cancel

EVERY_S: Final = 0.5
WATCHED: Final = (RELAY, f"{RELAY} 2", PROJECTOR, f"{PROJECTOR} 2")
COUNTERS: Final = {
    "duplicates_ignored": "tallybook_projector_duplicates_total",
    "foreign_dropped": "tallybook_projector_foreign_total",
    "strange_dropped": "tallybook_projector_strange_messages_total",
    "gap_fills": "tallybook_projector_gaps_total",
    "events_from_the_log": "tallybook_projector_log_events_total",
    "events_applied": "tallybook_projector_applied_events_total",
    "streams_parked": "tallybook_projector_parkings_total",
    "relay_failures": "tallybook_relay_failures_total",
}


class Watch:
    """What a process counted in the half second before it was killed is not in the sums."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counted: dict[tuple[str, int, str], float] = {}
        self.peaks_mb: dict[str, float] = {}

    def total(self, counter: str) -> float:
        return sum(count for (_, _, name), count in self._counted.items() if name == counter)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            await cancel(task)
            await self._look()

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(EVERY_S)

    async def _look(self) -> None:
        await asyncio.gather(*(self._look_at(name) for name in WATCHED))

    async def _look_at(self, name: str) -> None:
        record = self._client.house.record(name)
        if record is None:
            return
        try:
            peak = peak_mb(record.pid)
        except (OSError, RuntimeError):  # it has ended meanwhile
            return
        kind = name.partition(" ")[0]
        self.peaks_mb[kind] = max(peak, self.peaks_mb.get(kind, 0.0))
        if text := await self._client.told_by(name):
            for counter, metric in COUNTERS.items():
                self._counted[name, record.pid, counter] = figure_of(text, metric)
