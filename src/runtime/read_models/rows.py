"""The read models as queries see them: one snapshot holds the rows and the vector they hold at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, LiteralString, TypeVar

import msgspec
from psycopg import IsolationLevel, errors, sql
from psycopg.types.json import set_json_loads

from domain.envelope import Mark, Token
from projections.ports import Answer, Ask, ForeignToken, NotYetApplied, Omitted, ReadModel, Versioned
from runtime.cache import Cache
from runtime.postgres import Connection, Pool, answering, open_pool
from runtime.read_models.builds import served_of
from runtime.read_models.cached import LIFE, REMEMBER_LIFE, Place, keep, look_up
from runtime.read_models.folding import contexts_of
from runtime.read_models.parked import omitted_of
from runtime.read_models.statements import select, select_given, select_keys, select_revisions
from runtime.read_models.tables import Table
from runtime.read_models.waiting import Arrivals, Wanted

ROLE: Final = "tallybook_reader"
POOL_SIZE: Final = 10
ANSWER_S: Final = 10.0
"""For a connection and all that one query asks on it: a range of an index takes milliseconds."""

Row = TypeVar("Row")
T = TypeVar("T")

MAX_LOOKS: Final = 5
"""How often a build may be replaced while it is looked for."""

_AT = """
select context, lane, position, event_id::text, parked + skipped_upto > 0, incarnation::text, number, build,
    current_setting(%s)
