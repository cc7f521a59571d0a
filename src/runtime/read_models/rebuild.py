"""A read model made anew from the log, compared with what is served, and served in its place.

Traffic goes on meanwhile. The new build is folded in large steps, with nobody waiting for its rows; then it
is fed as the served one is. They are compared in one snapshot in which every lane of both stands at the same
position, and at such a moment the new one takes the other's place: so no consistency token is further than
what is served, and no query sees anything of both.

Whatever ends it before that leaves what is served as it was, and at most a build that the next rebuild drops.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
from psycopg import sql
from psycopg.errors import LockNotAvailable

from domain.envelope import Mark
from runtime.audit_log.history import History
from runtime.log.reading import LogReader
from runtime.points import reached
from runtime.postgres import Connection, connect
from runtime.process import CannotStart
from runtime.read_models import builds
from runtime.read_models.apply import Step, apply
from runtime.read_models.builds import Lane
from runtime.read_models.folding import Model
from runtime.read_models.lanes import BuildGone
from runtime.read_models.parked import omitted_of
from runtime.read_models.tables import Table
from runtime.read_models.verify import (
    MAX_TOLD,
    Applied,
    Difference,
    Progress,
    find_events,
    patient_reader,
    snapshot,
)

logger = logging.getLogger(__name__)

ROLE: Final = "tallybook_projector"
STEP_EVENTS: Final = 5_000
NEAR_POSITIONS: Final = 5_000
"""How far the new build may be behind when it is fed as the others are."""
MAX_ROUNDS: Final = 100
"""How often the log is looked at anew, whether it has grown too far meanwhile."""
MAX_MOMENTS: Final = 200
"""How often two builds may move apart before they are seen side by side."""
DROP_TRIES: Final = 20
DROP_PAUSE_S: Final = 0.25
_LOCK: Final = 0x7A11
"""With a hash of the declaration, the session's advisory lock of whoever rebuilds it."""


class Rebuilding(CannotStart):
    """Another process rebuilds the read model just now."""


class Outrun(CannotStart):
    """The log grows faster than the new build follows."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`head`: the highest position that was applied. `told`: the first of the rows that differed.

    `compared` is False where nothing was served before.
    """

    model: str
    rows: int
    head: int
    compared: bool
    differing: int = 0
    told: Sequence[Difference] = ()


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Of one read model. `url` is the read models'."""

    url: str
    reader: LogReader
    history: History
    model: Model
    progress: Progress

    async def run(self) -> Rebuilt:
        """Raises Rebuilding, Outrun, and what a fold refuses."""
        first = Table(self.model)
        incarnation, lanes = await self.reader.incarnation(), await self.reader.lanes()
        async with self._alone(first) as connection:
            await _clear(connection, first)
            try:
                made = await builds.create_another(connection, first, lanes, incarnation)
                await self._fill(connection, made, incarnation)
                await reached("before_caught_up")
                await builds.has_caught_up(connection, made)
                served = await builds.served_of(connection, first)
                if served is None or served.build == made.build:
                    return await self._counted(connection, made)
                await self._fill(connection, served, incarnation)
                rebuilt = await self._compared(connection, served, made, incarnation)
                async with connection.transaction():
                    await self._level(connection, served, made, incarnation)
                    await builds.replace(connection, served, made)
                    await reached("before_replaced")
                return rebuilt
            finally:
                await _clear(connection, first)

    @asynccontextmanager
    async def _alone(self, first: Table) -> AsyncIterator[Connection]:
        async with connect(self.url, ROLE, timezone="UTC") as connection:
            locked = await connection.execute(
                "select pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK, first.declaration]
            )
            if await locked.fetchone() != (True,):
                raise Rebuilding(f"{self.model.name} is being rebuilt by another process")
            yield connection

    async def _fill(self, connection: Connection, table: Table, incarnation: str) -> None:
        """Up to the end of the log, or what it was when that was near; lane by lane, for they share rows."""
        marks = dict(await builds.marks_of(connection, table.build))
        for _ in range(MAX_ROUNDS):
            heads = await self.reader.heads()
            behind = {
                lane: heads[lane].position
                for lane, mark in marks.items()
                if lane in heads and mark.position < heads[lane].position
            }
            near = all(upto - marks[lane].position <= NEAR_POSITIONS for lane, upto in behind.items())
            for lane, upto in behind.items():
                marks[lane] = await self._advance(connection, table, incarnation, lane, marks[lane], upto)
            if near:
                return
        raise Outrun(f"the log grows faster than {self.model.name} is folded")

    async def _advance(
        self, connection: Connection, table: Table, incarnation: str, lane: Lane, mark: Mark, upto: int
    ) -> Mark:
        """The mark behind the lane's last event up to the position."""
        while mark.position < upto:
            stored = await self.reader.read_lane(*lane, after=mark.position, upto=upto, limit=STEP_EVENTS)
            if not stored:
                break
            events = [self.reader.decode_or_not(event) for event in stored]
            step = Step(*lane, incarnation, mark, events)
            if await apply(connection, table, step):
                self.progress(len(events))
                mark = step.after
            else:
                moved = (await builds.marks_of(connection, table.build)).get(lane, builds.NOWHERE)
                if moved.position <= mark.position:
                    raise BuildGone(f"{table.build}: {lane} stands at {moved}, not at {mark}")
                mark = moved
        return mark

    async def _level(self, connection: Connection, served: Table, made: Table, incarnation: str) -> None:
        """Brings each lane of both to where the other is; there they stay until the transaction ends."""
        there = await builds.hold(connection, served.build)
        here = await builds.hold(connection, made.build)
        for lane, mark in there.items():
            upto = max(mark.position, here[lane].position)
            await self._advance(connection, served, incarnation, lane, mark, upto)
            await self._advance(connection, made, incarnation, lane, here[lane], upto)

    async def _compared(
        self, connection: Connection, served: Table, made: Table, incarnation: str
    ) -> Rebuilt:
        async with patient_reader(self.url) as reading:
            for _ in range(MAX_MOMENTS):
                async with connection.transaction():
                    await self._level(connection, served, made, incarnation)
                async with snapshot(reading):
                    marks = await builds.marks_of(reading, made.build)
                    if marks == await builds.marks_of(reading, served.build):
                        omitted = await omitted_of(reading, made)
                        differing, told = await _differing(reading, served, made)
                        rows = await _count(reading, made)
                        break
            else:
                raise Outrun(f"two builds of {self.model.name} were never seen at the same position")
        if told:
            await find_events(self.history, self.model, Applied(marks, omitted), told)
        return Rebuilt(self.model.name, rows, _head(marks), compared=True, differing=differing, told=told)

    async def _counted(self, connection: Connection, made: Table) -> Rebuilt:
        marks = await builds.marks_of(connection, made.build)
        return Rebuilt(self.model.name, await _count(connection, made), _head(marks), compared=False)


