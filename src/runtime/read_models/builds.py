"""The builds of read models: made, checked against the log, shown."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from domain.envelope import NO_EVENT, Mark
from runtime.postgres import Connection
from runtime.process import CannotStart
from runtime.read_models.folding import contexts_of
from runtime.read_models.tables import Table

logger = logging.getLogger(__name__)

Lane = tuple[str, int]
NOWHERE: Final = Mark(0, NO_EVENT)
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


async def create(connection: Connection, table: Table, lanes: int, incarnation: str) -> None:
    """Makes the build unless it is there; several processes may try at once."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        made = await connection.execute(
            "insert into read.builds (build, model) values (%s, %s) on conflict do nothing",
            [table.build, table.model.name],
        )
        if made.rowcount == 0:
            return
        logger.info("making %s", table.build)
        for statement in table.definition():
            await connection.execute(statement)
        await connection.execute(
            "insert into read.checkpoints select %s, context, lane, %s, %s, %s "
            "from unnest(%s::text[]) as context, generate_series(0, %s) as lane",
            [
                table.build,
                incarnation,
                NOWHERE.position,
                NOWHERE.event_id,
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


async def show(connection: Connection, table: Table) -> None:
    """Gives the build the plain name; it has caught up with the log."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        await connection.execute(
            "update read.builds set caught_up = true where build = %s and not caught_up", [table.build]
        )
        found = await connection.execute(
            "select obj_description(to_regclass(%s), 'pg_class')", [f"read.{table.model.name}"]
        )
        if await found.fetchone() != (table.build,):
            for statement in table.view():
                await connection.execute(statement)


async def marks_of(connection: Connection, builds: Sequence[str]) -> Mapping[str, Mapping[Lane, Mark]]:
    """The marks of each build by (context, lane)."""
    found = await connection.execute(
        "select build, context, lane, position, event_id::text from read.checkpoints where build = any(%s)",
        [list(builds)],
    )
    marks: dict[str, dict[Lane, Mark]] = {build: {} for build in builds}
    for build, context, lane, position, event_id in await found.fetchall():
        marks[build][context, lane] = Mark(position, event_id)
    return marks