from read.checkpoints join read.builds using (build)
where declaration = %s and served
"""
Values = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a query found, where its build stood then, and what that leaves out; all of one snapshot."""

    at: Token
    place: Place
    values: Values
    omitted: Omitted


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """`finish` makes the answer of what was found, while the snapshot lasts."""

    query: Callable[[Table], bytes | sql.Composed]
    parameters: Mapping[str, object]
    finish: Callable[[Connection, Table, Seen], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Contributors:
    """The names of the parts of rows, by key, where that holds, and what it leaves out."""

    names: Mapping[str, Sequence[str]]
    at: Token
    build: str
    omitted: Omitted


class PostgresRows:
    """Raises `NotYetApplied` too while a read model has not held all of the log once."""

    def __init__(self, pool: Pool, arrivals: Arrivals, held: Cache | None = None) -> None:
        self._pool = pool
        self._arrivals = arrivals
        self._held = held
        self._tables: dict[str, Table] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, held: Cache | None = None) -> AsyncIterator["PostgresRows"]:
        async with (
            open_pool(url, ROLE, size=POOL_SIZE, configure=_configure, timezone="UTC") as pool,
            Arrivals.open(pool, ROLE) as arrivals,
        ):
            yield cls(pool, arrivals, held)

    async def ready(self, model: ReadModel[Any]) -> bool:
        """Whether the model's tables are there and have held all of the log once."""
        async with answering(self._pool, ANSWER_S) as connection:
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
        if self._held is not None and model.cached and not self._held.rests:
            return await self._select_held(self._held, model, where, parameters, ask)
        question = Question(partial(select, where=where), parameters, _as_found)
        seen, values = await self._applied(model, question, ask)
        table = self._table(model)
        return Answer(
            tuple(_versioned(table, row) for row in values), seen.at, seen.place.build, seen.omitted
        )

    async def _select_held(
        self,
        held: Cache,
        model: ReadModel[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
    ) -> Answer[Row]:
        question = Question(partial(select_revisions, where=where), parameters, partial(_completed, held))
        seen, (rows, read) = await self._applied(model, question, ask)
        if read:
            await keep(held, seen.place, read)
        return Answer(tuple(rows), seen.at, seen.place.build, seen.omitted)

    async def parts(
        self,
        model: ReadModel[Any],
        ever: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
        limit: int,
    ) -> Contributors:
        """To the first rows that satisfy `ever`."""
        where = sql.SQL(ever) + sql.SQL(" limit {}").format(limit)
        return await self._parts(model, where, parameters, ask)

    async def parts_of(self, model: ReadModel[Any], key: str, ask: Ask) -> Contributors:
        """As `parts`, of the row with this key."""
        where = sql.SQL("{} = %(key)s").format(self._table(model).key.identifier)
        return await self._parts(model, where, {"key": key}, ask)

    async def _parts(
        self, model: ReadModel[Any], where: sql.Composed, parameters: Mapping[str, object], ask: Ask
    ) -> Contributors:
        def query(table: Table) -> sql.Composed:
            return (
                sql.SQL("select {}, parts from {} as {} where ").format(
                    table.key.identifier, table.identifier, sql.Identifier(model.name)
                )
                + where
            )

        seen, values = await self._applied(model, Question(query, parameters, _as_found), ask)
        table = self._table(model)
        names = {key: list(table.decode(parts)) for key, parts in values}
        return Contributors(names, seen.at, seen.place.build, seen.omitted)

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
        async with answering(self._pool, ANSWER_S) as connection:
            found = await connection.execute(select_given(table, where), {**parameters, **given})
            return [_row(table, row) for row in await found.fetchall()]

    async def _applied(self, model: ReadModel[Any], question: Question[T], ask: Ask) -> tuple[Seen, T]:
        """What the question found, and its answer, once what is asked for is applied."""
        clock, contexts = asyncio.get_running_loop().time, contexts_of(model)
        deadline = clock() + ask.wait_s
        marks = ask.after.marks if ask.after else {}
        wanted = Wanted(
            self._table(model).declaration,
            ask.after.incarnation if ask.after else None,
            {lane: mark.position for lane, mark in marks.items() if lane[0] in contexts},
        )
        looks = self._arrivals.looks
        if self._arrivals.expects(wanted):
            await self._arrivals.wait(wanted, looks, ask.wait_s)
        while True:
            looks = self._arrivals.looks
            found = await self._found(model, question, ask.after)
            if found is not None:
                return found
            left = deadline - clock()
            if left <= 0:
                raise NotYetApplied
            await self._arrivals.wait(wanted, looks, left)

    async def _found(
        self, model: ReadModel[Any], question: Question[T], after: Token | None
    ) -> tuple[Seen, T] | None:
        """None while no build is served that has applied `after`.

        Which build is served is asked together with its rows, of one snapshot.
        """
        for _ in range(MAX_LOOKS):
            table = self._table(model)
            try:
                async with answering(self._pool, ANSWER_S) as connection:
                    build, seen = await _ask(connection, table, question)
                    if build == table.build:
                        if after is not None and not _reached(after, seen.at, contexts_of(model)):
                            return None
                        return seen, await question.finish(connection, table, seen)
            except errors.UndefinedTable:  # none was ever made, or another is served by now
                if not await self._look_again(table):
                    return None
                continue
            if build is None:
                return None
            self._tables[model.name] = Table(model, build)
        return None

    async def _look_again(self, asked: Table) -> bool:
        """Whether another build is served than the one that was asked."""
        async with answering(self._pool, ANSWER_S) as connection:
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
    await connection.execute(REMEMBER_LIFE, [LIFE])
    await connection.commit()
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    set_json_loads(msgspec.json.decode, connection)


async def _ask(connection: Connection, table: Table, question: Question[Any]) -> tuple[str | None, Seen]:
    """The name of the build that is served, if one is, and what the question found in the table."""
    async with connection.pipeline():
        found = await connection.execute(_AT, [LIFE, table.declaration])
        # Not prepared: a plan for any parameters does not know how many rows these ones find.
        rows = await connection.execute(question.query(table), question.parameters, prepare=False)
        marks, values = await found.fetchall(), await rows.fetchall()
        if not marks:
            return None, Seen(Token("", {}), Place("", ""), values, Omitted())
        *_, incarnation, number, build, life = marks[0]
        omits = any(mark[4] for mark in marks)
        omitted = await omitted_of(connection, Table(table.model, build)) if omits else Omitted()
    at = Token(incarnation, {(mark[0], mark[1]): Mark(mark[2], mark[3]) for mark in marks}, seen=True)
    return build, Seen(at, Place(life, f"{build}.{number}"), values, omitted)


async def _as_found(_connection: Connection, _table: Table, seen: Seen) -> Values:
    return seen.values


async def _completed(
    held: Cache, connection: Connection, table: Table, seen: Seen
) -> tuple[list[Versioned[Any]], Mapping[str, Versioned[Any]]]:
    """The rows whose keys and revisions were found, in their order; and those that the cache did not have."""
    rows = await look_up(held, table.model, seen.place, seen.values)
    missing = [key for key, _ in seen.values if key not in rows]
    read = {}
    if missing:
        found = await connection.execute(select_keys(table), [missing])
        read = {row[0]: _versioned(table, row) for row in await found.fetchall()}
    return [rows.get(key) or read[key] for key, _ in seen.values], read


def _row(table: Table, values: Sequence[Any]) -> Any:  # noqa: ANN401 - the model's row
    names = [column.name for column in table.columns]
    return msgspec.convert(dict(zip(names, values, strict=False)), table.model.row)


def _versioned(table: Table, values: Sequence[Any]) -> Versioned[Any]:
    return Versioned(_row(table, values), values[-1])


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
