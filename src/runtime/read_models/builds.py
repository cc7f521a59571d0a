"""The builds of read models: made, fed, served, made anew, dropped.

A build is fed if it has checkpoints, and is the first of its declaration or has caught up. One of those of a
declaration is served: the first, until another takes its place.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
DROP_WAIT_MS: Final = 100
_MARKS: Final[LiteralString] = (
    "select context, lane, position, event_id::text from read.checkpoints where build = %s"
)
_DDL_LOCK: Final = 0x7A11_B001
"""The advisory lock under which tables and views are made."""


class AheadOfLog(CannotStart):
    """A read model has applied an event that the log does not have."""

    def __init__(self, build: str, lane: Lane, mark: Mark) -> None:
        super().__init__(
            f"{build} has applied event {mark.event_id} at position {mark.position} ({lane[0]}, lane "
            f"{lane[1]}), which the log does not have: the log was restored to an older point, or is another "
            "shop's. Restore the log that has this event; or have the read model built anew from this log: "
            f"drop table read.{build} (cascade), remove its row of read.builds, start the projector again"
        )


@dataclass(frozen=True, slots=True)
class Fed:
    """A build that is kept up with the log, and how far each lane has come."""

    declaration: str
    served: bool
    marks: Mapping[Lane, Mark]
    parked: int
    """Streams that stand still."""


async def create(connection: Connection, table: Table, lanes: int, incarnation: str) -> None:
    """Makes the first build unless one is there or served; several processes may try at once."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
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
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        made = await connection.execute(
            "insert into read.builds (build, model)"
            " select %(declaration)s || '_' || coalesce(max(number), 0) + 1, %(model)s"
            " from read.builds where declaration = %(declaration)s returning build",
            {"declaration": table.declaration, "model": table.model.name},
        )
        [(build,)] = await made.fetchall()
        another = Table(table.model, build)
        await _define(connection, another, lanes, incarnation)
    return another


async def _define(connection: Connection, table: Table, lanes: int, incarnation: str) -> None:
    logger.info("making %s", table.build)
    for statement in table.definition():
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


async def adopt(connection: Connection, table: Table, incarnation: str) -> None:
    """Takes the checkpoints into the log's present incarnation, which has been seen to hold their events."""
    await connection.execute(
        "update read.checkpoints set incarnation = %s where build = %s and incarnation <> %s",
        [incarnation, table.build, incarnation],
    )


async def has_caught_up(connection: Connection, table: Table) -> None:
    """It holds all of the log. It is served from now on, under the plain name too, if no other build is.

    Queries on a table that was never analysed would be planned as if it were small.
    """
    await connection.execute(sql.SQL("analyze {}").format(table.identifier))
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        served = await connection.execute(
            "update read.builds as b set caught_up = true, served = served or not exists"
            " (select from read.builds where declaration = b.declaration and served)"
            " where build = %s returning served",
            [table.build],
        )
        if await served.fetchone() == (True,):
            await _name(connection, table)


async def replace(connection: Connection, table: Table, other: Table) -> None:
    """In one transaction, `other` is served in place of the table, which is fed no more."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        await connection.execute("delete from read.checkpoints where build = %s", [table.build])
        for build, served in ((table.build, False), (other.build, True)):
            await connection.execute("update read.builds set served = %s where build = %s", [served, build])
        await _name(connection, other)


async def _name(connection: Connection, table: Table) -> None:
    found = await connection.execute(
        "select obj_description(to_regclass(%s), 'pg_class')", [f"read.{table.model.name}"]
    )
    if await found.fetchone() != (table.build,):
        for statement in table.view():
            await connection.execute(statement)


async def drop_unserved(connection: Connection, table: Table) -> None:
    """The builds of its declaration that others took the place of, or that were never finished.

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
            await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
            await connection.execute("delete from read.builds where build = %s", [build])
            await connection.execute(
                sql.SQL("drop table if exists {}").format(Table(table.model, build).identifier)
            )
            logger.info("dropped %s", build)


async def served_of(connection: Connection, table: Table) -> Table | None:
    """The build of its declaration that answers queries, None before the first has caught up."""
    found = await connection.execute(
        "select build from read.builds where declaration = %s and served", [table.declaration]
    )
    row = await found.fetchone()
    return None if row is None else Table(table.model, row[0])


async def fed_of(connection: Connection, tables: Iterable[Table]) -> Mapping[str, Fed]:
    """The builds of their declarations that are fed, by name."""
    found = await connection.execute(
        "select declaration, build, served, parked, context, lane, position, event_id::text"
        " from read.checkpoints join read.builds using (build)"
        " where declaration = any(%s) and (build = declaration or caught_up)",
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