async def _differing(reading: Connection, served: Table, made: Table) -> tuple[int, list[Difference]]:
    """How many rows differ, in a column or in their parts, and the first of them by key."""
    columns = [column.identifier for column in made.columns]
    compared = [*columns[1:], sql.Identifier("parts"), sql.Identifier("shown")]

    def of(side: str, names: Sequence[sql.Identifier]) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.Identifier(side), name) for name in names)

    found = await reading.execute(
        sql.SQL(
            "select count(*) over (), coalesce(served.{key}, made.{key}),"
            " served.shown, {theirs}, made.shown, {ours}"
            " from {served} as served full join {made} as made on served.{key} = made.{key}"
            " where ({left}) is distinct from ({right}) order by 2 limit {limit}"
        ).format(
            key=made.key.identifier,
            theirs=of("served", columns),
            ours=of("made", columns),
            served=served.identifier,
            made=made.identifier,
            left=of("served", compared),
            right=of("made", compared),
            limit=MAX_TOLD,
        )
    )
    rows = await found.fetchall()
    half = len(columns) + 1
    told = [
        Difference(key, _row(made, *values[:half]), _row(made, *values[half:]), [])
        for _, key, *values in rows
    ]
    return (rows[0][0] if rows else 0), told


def _row(table: Table, shown: bool | None, *values: object) -> object:  # noqa: FBT001 - a column
    names = [column.name for column in table.columns]
    return msgspec.convert(dict(zip(names, values, strict=True)), table.model.row) if shown else None


async def _count(connection: Connection, table: Table) -> int:
    counted = await connection.execute(sql.SQL("select count(*) from {}").format(table.identifier))
    [(rows,)] = await counted.fetchall()
    return int(rows)


def _head(marks: Mapping[Lane, Mark]) -> int:
    return max((mark.position for mark in marks.values()), default=0)


async def _clear(connection: Connection, first: Table) -> None:
    """Drops what is not served. What somebody reads all the time is left to the next rebuild."""
    for _ in range(DROP_TRIES):
        try:
            await builds.drop_unserved(connection, first)
        except LockNotAvailable:
            await asyncio.sleep(DROP_PAUSE_S)
        else:
            return
    logger.warning(
        "builds of %s that nobody needs are in use; the next rebuild drops them", first.declaration
    )
