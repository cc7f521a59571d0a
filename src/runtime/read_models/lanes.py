"""One lane of one build: applies what Kafka delivers while the chain holds, and reads the log where not."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from domain.envelope import Mark
from runtime.log.reading import LogReader
from runtime.messages import Delivery
from runtime.postgres import Pool
from runtime.read_models.apply import Step, apply
from runtime.read_models.builds import BuildGone, Lane, marks_of
from runtime.read_models.refusals import Arriving
from runtime.read_models.tables import Table

logger = logging.getLogger(__name__)

STEP_EVENTS: Final = 500
"""The most events of one transaction, where somebody waits for its rows."""
CATCH_UP_STEPS: Final = 20
"""The most transactions of one catch-up; then others have their turn."""

_LABELS: Final = ("model",)
APPLIED = Counter("tallybook_projector_applied_events", "Events folded into rows or passed over", _LABELS)
DUPLICATES = Counter("tallybook_projector_duplicates", "Messages that were applied before", _LABELS)
FOREIGN = Counter("tallybook_projector_foreign", "Messages of another incarnation of the log", _LABELS)
GAPS = Counter("tallybook_projector_gaps", "Gaps in the chain that were filled from the log", _LABELS)
FROM_LOG = Counter("tallybook_projector_log_events", "Events that were obtained from the log", _LABELS)
LOST = Counter("tallybook_projector_lost_steps", "Steps that another worker had taken already", _LABELS)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a lane works with. `pool` is the read models'; `applied` is set after each commit."""

    reader: LogReader
    pool: Pool
    incarnation: str
    applied: asyncio.Event = field(default_factory=asyncio.Event)


class FoldedLane:
    """One task at a time works on it; workers in other processes are told apart by the compare-and-set."""

    def __init__(self, sources: Sources, table: Table, lane: Lane, mark: Mark) -> None:
        self.table = table
        self.lane = lane
        self.mark = mark
        self._sources = sources
        self._busy = asyncio.Lock()

    def is_behind(self, heads: Mapping[Lane, Mark]) -> bool:
        head = heads.get(self.lane)
        return head is not None and self.mark.position < head.position

    def observe(self, stored: Mark) -> None:
        """Takes notice of where the checkpoint stands in the database."""
        if stored.position > self.mark.position:
            self.mark = stored

    async def catch_up(self, position: int) -> None:
        """From the log, up to a position, but no further than one turn's steps."""
        async with self._busy:
            await self._read_up_to(position)

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """In the order they arrived, which need not be the log's; what breaks the chain is read there."""
        model = self.table.model.name
        async with self._busy:
            run: list[Arriving] = []
            for delivery in deliveries:
                reached = run[-1].position if run else self.mark.position
                if delivery.incarnation != self._sources.incarnation:
                    FOREIGN.labels(model).inc()
                elif delivery.position <= reached:
                    DUPLICATES.labels(model).inc()
                elif delivery.previous != reached or (recorded := delivery.recorded) is None:
                    await self._apply(run)
                    run = []
                    await self._fill_gap(delivery.position)
                else:
                    run.append(recorded)
                    if len(run) == STEP_EVENTS:
                        await self._apply(run)
                        run = []
            await self._apply(run)

    async def _fill_gap(self, position: int) -> None:
        if position > self.mark.position:
            GAPS.labels(self.table.model.name).inc()
            await self._read_up_to(position)

    async def _read_up_to(self, position: int) -> None:
        context, lane = self.lane
        for _ in range(CATCH_UP_STEPS):
            if self.mark.position >= position:
                return
            stored = await self._sources.reader.read_lane(
                context, lane, after=self.mark.position, upto=position, limit=STEP_EVENTS
            )
            if not stored:
                return
            FROM_LOG.labels(self.table.model.name).inc(len(stored))
            await self._apply([LogReader.decode_or_not(event) for event in stored])

    async def _apply(self, events: Sequence[Arriving]) -> None:
        """If another worker was first, what is left to do is left to the next delivery or look at the log."""
        if not events:
            return
        context, lane = self.lane
        step = Step(context, lane, self._sources.incarnation, self.mark, events)
        async with self._sources.pool.connection() as connection:
            if await apply(connection, self.table, step):
                self._sources.applied.set()
                self.observe(step.after)
                APPLIED.labels(self.table.model.name).inc(len(events))
                return
            LOST.labels(self.table.model.name).inc()
            stored = (await marks_of(connection, self.table.build)).get(self.lane)
        if stored is None or stored.position <= step.before.position:
            raise BuildGone(
                f"{self.table.build}: {context}, lane {lane} stands at {stored}, not {step.before}"
            )
        self.observe(stored)
