"""The read models as queries see them: one snapshot holds the rows and the vector they hold at."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeVar

import msgspec
from psycopg import IsolationLevel, errors, sql
from psycopg.types.json import set_json_loads

from domain.envelope import Mark, Token
from projections.ports import Answer, Ask, ForeignToken, NotYetApplied, ReadModel, Versioned
from runtime.postgres import Connection, Pool, open_pool
from runtime.read_models.folding import contexts_of
from runtime.read_models.tables import Table

ROLE: Final = "tallybook_reader"
POOL_SIZE: Final = 10
FIRST_POLL_S: Final = 0.005
LONGEST_POLL_S: Final = 0.05

Row = TypeVar("Row")

_AT = """
select context, lane, position, event_id::text, incarnation::text, number
from read.checkpoints join read.builds using (build)
where build = %s and caught_up
"""


class PostgresRows:
    """Raises `NotYetApplied` too while a read model has not held all of the log once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tables: dict[str, Table] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["PostgresRows"]:
        async with open_pool(url, ROLE, size=POOL_SIZE, configure=_configure) as pool:
            yield cls(pool)

    async def ready(self, model: ReadModel[Any]) -> bool:
        """Whether the model's tables are there and have held all of the log once."""
        async with self._pool.connection() as connection:
            try:
                found = await connection.execute(
                    "select from read.builds where build = %s and caught_up", [self._table(model).build]
                )
            except errors.UndefinedTable:
                return False
            return found.rowcount == 1

    async def select(
        self,
        model: ReadModel[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
    ) -> Answer[Row]:
        table = self._table(model)
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + ask.wait_s, FIRST_POLL_S
        while True:
            answer = await self._answer(table, where, parameters, ask)
            if answer is not None:
                return answer
            left = deadline - clock()
            if left <= 0:
                raise NotYetApplied
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_POLL_S)

    async def _answer(
        self, table: Table, where: LiteralString, parameters: Mapping[str, object], ask: Ask
    ) -> Answer[Any] | None:
        """None while the tables are not there or have not applied what is asked for."""
        try:
            async with self._pool.connection() as connection, connection.pipeline():
                found = await connection.execute(_AT, [table.build])
                rows = await connection.execute(_select(table, where), parameters)
                marks, values = await found.fetchall(), await rows.fetchall()
        except errors.UndefinedTable:
            return None
        if not marks:
            return None
        at = Token(marks[0][4], {(mark[0], mark[1]): Mark(mark[2], mark[3]) for mark in marks})
        if ask.after is not None and not _reached(ask.after, at, contexts_of(table.model)):
            return None
        names = [column.name for column in table.columns]
        return Answer(
            rows=tuple(
                Versioned(msgspec.convert(dict(zip(names, row, strict=False)), table.model.row), row[-1])
                for row in values
            ),
            at=at,
            build=f"{table.build}.{marks[0][5]}",
        )

    def _table(self, model: ReadModel[Any]) -> Table:
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
