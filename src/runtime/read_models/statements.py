"""What is asked of a build's table: `where` speaks of the read model by its plain name.

Put together once and kept, as bytes: there is one statement for each query of a read model and each build.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, LiteralString

from psycopg import sql
from psycopg.adapt import PyFormat

from runtime.read_models.tables import Column, Table

KEPT: Final = 500
"""Statements; builds come and go."""


@lru_cache(KEPT)
def select(table: Table, where: LiteralString) -> bytes:
    """Columns and revision of the rows that satisfy `where`."""
    return _those_shown(table, table.columns, where)


@lru_cache(KEPT)
def select_revisions(table: Table, where: LiteralString) -> bytes:
    """As `select`, of keys and revisions only."""
    return _those_shown(table, table.columns[:1], where)


def _those_shown(table: Table, wanted: Sequence[Column], where: LiteralString) -> bytes:
    shown = sql.SQL(
        "select {wanted}, revision "
        "from (select {columns}, revision from {table} where shown) as {name} where "
    ).format(
        wanted=sql.SQL(", ").join(column.identifier for column in wanted),
        columns=sql.SQL(", ").join(column.identifier for column in table.columns),
        table=table.identifier,
        name=sql.Identifier(table.model.name),
    )
    return (shown + sql.SQL(where)).as_bytes()


@lru_cache(KEPT)
def select_keys(table: Table) -> bytes:
    """As `select`, of the rows with these keys."""
    statement = sql.SQL("select {columns}, revision from {table} where {key} = any(%s)").format(
        columns=sql.SQL(", ").join(column.identifier for column in table.columns),
        table=table.identifier,
        key=table.key.identifier,
    )
    return statement.as_bytes()


def select_given(table: Table, where: LiteralString) -> sql.Composed:
    """As `select`, of rows given as arrays; text is compared as it is in the table."""
    columns = table.columns
    given = sql.SQL(
        "select {columns} from (select {collated} from unnest({arrays}) as given ({columns})) as {name} "
        "where "
    ).format(
        columns=sql.SQL(", ").join(column.identifier for column in columns),
        collated=sql.SQL(", ").join(column.collated for column in columns),
        arrays=sql.SQL(", ").join(
            sql.Placeholder(f"column_{number}", PyFormat.BINARY) + sql.SQL("::") + column.array
            for number, column in enumerate(columns)
        ),
        name=sql.Identifier(table.model.name),
    )
    return given + sql.SQL(where)
