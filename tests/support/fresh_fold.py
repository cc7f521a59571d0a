"""Whether rows are what the log says at its head: a fold of all of it in memory, beside what is stored."""

from typing import Any, Final

import msgspec
from psycopg import sql

from projections.ports import Omitted
from runtime.log.reading import LogReader
from runtime.postgres import Connection
from runtime.read_models.builds import served_of
from runtime.read_models.folding import Model, Parts, fold
from runtime.read_models.tables import Table

PAGE_EVENTS: Final = 1_000
NOTHING: Final = Omitted()

Rows = dict[str, Any]
"""The row of each key; None where there is nothing to show yet."""


async def fresh_fold(reader: LogReader, model: Model, omitted: Omitted = NOTHING) -> Rows:
    """The rows as a fold of the log up to its present head gives them, but for what is left out.

    Holds them all in memory.
    """
    parts: dict[str, Parts] = {}
    head, position = (await reader.head()).position, 0
    while position < head:
        page = await reader.read(position, min(PAGE_EVENTS, head - position))
        fold(model, parts, (reader.decode(event) for event in omitted.out_of(page)))
        position = page[-1].position
    return {key: model.combine(of_row) for key, of_row in parts.items()}


async def stored_rows(connection: Connection, model: Model) -> Rows:
    """The rows of the build that is served, of the first while none is."""
    table = await served_of(connection, Table(model)) or Table(model)
    names = [column.name for column in table.columns]
    found = await connection.execute(
        sql.SQL("select {}, shown, {} from {}").format(
            table.key.identifier,
            sql.SQL(", ").join(column.identifier for column in table.columns),
            table.identifier,
        )
    )
    return {
        key: msgspec.convert(dict(zip(names, values, strict=True)), model.row) if shown else None
        for key, shown, *values in await found.fetchall()
    }


async def differing_rows(
    reader: LogReader, connection: Connection, model: Model, omitted: Omitted = NOTHING
) -> list[str]:
    """The keys of the rows that are not what the log says, each with its model's name."""
    wanted, stored = await fresh_fold(reader, model, omitted), await stored_rows(connection, model)
    return [
        f"{model.name}/{key}"
        for key in sorted(wanted.keys() | stored.keys())
        if wanted.get(key) != stored.get(key) or (key in wanted) != (key in stored)
    ]
