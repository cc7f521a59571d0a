"""The builds of read models: made, filled, fed, served, dropped.

A build is fed if it is the first of its declaration or has caught up, unless it is just being filled in bulk.
One of those of a declaration is served: the first, until another takes its place; both are fed from then on.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString

from psycopg import sql

from domain.envelope import NO_EVENT, Mark
from runtime.postgres import Connection
from runtime.process import CannotStart
from runtime.read_models.folding import contexts_of
from runtime.read_models.tables import Table

logger = logging.getLogger(__name__)

Lane = tuple[str, int]
NOWHERE: Final = Mark(0, NO_EVENT)
BEING_FILLED: Final = -1
"""Where the checkpoints of a build stand while it is filled in bulk: from there nobody else moves them."""
DROP_WAIT_MS: Final = 100
_MARKS: Final[LiteralString] = (
    "select context, lane, position, event_id::text from read.checkpoints where build = %s"
)
_DDL_LOCK: Final = 0x7A11_B001
"""The advisory lock under which tables and views are made."""
_ALONE: Final = 0x7A11
"""With a hash of the declaration, the session's advisory lock of whoever makes or changes builds of it."""


class BuildGone(RuntimeError):
    """The checkpoint was neither moved by another worker nor is it where this one left it."""


class AheadOfLog(CannotStart):
    """A read model has applied an event that the log does not have."""

    def __init__(self, table: Table, lane: Lane, mark: Mark) -> None:
        model = table.model.name
        super().__init__(
            f"{table.build} has applied event {mark.event_id} at position {mark.position} ({lane[0]}, lane "
            f"{lane[1]}), which the log does not have: the log was restored to an older point, or is another "
            "shop's, or somebody else than its relay writes to the topics. Restore the log that has this "
            "event; or keep others from the topics, delete these, which the relay makes again, and have the "
            f"read model made from this log: `tallybook rebuild {model}`, then `tallybook drop {model}`"
        )


@dataclass(frozen=True, slots=True)
class Fed:
    """A build that is kept up with the log, and how far each lane has come."""

    declaration: str
    served: bool
    marks: Mapping[Lane, Mark]
    parked: int
    """Streams that stand still."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A build that is fed, and when another took its place, if it was ever served."""

    table: Table
    replaced_at: datetime | None


async def create(connection: Connection, table: Table, lanes: int, incarnation: str) -> None:
    """Makes the first build unless one is there or served; several processes may try at once."""
    async with connection.transaction():
        await lock_definitions(connection)
        made = await connection.execute(
            "insert into read.builds (build, model) select %(build)s, %(model)s"
            " where not exists (select from read.builds where declaration = %(build)s and served)"
            " on conflict do nothing",
            {"build": table.build, "model": table.model.name},
        )
        if made.rowcount == 1:
            await _define(connection, table, lanes, incarnation)


async def create_another(connection: Connection, table: Table, lanes: int, incarnation: str) -> Table:
    """A build beside this and others, which nobody else feeds until it `has_caught_up`."""
    async with connection.transaction():
        await lock_definitions(connection)
        made = await connection.execute(
            "insert into read.builds (build, model) values (%s, %s) returning number",
            [f"{table.declaration}_new", table.model.name],
        )
        [(number,)] = await made.fetchall()
        build = f"{table.declaration}_{number}"  # no number is given twice, whatever was dropped meanwhile
        await connection.execute("update read.builds set build = %s where number = %s", [build, number])
        another = Table(table.model, build)
        await _define(connection, another, lanes, incarnation)
    return another


async def _define(connection: Connection, table: Table, lanes: int, incarnation: str) -> None:
    logger.info("making %s", table.build)
    for statement in (table.creation(), *table.indexing()):
        await connection.execute(statement)
    await connection.execute(
        "insert into read.checkpoints (build, context, lane, incarnation, position, event_id, skipped_upto)"
        " select %s, context, lane, %s, %s, %s, coalesce((select max(s.position) from read.skipped s"
        "   where s.declaration = %s and s.context = c.context and s.lane = l.lane), 0)"
        " from unnest(%s::text[]) as c (context), generate_series(0, %s) as l (lane)",
        [
            table.build,
            incarnation,
            NOWHERE.position,
            NOWHERE.event_id,
            table.declaration,
            list(contexts_of(table.model)),
            lanes - 1,
        ],
    )


