"""A read model made anew from the log, compared with what is served, and served in its place.

Traffic goes on meanwhile. The new build is filled in bulk; then it is fed as the served one is. They are
compared in one snapshot in which every lane of both stands at the same position, and at such a moment the new
one takes the other's place: so no consistency token is further than what is served, and no query sees
anything of both. What was served is fed on, so it may take its place back as quickly.

Whatever ends it before that leaves what is served as it was, and at most a build that the next rebuild drops.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
from runtime.read_models import builds, bulk
from runtime.read_models.builds import Lane
from runtime.read_models.feeding import Feeder, Outrun
from runtime.read_models.folding import Model
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
MEMORY_BYTES: Final = 64 * 2**20
"""Of rows that are in memory, as they are stored."""
MAX_MOMENTS: Final = 200
"""How often two builds may move apart before they are seen side by side."""
DROP_TRIES: Final = 20
DROP_PAUSE_S: Final = 0.25


class Rebuilding(CannotStart):
    """Another process makes or changes builds of the read model just now."""


class NothingBeside(CannotStart):
    """There is no other build that could be served."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`head`: the highest position that was applied. `told`: the first of the rows that differed.

    `compared` is False where nothing was served before. `strayed`: lanes in which what was served stood at
    events that the log does not have; rows are compared all the same.
    """

    model: str
    build: str
    rows: int
    head: int
    compared: bool
    differing: int = 0
    told: Sequence[Difference] = ()
    strayed: Mapping[Lane, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Of one read model. `url` is the read models'."""

    url: str
    reader: LogReader
    history: History
    model: Model
    progress: Progress

    async def run(self, *, serve: bool) -> Rebuilt:
        """Without `serve` it stays beside what is served. Raises Rebuilding, Outrun."""
        first = Table(self.model)
        async with _alone(self.url, first) as connection:
            for build in await _clear(connection, first):
                logger.info("dropped %s", build)
            feeder = await _feeder(connection, self.reader, self.progress)
            made = await self._made(feeder, first)
            served = await builds.served_of(connection, first)
            if served is None or served.build == made.build:
                return await self._counted(connection, made)
            await feeder.catch_up(served)
            rebuilt = await self._compared(feeder, served, made)
            if serve:
                await _serve(feeder, served, made)
            return rebuilt

    async def _made(self, feeder: Feeder, first: Table) -> Table:
        lanes = await self.reader.lanes()
        try:
            made = await builds.create_another(feeder.connection, first, lanes, feeder.incarnation)
            await bulk.fill(feeder.connection, self.reader, made, self.progress, memory_bytes=MEMORY_BYTES)
            await feeder.catch_up(made)
            await reached("before_caught_up")
            await builds.has_caught_up(feeder.connection, made)
        except BaseException:
            await _clear(feeder.connection, first)
            raise
        return made

    async def _compared(self, feeder: Feeder, served: Table, made: Table) -> Rebuilt:
        async with patient_reader(self.url) as reading:
            for _ in range(MAX_MOMENTS):
                async with feeder.connection.transaction():
                    strayed = await feeder.level(served, made)
                async with snapshot(reading):
                    marks = await builds.marks_of(reading, made.build)
                    theirs = await builds.marks_of(reading, served.build)
                    if all(marks[lane] == mark or strayed.get(lane) == mark for lane, mark in theirs.items()):
                        omitted = await omitted_of(reading, made)
                        differing, told = await _differing(reading, served, made)
                        rows = await _count(reading, made)
                        break
            else:
                raise Outrun(f"two builds of {self.model.name} were never seen at the same position")
        if told:
            await find_events(self.history, self.model, Applied(marks, omitted), told)
        return Rebuilt(
            self.model.name,
            made.build,
            rows,
            builds.head_of(marks),
            compared=True,
            differing=differing,
            told=told,
            strayed=strayed,
        )

    async def _counted(self, connection: Connection, made: Table) -> Rebuilt:
        marks = await builds.marks_of(connection, made.build)
        rows = await _count(connection, made)
        return Rebuilt(self.model.name, made.build, rows, builds.head_of(marks), compared=False)


async def switch(url: str, reader: LogReader, model: Model, *, back: bool) -> tuple[str, str]:
    """Serves the newest of the builds that are fed beside what is served, or the one that was served before.

    The names of what was served and what is. Raises NothingBeside, Rebuilding, Outrun.
    """
    first = Table(model)
    async with _alone(url, first) as connection:
        served = await builds.served_of(connection, first)
        there = await builds.beside(connection, first)
        if back:
            before = [one for one in there if one.replaced_at is not None]
            there = sorted(before, key=lambda one: str(one.replaced_at), reverse=True)
        if served is None or not there:
            wanted = (
                "that was served before" if back else "beside what is served; `tallybook rebuild` makes one"
            )
            raise NothingBeside(f"{model.name} has no build {wanted}")
        other = there[0].table
        feeder = await _feeder(connection, reader, lambda _: None)
        await feeder.catch_up(other)
        await _serve(feeder, served, other)
    return served.build, other.build


async def drop(url: str, model: Model) -> Sequence[str]:
    """Drops the builds that are not served, and names them. Raises Rebuilding."""
    first = Table(model)
    async with _alone(url, first) as connection:
        return await _clear(connection, first)


async def _serve(feeder: Feeder, served: Table, other: Table) -> None:
    async with feeder.connection.transaction():
        await feeder.level(served, other)
        await builds.serve(feeder.connection, served, other)
        await reached("before_served")


async def _feeder(connection: Connection, reader: LogReader, progress: Progress) -> Feeder:
    return Feeder(connection, reader, await reader.incarnation(), progress)


@asynccontextmanager
async def _alone(url: str, first: Table) -> AsyncIterator[Connection]:
    async with (
        connect(url, ROLE, timezone="UTC") as connection,
        builds.alone(connection, first) as nobody_else,
    ):
        if not nobody_else:
            raise Rebuilding(f"builds of {first.model.name} are being made or changed by another process")
        yield connection


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


async def _clear(connection: Connection, first: Table) -> Sequence[str]:
    """Drops what is not served, and names it; but what somebody reads all the time, the next rebuild."""
    dropped: list[str] = []
    for _ in range(DROP_TRIES):
        try:
            await builds.drop_unserved(connection, first, dropped.append)
        except LockNotAvailable:
            await asyncio.sleep(DROP_PAUSE_S)
        else:
            return dropped
    logger.warning(
        "builds of %s that nobody needs are in use; the next rebuild drops them", first.declaration
    )
    return dropped
