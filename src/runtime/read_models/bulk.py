"""An empty build, filled from the log in bulk: read in the log's order, folded in memory, copied out.

Nobody reads the build meanwhile and nobody else writes it, so rows and checkpoints need not move together:
the build is marked as being filled, and only the last transaction makes it one like others. Should this end
before, what is in the build is worth nothing, and who fills it next begins by emptying it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from statistics import fmean
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import set_json_dumps

from domain.envelope import Mark, Recorded
from runtime.log.reading import LogReader
from runtime.points import reached
from runtime.postgres import Connection
from runtime.read_models import builds
from runtime.read_models.apply import REFUSED_VALUES, stored_parts, update
from runtime.read_models.builds import BuildGone, Lane
from runtime.read_models.folding import Parts, contexts_of, fold, keys_of, types_of
from runtime.read_models.parked import skips_of
from runtime.read_models.tables import Table
from runtime.read_models.verify import Progress

logger = logging.getLogger(__name__)

PAGE_POSITIONS: Final = 1_000
"""So few that what is read of them is still in the cache of the processor when it is folded."""
NEAR_POSITIONS: Final = 5_000
"""How far from the end of the log a build is left to those who feed it."""
MAX_ROUNDS: Final = 100
"""How often the log is looked at anew, whether it has grown too far meanwhile."""
WRITE_ROWS: Final = 5_000
"""In one transaction."""
WEIGHED_ROWS: Final = 20
"""Of a page, to know how large rows are."""
_PATIENCE: Final[LiteralString] = "2h"


class Refused(Exception):
    """Something in the log is refused by a codec, a fold or a column."""


async def fill(
    connection: Connection, reader: LogReader, table: Table, progress: Progress, *, memory_bytes: int
) -> None:
    """Up to near the end of the log. Who calls is the only one to fill this build.

    Where something in the log is refused, the build is left empty: fed step by step, it parks that.

    `memory_bytes`: of the rows that are in memory, as they are stored; as Python has them, they take about
    five times as much. Raises BuildGone.
    """
    try:
        await _fill(connection, reader, table, progress, memory_bytes)
    except Refused as refused:
        logger.warning("%s is not filled in bulk, but step by step: %r", table.build, refused.__cause__)
        await builds.empty(connection, table)


async def _fill(
    connection: Connection, reader: LogReader, table: Table, progress: Progress, memory_bytes: int
) -> None:
    await builds.begin_filling(connection, table)
    logger.info("filling %s in bulk", table.build)
    skips = await skips_of(connection, table)
    folded = _Folded(connection, table, memory_bytes)
    types, contexts = types_of(table.model), contexts_of(table.model)
    after = 0
    for _ in range(MAX_ROUNDS):
        upto = await _end(reader, contexts)
        async for events in _pages(reader, types, after, upto):
            await folded.add(list(skips.out_of(events)))
            progress(len(events))
        near, after = upto - after <= NEAR_POSITIONS, upto
        if near:
            break
    await folded.write()
    await reached("before_filled")
    marks = {lane: mark for lane, mark in (await reader.heads(after)).items() if lane[0] in contexts}
    async with patient(connection):
        await builds.end_filling(connection, table, marks)
        if await skips_of(connection, table) != skips:  # it holds the checkpoints, which whoever skips must
            raise BuildGone(f"an event of {table.model.name} was skipped while {table.build} was filled")


async def _end(reader: LogReader, contexts: Sequence[str]) -> int:
    heads: Mapping[Lane, Mark] = await reader.heads()
    return max((mark.position for (context, _), mark in heads.items() if context in contexts), default=0)


async def _pages(
    reader: LogReader, types: Sequence[str], after: int, upto: int
) -> AsyncIterator[Sequence[Recorded]]:
    """Events; PostgreSQL looks for the next ones while these are folded."""

    def read(first: int) -> asyncio.Task[Sequence[Recorded]]:
        return asyncio.create_task(
            reader.read_types(types, after=first, upto=min(first + PAGE_POSITIONS, upto))
        )

    coming = read(after)
    try:
        for first in range(after, upto, PAGE_POSITIONS):
            with _refusals():
                page = await coming
            coming = read(first + PAGE_POSITIONS)
            await asyncio.sleep(0)  # so that it is asked for
            yield page
    finally:
        coming.cancel()
        await asyncio.wait({coming})


class _Folded:
    """Rows in memory, until there are too many."""

    def __init__(self, connection: Connection, table: Table, memory_bytes: int) -> None:
        self._connection = connection
        self._table = table
        self._memory_bytes = memory_bytes
        self._rows: dict[str, Parts] = {}
        self._changed: set[str] = set()
        self._stored: set[str] = set()
        self._row_bytes = 0.0
        self._written = False

    async def add(self, events: Sequence[Recorded]) -> None:
        if self._written:
            await self._fetch(events)
        with _refusals():
            changed = fold(self._table.model, self._rows, events)
            self._changed |= changed
            self._weigh(changed)
        if len(self._rows) * self._row_bytes > self._memory_bytes:
            await self.write()

    def _weigh(self, changed: set[str]) -> None:
        """How large a row is by now, of some that this page has changed: those that grow are among them."""
        if some := [len(self._table.encode(self._rows[key])) for key in islice(changed, WEIGHED_ROWS)]:
            self._row_bytes = fmean(some)

    async def _fetch(self, events: Sequence[Recorded]) -> None:
        """What was written before of the rows that these events feed."""
        with _refusals():
            keys = {key for event in events for key in keys_of(self._table.model, event)} - self._rows.keys()
        found = await stored_parts(self._connection, self._table, sorted(keys))
        self._rows |= {key: self._table.decode(parts) for key, parts in found.items()}
        self._stored |= found.keys()

    async def write(self) -> None:
        for keys, put in (
            (self._changed - self._stored, self._copy),
            (self._changed & self._stored, self._update),
        ):
            in_order = sorted(keys)
            for first in range(0, len(in_order), WRITE_ROWS):
                with _refusals():
                    # On disk before the last transaction, which waits for that, says that they are there.
                    async with patient(self._connection, synchronous_commit="off"):
                        await put(in_order[first : first + WRITE_ROWS])
        for held in (self._rows, self._changed, self._stored):
            held.clear()
        self._written = True

    async def _copy(self, keys: Sequence[str]) -> None:
        """Each row is made when it is sent, so that PostgreSQL takes in one while the next is made."""
        table = self._table
        columns = [*table.written, sql.Identifier("revision")]
        statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(
            table.identifier, sql.SQL(", ").join(columns)
        )
        async with self._connection.cursor() as cursor:
            set_json_dumps(str, cursor)  # the value of such a column is JSON already
            async with cursor.copy(statement) as copy:
                copy.set_types([*table.types, "bigint"])
                for key in keys:
                    await copy.write_row((key, *table.values(self._rows[key]), 1))

    async def _update(self, keys: Sequence[str]) -> None:
        values = {key: self._table.values(self._rows[key]) for key in keys}
        await update(self._connection, self._table, values)


@contextmanager
def _refusals() -> Iterator[None]:
    """Raises Refused for what is neither the database's fault nor this machine's."""
    try:
        yield
    except REFUSED_VALUES as refused:
        raise Refused from refused
    except (MemoryError, psycopg.Error):
        raise
    except Exception as refused:
        raise Refused from refused


@asynccontextmanager
async def patient(connection: Connection, **settings: str) -> AsyncIterator[None]:
    """A transaction that may take long, with these settings besides."""
    patience = {"statement_timeout": _PATIENCE, "transaction_timeout": _PATIENCE}
    async with connection.transaction():
        for name, value in (patience | settings).items():
            await connection.execute(
                sql.SQL("set local {} = {}").format(sql.Identifier(name), sql.Literal(value))
            )
        yield