async def begin_filling(connection: Connection, table: Table) -> None:
    """Empty, and without its further indexes: it is fed by nobody until `end_filling` or `empty`.

    Raises BuildGone if something has been folded into it meanwhile.
    """
    await _remake(connection, table, BEING_FILLED)


async def empty(connection: Connection, table: Table) -> None:
    """As it was when it was made. Raises BuildGone."""
    await _remake(connection, table, NOWHERE.position)


async def _remake(connection: Connection, table: Table, position: int) -> None:
    async with connection.transaction():
        await _move_all(connection, table, position)
        await lock_definitions(connection)
        await connection.execute(sql.SQL("drop table if exists {}").format(table.identifier))
        for statement in (table.creation(), *(() if position == BEING_FILLED else table.indexing())):
            await connection.execute(statement)


async def end_filling(connection: Connection, table: Table, marks: Mapping[Lane, Mark]) -> None:
    """In the caller's transaction: it holds all up to the marks. Raises BuildGone."""
    for statement in table.indexing():
        await connection.execute(statement)
    await _move_all(connection, table, NOWHERE.position)
    places = [(*lane, mark.position, mark.event_id) for lane, mark in sorted(marks.items())]
    await connection.execute(
        "update read.checkpoints as c set position = new.position, event_id = new.event_id"
        " from unnest(%s::text[], %s::smallint[], %s::bigint[], %s::uuid[])"
        " as new (context, lane, position, event_id)"
        " where build = %s and (c.context, c.lane) = (new.context, new.lane)",
        [*([place[column] for place in places] for column in range(4)), table.build],
    )


async def _move_all(connection: Connection, table: Table, position: int) -> None:
    """Raises BuildGone unless nothing is folded up to any checkpoint."""
    there = await hold(connection, table.build)
    if not there or any(mark.position > NOWHERE.position for mark in there.values()):
        raise BuildGone(f"{table.build} is not as it was when it began to be filled")
    await connection.execute(
        "update read.checkpoints set position = %s where build = %s", [position, table.build]
    )


async def unfilled(connection: Connection, tables: Iterable[Table]) -> Mapping[str, bool]:
    """Of the first builds of these declarations those into which nothing has been folded yet.

    With whether somebody is filling them in bulk, or was when it ended.
    """
    found = await connection.execute(
        "select build, min(position) < 0 from read.builds join read.checkpoints using (build)"
        " where build = any(%s) and not caught_up group by build having max(position) <= 0",
        [[table.declaration for table in tables]],
    )
    return dict(await found.fetchall())


@asynccontextmanager
async def alone(connection: Connection, table: Table) -> AsyncIterator[bool]:
    """Whether nobody else has this; if so, nobody else has it until the end, or the connection's."""
    place = [_ALONE, table.declaration]
    locked = await connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", place)
    if await locked.fetchone() != (True,):
        yield False
        return
    try:
        yield True
    finally:
        if not connection.closed:
            await connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", place)


async def adopt(connection: Connection, table: Table, incarnation: str) -> None:
    """Takes the checkpoints into the log's present incarnation, which has been seen to hold their events."""
    await connection.execute(
        "update read.checkpoints set incarnation = %s where build = %s and incarnation <> %s",
        [incarnation, table.build, incarnation],
    )


def head_of(marks: Mapping[Lane, Mark]) -> int:
    """The highest position that was applied; 0 while there is none."""
    return max((mark.position for mark in marks.values()), default=0)


async def has_caught_up(connection: Connection, table: Table) -> None:
    """It holds all of the log. It is served from now on, under the plain name too, if no other build is.

    Queries on a table that was never analysed would be planned as if it were small.
    """
    await connection.execute(sql.SQL("analyze {}").format(table.identifier))
    async with connection.transaction():
        await lock_definitions(connection)
        served = await connection.execute(
            "update read.builds as b set caught_up = true, served = served or not exists"
            " (select from read.builds where declaration = b.declaration and served)"
            " where build = %s returning served",
            [table.build],
        )
        if await served.fetchone() == (True,):
            await _name(connection, table)


