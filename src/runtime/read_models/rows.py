"""The read models as queries see them: one snapshot holds the rows and the vector they hold at."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeVar

import msgspec
from psycopg import IsolationLevel, errors, sql
from psycopg.adapt import PyFormat
from psycopg.types.json import set_json_loads

from domain.envelope import Mark, Token
from projections.ports import Answer, Ask, ForeignToken, NotYetApplied, ReadModel, Versioned
from runtime.postgres import Connection, Pool, open_pool
from runtime.read_models.builds import served_of
from runtime.read_models.folding import contexts_of
from runtime.read_models.tables import Table
from runtime.read_models.waiting import Arrivals

ROLE: Final = "tallybook_reader"
POOL_SIZE: Final = 10

Row = TypeVar("Row")

MAX_LOOKS: Final = 5
"""How often a build may be replaced while it is looked for."""

_AT = """
select context, lane, position, event_id::text, incarnation::text, number, build
from read.checkpoints join read.builds using (build)
where declaration = %s and served
"""
_QueryOf = Callable[[Table], sql.Composed]


class PostgresRows:
    """Raises `NotYetApplied` too while a read model has not held all of the log once."""

    def __init__(self, pool: Pool, arrivals: Arrivals) -> None:
        self._pool = pool
        self._arrivals = arrivals
        self._tables: dict[str, Table] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["PostgresRows"]:
        async with (
            open_pool(url, ROLE, size=POOL_SIZE, configure=_configure, timezone="UTC") as pool,
            Arrivals.open(pool, ROLE) as arrivals,
        ):
            yield cls(pool, arrivals)

    async def ready(self, model: ReadModel[Any]) -> bool:
        """Whether the model's tables are there and have held all of the log once."""
        async with self._pool.connection() as connection:
            try:
                return await served_of(connection, self._table(model)) is not None
            except errors.UndefinedTable:
                return False

    async def select(
        self,
        model: ReadModel[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
        *,
        ever: LiteralString | None = None,  # noqa: ARG002 - the present needs no help
    ) -> Answer[Row]:
        at, build, values = await self._applied(model, lambda table: _select(table, where), parameters, ask)
        table = self._table(model)
        return Answer(tuple(Versioned(_row(table, row), row[-1]) for row in values), at, build)

    async def parts(
        self,
        model: ReadModel[Any],
        ever: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
        limit: int,
    ) -> tuple[Mapping[str, Sequence[str]], Token, str]:
        """The names of the parts of the first rows that satisfy `ever`, by key; where that holds; build."""
        where = sql.SQL(ever) + sql.SQL(" limit {}").format(limit)
        return await self._parts(model, where, parameters, ask)

    async def parts_of(
        self, model: ReadModel[Any], key: str, ask: Ask
    ) -> tuple[Mapping[str, Sequence[str]], Token, str]:
        """As `parts`, of the row with this key."""
        where = sql.SQL("{} = %(key)s").format(self._table(model).key.identifier)
        return await self._parts(model, where, {"key": key}, ask)

    async def _parts(
        self, model: ReadModel[Any], where: sql.Composed, parameters: Mapping[str, object], ask: Ask
    ) -> tuple[Mapping[str, Sequence[str]], Token, str]:
        def query(table: Table) -> sql.Composed:
            return (
                sql.SQL("select {}, parts from {} as {} where ").format(
                    table.key.identifier, table.identifier, sql.Identifier(model.name)
                )
                + where
            )

        at, build, values = await self._applied(model, query, parameters, ask)
        table = self._table(model)
        return {key: list(table.decode(parts)) for key, parts in values}, at, build

    async def among(
        self,
        model: ReadModel[Row],
        rows: Sequence[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
    ) -> Sequence[Row]:
        """Those of the given rows that satisfy `where`, as if they were the stored ones."""
        table = self._table(model)
        columns = table.columns
        given = {
            f"column_{number}": [column.value(getattr(row, column.name)) for row in rows]
            for number, column in enumerate(columns)
        }
        async with self._pool.connection() as connection:
            found = await connection.execute(_select_given(table, where), {**parameters, **given})
            return [_row(table, row) for row in await found.fetchall()]

    async def _applied(
        self, model: ReadModel[Any], query: _QueryOf, parameters: Mapping[str, object], ask: Ask
    ) -> tuple[Token, str, list[tuple[Any, ...]]]:
        """Where the build stood, its name, and what the query found, once what is asked for is applied."""
        clock, contexts = asyncio.get_running_loop().time, contexts_of(model)
        deadline = clock() + ask.wait_s
        marks = ask.after.marks if ask.after else {}
        wanted = {lane: mark.position for lane, mark in marks.items() if lane[0] in contexts}
        while True:
            looks = self._arrivals.looks
            found = await self._found(model, query, parameters)
            if found is not None and (ask.after is None or _reached(ask.after, found[0], contexts)):
                return found
            left = deadline - clock()
            if left <= 0:
                raise NotYetApplied
            await self._arrivals.wait(self._table(model).declaration, wanted, looks, left)

    async def _found(
        self, model: ReadModel[Any], query: _QueryOf, parameters: Mapping[str, object]
    ) -> tuple[Token, str, list[tuple[Any, ...]]] | None:
        """None while no build is served. Which one is, is asked together with its rows, of one snapshot."""
        for _ in range(MAX_LOOKS):
            table = self._table(model)
            try:
                async with self._pool.connection() as connection, connection.pipeline():
                    found = await connection.execute(_AT, [table.declaration])
                    # Not prepared: a plan for any parameters does not know how many rows these ones find.
                    rows = await connection.execute(query(table), parameters, prepare=False)
                    marks, values = await found.fetchall(), await rows.fetchall()
            except errors.UndefinedTable:  # none was ever made, or another is served by now
                if not await self._look_again(table):
                    return None
                continue
            if not marks:
                return None
            *_, incarnation, number, build = marks[0]
            if build == table.build:
                at = Token(incarnation, {(mark[0], mark[1]): Mark(mark[2], mark[3]) for mark in marks})
                return at, f"{build}.{number}", values
            self._tables[model.name] = Table(model, build)
        return None

    async def _look_again(self, asked: Table) -> bool:
        """Whether another build is served than the one that was asked."""
        async with self._pool.connection() as connection:
            try:
                served = await served_of(connection, asked)
            except errors.UndefinedTable:
                return False
        if served is None or served.build == asked.build:
            return False
        self._tables[asked.model.name] = served
        return True

    def _table(self, model: ReadModel[Any]) -> Table:
        """The build that is served, as far as is known here."""
        if model.name not in self._tables:
            self._tables[model.name] = Table(model)
        return self._tables[model.name]


async def _configure(connection: Connection) -> None:
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    set_json_loads(msgspec.json.decode, connection)


def _select(table: Table, where: LiteralString) -> sql.Composed:
    shown = sql.SQL(
        "select {columns}, revision "
        "from (select {columns}, revision from {table} where shown) as {name} where "
    ).format(
        columns=sql.SQL(", ").join(column.identifier for column in table.columns),
        table=table.identifier,
        name=sql.Identifier(table.model.name),
    )
    return shown + sql.SQL(where)


def _select_given(table: Table, where: LiteralString) -> sql.Composed:
    """As `_select`, of rows given as arrays; text is compared as it is in the table."""
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


def _row(table: Table, values: Sequence[Any]) -> Any:  # noqa: ANN401 - the model's row
    names = [column.name for column in table.columns]
    return msgspec.convert(dict(zip(names, values, strict=False)), table.model.row)


def _reached(after: Token, at: Token, contexts: tuple[str, ...]) -> bool:
    if after.incarnation != at.incarnation:
        raise ForeignToken
    reached = True
    for (context, lane), mark in after.marks.items():
        if context not in contexts:
            continue
        have = at.marks.get((context, lane))
        if have is None or (have.position == mark.position and have.event_id != mark.event_id):
            raise ForeignToken
        reached = reached and have.position >= mark.position
    return reached
