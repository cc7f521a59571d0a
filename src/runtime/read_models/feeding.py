"""Builds fed by hand, in large steps: to the end of the log, or to where another stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from domain.envelope import Mark
from runtime.log.reading import LogReader
from runtime.postgres import Connection
from runtime.process import CannotStart
from runtime.read_models import builds
from runtime.read_models.apply import Step, apply
from runtime.read_models.builds import BuildGone, Lane
from runtime.read_models.bulk import MAX_ROUNDS, NEAR_POSITIONS
from runtime.read_models.tables import Table
from runtime.read_models.verify import Progress

STEP_EVENTS: Final = 5_000


class Outrun(CannotStart):
    """The log grows faster than the new build follows."""


@dataclass(frozen=True, slots=True)
class Feeder:
    """`connection` is to the read models; others may feed the same builds meanwhile."""

    connection: Connection
    reader: LogReader
    incarnation: str
    progress: Progress

    async def catch_up(self, table: Table) -> None:
        """To the end of the log, or what it was when that was near. Raises Outrun.

        Lane by lane, for they share rows.
        """
        marks = dict(await builds.marks_of(self.connection, table.build))
        for _ in range(MAX_ROUNDS):
            heads = await self.reader.heads()
            behind = {
                lane: heads[lane].position
                for lane, mark in marks.items()
                if lane in heads and mark.position < heads[lane].position
            }
            near = all(upto - marks[lane].position <= NEAR_POSITIONS for lane, upto in behind.items())
            for lane, upto in behind.items():
                marks[lane] = await self._advance(table, lane, marks[lane], upto)
            if near:
                return
        raise Outrun(f"the log grows faster than {table.model.name} is folded")

    async def level(self, one: Table, other: Table) -> Mapping[Lane, Mark]:
        """Brings each lane of both to where the other is; there they stay until the transaction ends.

        Returns where `one` stands in lanes in which they do not meet: at events that the log does not have.
        """
        there = await builds.hold(self.connection, one.build)
        here = await builds.hold(self.connection, other.build)
        strayed = {}
        for lane, mark in there.items():
            upto = max(mark.position, here[lane].position)
            reached = await self._advance(one, lane, mark, upto)
            if await self._advance(other, lane, here[lane], upto) != reached:
                strayed[lane] = reached
        return strayed

    async def _advance(self, table: Table, lane: Lane, mark: Mark, upto: int) -> Mark:
        """The mark behind the lane's last event up to the position."""
        while mark.position < upto:
            stored = await self.reader.read_lane(*lane, after=mark.position, upto=upto, limit=STEP_EVENTS)
            if not stored:
                break
            events = [self.reader.decode_or_not(event) for event in stored]
            step = Step(*lane, self.incarnation, mark, events)
            if await apply(self.connection, table, [step]):
                self.progress(len(events))
                mark = step.after
            else:
                moved = (await builds.marks_of(self.connection, table.build)).get(lane, builds.NOWHERE)
                if moved.position <= mark.position:
                    raise BuildGone(f"{table.build}: {lane} stands at {moved}, not at {mark}")
                mark = moved
        return mark