async def serve(connection: Connection, table: Table, other: Table) -> None:
    """In one transaction, `other` is served in place of the table, which is fed as before."""
    async with connection.transaction():
        await lock_definitions(connection)
        await connection.execute(
            "update read.builds set served = false, replaced_at = now() where build = %s", [table.build]
        )
        await connection.execute("update read.builds set served = true where build = %s", [other.build])
        await _name(connection, other)


async def _name(connection: Connection, table: Table) -> None:
    found = await connection.execute(
        "select obj_description(to_regclass(%s), 'pg_class')", [f"read.{table.model.name}"]
    )
    if await found.fetchone() != (table.build,):
        for statement in table.view():
            await connection.execute(statement)


async def drop_unserved(connection: Connection, table: Table, dropped: Callable[[str], object]) -> None:
    """The builds of its declaration that are not served, finished or not, but the first while none is.

    Raises LockNotAvailable while somebody uses one; not waiting for that for long, since whoever comes to
    read it meanwhile would wait behind.
    """
    found = await connection.execute(
        "select build from read.builds as b where declaration = %s and not served and (build <> declaration"
        " or exists (select from read.builds where declaration = b.declaration and served))",
        [table.declaration],
    )
    for (build,) in await found.fetchall():
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = {DROP_WAIT_MS}")
            await lock_definitions(connection)
            await connection.execute("delete from read.builds where build = %s", [build])
            await connection.execute(
                sql.SQL("drop table if exists {}").format(Table(table.model, build).identifier)
            )
        dropped(build)


async def served_of(connection: Connection, table: Table) -> Table | None:
    """The build of its declaration that answers queries, None before the first has caught up."""
    found = await connection.execute(
        "select build from read.builds where declaration = %s and served", [table.declaration]
    )
    row = await found.fetchone()
    return None if row is None else Table(table.model, row[0])


async def beside(connection: Connection, table: Table) -> Sequence[Beside]:
    """What is fed of its declaration beside what is served, the newest first."""
    found = await connection.execute(
        "select build, replaced_at from read.builds"
        " where declaration = %s and caught_up and not served order by number desc",
        [table.declaration],
    )
    return [Beside(Table(table.model, build), at) for build, at in await found.fetchall()]


async def fed_of(connection: Connection, tables: Iterable[Table]) -> Mapping[str, Fed]:
    """The builds of their declarations that are fed, by name."""
    found = await connection.execute(
        "select declaration, build, served, parked, context, lane, position, event_id::text"
        " from read.checkpoints join read.builds using (build)"
        " where declaration = any(%s) and (build = declaration or caught_up)"
        " and position >= 0",
        [[table.declaration for table in tables]],
    )
    fed: dict[str, Fed] = {}
    marks: dict[str, dict[Lane, Mark]] = defaultdict(dict)
    parked: dict[str, int] = defaultdict(int)
    for declaration, build, served, streams, context, lane, *mark in await found.fetchall():
        marks[build][context, lane] = Mark(*mark)
        parked[build] += streams
        fed[build] = Fed(declaration, served, marks[build], parked[build])
    return fed


async def marks_of(connection: Connection, build: str) -> Mapping[Lane, Mark]:
    """How far each lane has come; empty for a build that is not fed."""
    return await _marks(connection, _MARKS, build)


async def hold(connection: Connection, build: str) -> Mapping[Lane, Mark]:
    """As `marks_of`; until the transaction ends, nobody else moves them."""
    return await _marks(connection, _MARKS + " order by context, lane for update", build)


async def lock_definitions(connection: Connection) -> None:
    """Until the transaction ends, no build is made."""
    await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])


async def _marks(connection: Connection, query: LiteralString, build: str) -> Mapping[Lane, Mark]:
    found = await connection.execute(query, [build])
    return {(context, lane): Mark(*mark) for context, lane, *mark in await found.fetchall()}
