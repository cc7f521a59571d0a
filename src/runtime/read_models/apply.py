"""The fold's transaction: checkpoint and rows move together, or not at all.

The checkpoint is compared and set first, so of several workers on one lane one wins and the others find out
before they have read anything. Rows are locked in the order of their keys, after the missing ones have been
inserted in that order: two lanes that feed one row wait for each other and cannot deadlock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from psycopg import sql

from domain.envelope import Mark, Recorded
from runtime.points import reached
from runtime.postgres import Connection
from runtime.read_models.folding import Parts, fold, keys_of
from runtime.read_models.tables import Table

_MOVE = """
update read.checkpoints set position = %(position)s, event_id = %(event_id)s
where build = %(build)s and context = %(context)s and lane = %(lane)s
  and incarnation = %(incarnation)s and position = %(expected)s
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One lane's next events, and the marks before and after them."""

    context: str
    lane: int
    incarnation: str
    before: Mark
    events: Sequence[Recorded]

    @property
    def after(self) -> Mark:
        return Mark(self.events[-1].position, self.events[-1].event_id)


async def apply(connection: Connection, table: Table, step: Step) -> bool:
    """Folds the step's events into their rows; False if the checkpoint was not where the step begins.

    An event that leaves every part as it was writes no row, so the row's revision says that the row changed.
    """
    keys = sorted({key for event in step.events for key in keys_of(table.model, event)})
    async with connection.transaction():
        moved = await connection.execute(
            _MOVE,
            {
                "build": table.build,
                "context": step.context,
                "lane": step.lane,
                "incarnation": step.incarnation,
                "expected": step.before.position,
                "position": step.after.position,
                "event_id": step.after.event_id,
            },
        )
        if moved.rowcount != 1:
            return False
        if keys:
            rows = await _lock(connection, table, keys)
            changed = fold(table.model, rows, step.events)
            await _write(connection, table, {key: rows[key] for key in sorted(changed)})
        await reached("after_rows_before_commit")
    await reached("after_commit")
    return True


async def _lock(connection: Connection, table: Table, keys: list[str]) -> dict[str, Parts]:
    names = {"table": table.identifier, "key": table.key.identifier}
    await connection.execute(
        sql.SQL(
            "insert into {table} ({key}, parts, shown, revision) select unnest(%s::text[]), '{{}}', false, 0 "
            "on conflict do nothing"
        ).format(**names),
        [keys],
    )
    locked = await connection.execute(
        sql.SQL("select {key}, parts from {table} where {key} = any(%s) order by {key} for update").format(
            **names
        ),
        [keys],
    )
    return {key: table.decode(parts) for key, parts in await locked.fetchall()}


async def _write(connection: Connection, table: Table, rows: dict[str, Parts]) -> None:
    if not rows:
        return
    values = [[key, table.encode(parts), *table.row(parts)] for key, parts in rows.items()]
    arrays = [list(column) for column in zip(*values, strict=True)]
    await connection.execute(_update(table), arrays)


@cache
def _update(table: Table) -> sql.Composed:
    columns = table.columns[1:]
    fields = [sql.Identifier("parts"), *(column.identifier for column in columns), sql.Identifier("shown")]
    types = [sql.SQL("bytea[]"), *(column.array for column in columns), sql.SQL("boolean[]")]
    return sql.SQL(
        "update {table} as stored set {sets}, revision = stored.revision + 1 "
        "from unnest(%b::text[], {casts}) as new ({key}, {fields}) where stored.{key} = new.{key}"
    ).format(
        table=table.identifier,
        key=table.key.identifier,
        sets=sql.SQL(", ").join(sql.SQL("{0} = new.{0}").format(field) for field in fields),
        casts=sql.SQL(", ").join(sql.SQL("%b::{}").format(type_) for type_ in types),
        fields=sql.SQL(", ").join(fields),
    )
