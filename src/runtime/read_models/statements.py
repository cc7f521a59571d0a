"""What is asked of a build's table: `where` speaks of the read model by its plain name."""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql
from psycopg.adapt import PyFormat

from runtime.read_models.tables import Column, Table


def select(table: Table, where: LiteralString) -> sql.Composed:
    """Columns and revision of the rows that satisfy `where`."""
    return _those_shown(table, table.columns, where)


def select_revisions(table: Table, where: LiteralString) -> sql.Composed:
    """As `select`, of keys and revisions only."""
    return _those_shown(table, table.columns[:1], where)


def _those_shown(table: Table, wanted: Sequence[Column], where: LiteralString) -> sql.Composed:
    shown = sql.SQL(
        "select {wanted}, revision "
        "from (select {columns}, revision from {table} where shown) as {name} where "
    ).format(
        wanted=sql.SQL(", ").join(column.identifier for column in wanted),
        columns=sql.SQL(", ").join(column.identifier for column in table.columns),
        table=table.identifier,
        name=sql.Identifier(table.model.name),
    )
    return shown + sql.SQL(where)


def select_keys(table: Table) -> sql.Composed:
    """As `select`, of the rows with these keys."""
    return sql.SQL("select {columns}, revision from {table} where {key} = any(%s)").format(
        columns=sql.SQL(", ").join(column.identifier for column in table.columns),
        table=table.identifier,
        key=table.key.identifier,
    )


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
