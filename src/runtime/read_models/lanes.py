"""The lanes of a build: they apply what Kafka delivers while the chain holds, and read the log where not."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from domain.envelope import Mark
from runtime.log.reading import LogReader
from runtime.messages import Delivery
from runtime.postgres import Pool
from runtime.read_models.apply import Step, apply
from runtime.read_models.builds import NOWHERE, AheadOfLog, BuildGone, Lane, marks_of
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
    """What a lane works with. `pool` is the read models'.

    `applied` is set whenever rows may have come from the log; whoever delivers sets it for all that arrived.
    """

    reader: LogReader
    pool: Pool
    incarnation: str
    applied: asyncio.Event = field(default_factory=asyncio.Event)


class FoldedLane:
    """One task at a time works on it; workers in other processes are told apart by the compare-and-set."""

    def __init__(self, sources: Sources, table: Table, lane: Lane, mark: Mark) -> None:
        self.sources = sources
        self.table = table
        self.lane = lane
        self.mark = mark
        self.busy = asyncio.Lock()

    def is_behind(self, heads: Mapping[Lane, Mark]) -> bool:
        head = heads.get(self.lane)
        return head is not None and self.mark.position < head.position

    def observe(self, stored: Mark) -> None:
        """Takes notice of where the checkpoint stands in the database."""
        if stored.position > self.mark.position:
            self.mark = stored

    async def catch_up(self, position: int) -> None:
        """From the log, up to a position, but no further than one turn's steps."""
        async with self.busy:
            await self._read_up_to(position)

    def next_step(self, arriving: deque[Delivery], limit: int) -> Step | None:
        """Takes what follows on, and what is to be dropped, up to what breaks the chain."""
        model, reached = self.table.model.name, self.mark.position
        run: list[Arriving] = []
        while arriving and len(run) < limit:
            delivery = arriving[0]
            if delivery.incarnation != self.sources.incarnation:
                FOREIGN.labels(model).inc()
            elif delivery.position <= reached:
                DUPLICATES.labels(model).inc()
            elif delivery.previous != reached or (recorded := delivery.recorded) is None:
                break
            else:
                run.append(recorded)
                reached = delivery.position
            arriving.popleft()
        return self._step(self.mark, run) if run else None

    async def fill_gap(self, position: int) -> None:
        if position > self.mark.position:
            GAPS.labels(self.table.model.name).inc()
            await self._read_up_to(position)

    async def _read_up_to(self, position: int) -> None:
        for _ in range(CATCH_UP_STEPS):
            if self.mark.position >= position:
                return
            before = self.mark  # others move it meanwhile: what is read here follows on this one
            stored = await self.sources.reader.read_lane(
                *self.lane, after=before.position, upto=position, limit=STEP_EVENTS
            )
            if not stored:
                return
            FROM_LOG.labels(self.table.model.name).inc(len(stored))
            events = [LogReader.decode_or_not(event) for event in stored]
            await _take({self: self._step(before, events)})
            self.sources.applied.set()

    def _step(self, before: Mark, events: Sequence[Arriving]) -> Step:
        return Step(*self.lane, self.sources.incarnation, before, events)


def require_in_log(stood: Mapping[FoldedLane, Mark], heads: Mapping[Lane, Mark]) -> None:
    """`heads`: the log's, read after the lanes stood at these marks. Raises AheadOfLog."""
    for lane, mark in stood.items():
        head = heads.get(lane.lane, NOWHERE)
        if mark.position > head.position or (mark.position == head.position and mark != head):
            raise AheadOfLog(lane.table, lane.lane, mark)


async def deliver(arrived: Mapping[FoldedLane, Sequence[Delivery]]) -> None:
    """To lanes of one build; in the order they arrived in each, which need not be the log's.

    What follows on, in whichever lanes, is applied together: where little arrives in each, a transaction a
    lane would cost many times the folding.
    """
    async with AsyncExitStack() as held:
        for lane in sorted(arrived, key=lambda lane: lane.lane):
            await held.enter_async_context(lane.busy)
        left = {lane: deque(deliveries) for lane, deliveries in arrived.items()}
        while left:
            if steps := _next_steps(left):
                await _take(steps)
            else:
                for lane, deliveries in left.items():
                    if deliveries:
                        await lane.fill_gap(deliveries.popleft().position)
            left = {lane: deliveries for lane, deliveries in left.items() if deliveries}


def _next_steps(left: Mapping[FoldedLane, deque[Delivery]]) -> Mapping[FoldedLane, Step]:
    """Of one transaction."""
    steps: dict[FoldedLane, Step] = {}
    room = STEP_EVENTS
    for lane, deliveries in left.items():
        if room and (step := lane.next_step(deliveries, room)):
            steps[lane] = step
            room -= len(step.events)
    return steps


async def _take(steps: Mapping[FoldedLane, Step]) -> None:
    """Of lanes of one build, which need no longer be known to stand where these steps begin.

    If another worker was first, what is left to do is left to the next delivery or look at the log.
    """
    one = next(iter(steps))
    table, sources = one.table, one.sources
    async with sources.pool.connection() as connection:
        taken = await apply(connection, table, list(steps.values()))
        lost = {lane: step for lane, step in steps.items() if step not in taken}
        stored = await marks_of(connection, table.build) if lost else {}
    if taken:
        APPLIED.labels(table.model.name).inc(sum(len(step.events) for step in taken))
    for lane, step in steps.items():
        if lane not in lost:
            lane.observe(step.after)
    for lane, step in lost.items():
        LOST.labels(table.model.name).inc()
        mark = stored.get(lane.lane)
        if mark is None or mark.position <= step.before.position:
            raise BuildGone(f"{table.build}: {lane.lane} stands at {mark}, not {step.before}")
        lane.observe(mark)
