"""An empty build is filled from the log in bulk: the same rows as step by step, whatever ends it between."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from history import history, received, stock_of
from poison import poisoned
from psycopg import sql
from read_side import ReadSide, running

from domain.envelope import Mark
from projections import READ_MODELS
from projections._stock_part import StockPart
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import projector
from runtime.audit_log.history import History
from runtime.postgres import Connection
from runtime.read_models import builds, bulk
from runtime.read_models.builds import BuildGone, Lane
from runtime.read_models.feeding import Feeder
from runtime.read_models.folding import Model
from runtime.read_models.resuming import parked_in
from runtime.read_models.tables import Table
from runtime.read_models.verify import Verified, verify

pytestmark = pytest.mark.anyio

ALL_IN_MEMORY = 2**30
FILL_SECONDS = 20.0


async def made(side: ReadSide, model: Model) -> Table:
    async with side.pool.connection() as connection:
        incarnation, lanes = await side.reader.incarnation(), await side.reader.lanes()
        await builds.create(connection, Table(model), lanes, incarnation)
    return Table(model)


async def filled(side: ReadSide, table: Table, memory_bytes: int = ALL_IN_MEMORY) -> Mapping[Lane, Mark]:
    """Where it stands then; it is served, so that it can be verified."""
    async with side.pool.connection() as connection:
        await bulk.fill(connection, side.reader, table, lambda _: None, memory_bytes=memory_bytes)
        await builds.has_caught_up(connection, table)
        return await builds.marks_of(connection, table.build)


async def verified(side: ReadSide, model: Model) -> Verified:
    with History.open(side.log_url) as log:
        return await verify(log, side.read_url, model, lambda _: None)


@pytest.mark.parametrize("memory_bytes", [0, ALL_IN_MEMORY])
@pytest.mark.parametrize("model", READ_MODELS, ids=lambda model: model.name)
async def test_the_rows_are_the_fold_of_the_log_however_little_is_in_memory(
    side: ReadSide, model: Model, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE_POSITIONS", 40)
    monkeypatch.setattr(bulk, "WRITE_ROWS", 7)
    await side.write(list(history(seed=11, appends=80)))
    marks = await filled(side, await made(side, model), memory_bytes)
    heads = await side.reader.heads()
    assert marks == {lane: heads.get(lane, builds.NOWHERE) for lane in marks}
    found = await verified(side, model)
    assert (found.differing, found.told) == (0, [])
    assert found.rows > 0


@pytest.mark.parametrize("model", READ_MODELS, ids=lambda model: model.name)
async def test_it_has_the_indexes_of_one_that_was_fed_from_the_beginning(
    side: ReadSide, model: Model
) -> None:
    table = await made(side, model)
    before = await indexes_of(side, table)
    await filled(side, table)
    assert await indexes_of(side, table) == before


async def indexes_of(side: ReadSide, table: Table) -> list[str]:
    async with side.pool.connection() as connection:
        found = await connection.execute(
            "select indexdef from pg_indexes where schemaname = 'read' and tablename = %s order by 1",
            [table.build],
        )
        return [definition for (definition,) in await found.fetchall()]


async def test_what_the_log_gains_meanwhile_is_filled_in_too_until_its_end_is_near(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "NEAR_POSITIONS", 10)
    await side.write(list(history(seed=11, appends=40)))
    heads, grown = side.reader.heads, asyncio.Event()

    async def growing(upto: int = 2**62) -> Mapping[Lane, Mark]:
        found = await heads(upto)
        if not grown.is_set():
            grown.set()
            await side.write([[(stock_of(0), received(0, 1))] for _ in range(30)])
        return found

    monkeypatch.setattr(side.reader, "heads", growing)
    await filled(side, await made(side, STOCK_AVAILABILITY))
    found = await verified(side, STOCK_AVAILABILITY)
    assert (found.differing, found.head) == (0, (await side.reader.head()).position)


async def test_what_is_refused_is_left_to_be_fed_step_by_step(side: ReadSide) -> None:
    await side.write(list(history(seed=11, appends=40)))
    poison = next(one for one in await side.reader.read(0) if one.stream == stock_of(0))
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    table = await made(side, model)
    before = await indexes_of(side, table)
    marks = await filled(side, table)
    assert set(marks.values()) == {builds.NOWHERE}
    assert await indexes_of(side, table) == before
    async with running(projector.Projector(side.reader, side.pool, "127.0.0.1:1", [model])):
        await until_parked(side, table)


@dataclass(frozen=True, slots=True)
class Anything:
    """A column of each type that there is, and nothing in some."""

    id: str
    amount: Decimal
    none: Decimal | None
    flag: bool
    at: datetime | None
    kind: StrEnum
    tags: tuple[str, ...] | None
    text: str = "é"
    number: int = -(2**63)


KIND = StrEnum("KIND", ["one"])


def showing(row: Any) -> Model:
    """Rows of which all but the key is as in this one."""

    def combine(parts: Mapping[str, StockPart]) -> Any:
        [part] = parts.values()
        return replace(row, id=f"{part.sku}@{part.location}")

    return replace(STOCK_AVAILABILITY, row=type(row), combine=combine, indexes=())


@pytest.mark.parametrize(
    "row",
    [
        Anything(
            "", Decimal("-0.10"), None, True, datetime(2026, 2, 28, 1, 2, 3, 4, UTC), KIND("one"), ("é",)
        ),
        Anything("", Decimal("1e30"), Decimal(0), False, None, KIND("one"), None),
    ],
    ids=["something", "nothing"],
)
async def test_what_is_copied_is_what_is_inserted_step_by_step(side: ReadSide, row: Anything) -> None:
    await side.write(list(history(seed=11, appends=40)))
    copied = await made(side, showing(row))
    marks = await filled(side, copied)
    incarnation = await side.reader.incarnation()
    async with side.pool.connection() as connection:
        inserted = await builds.create_another(connection, copied, await side.reader.lanes(), incarnation)
        await Feeder(connection, side.reader, incarnation, lambda _: None).catch_up(inserted)
        assert await builds.marks_of(connection, inserted.build) == marks
        rows, expected = [await rows_of(connection, table) for table in (copied, inserted)]
    assert rows == expected != []


async def rows_of(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    query = sql.SQL("select {} from {} order by id").format(
        sql.SQL(", ").join(table.written), table.identifier
    )
    return await (await connection.execute(query)).fetchall()


@pytest.mark.parametrize(
    "change",
    [{"number": 2**63}, {"text": "\0"}, {"text": "\ud800"}, {"tags": ("\ud800",)}, {"amount": "x"}],
    ids=str,
)
async def test_a_build_with_a_value_that_no_column_holds_is_left_to_be_fed_step_by_step(
    side: ReadSide, change: Mapping[str, Any]
) -> None:
    await side.write(list(history(seed=11, appends=40)))
    sound = Anything("", Decimal(1), None, True, None, KIND("one"), None)
    marks = await filled(side, await made(side, showing(replace(sound, **change))))
    assert set(marks.values()) == {builds.NOWHERE}


async def until_parked(side: ReadSide, table: Table) -> None:
    async with asyncio.timeout(FILL_SECONDS), side.pool.connection() as connection:
        while [one.stream for one in await parked_in(connection, table)] != [stock_of(0)]:
            await asyncio.sleep(0.05)


async def test_nobody_else_folds_into_what_is_being_filled(side: ReadSide) -> None:
    await side.write(list(history(seed=11, appends=40)))
    table = await made(side, SALES_DAILY)
    async with side.pool.connection() as connection:
        await builds.begin_filling(connection, table)
        assert await builds.fed_of(connection, [table]) == {}
        assert await builds.unfilled(connection, [table]) == {table.build: True}
    await filled(side, table)
    async with side.pool.connection() as connection:
        with pytest.raises(BuildGone):
            await builds.begin_filling(connection, table)
        assert (await builds.fed_of(connection, [table])).keys() == {table.build}
        assert await builds.unfilled(connection, [table]) == {}


@pytest.fixture
def short_logs_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "BULK_POSITIONS", 1)


@pytest.mark.usefixtures("short_logs_are_long")
async def test_projectors_fill_what_is_empty_and_go_on_from_there(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await side.write(list(history(seed=11, appends=60)))
    async with running(side.projector(), side.projector()):
        await side.write(list(history(seed=12, appends=60)))
        await side.converge()
    told = [record.message for record in caplog.records if record.message.endswith("in bulk")]
    assert sorted(told) == sorted(f"filling {Table(model).build} in bulk" for model in READ_MODELS)


KILLED = """
    import asyncio, sys
    from runtime import projector
    from runtime.log.reading import LogReader
    from runtime.postgres import open_pool

    async def main(log, read):
        projector.BULK_POSITIONS = 1
        async with (
            LogReader.open(log, projector.ROLE) as reader,
            open_pool(read, projector.ROLE, size=4, autocommit=True) as pool,
        ):
            await projector.Projector(reader, pool, "127.0.0.1:1").run()

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.usefixtures("short_logs_are_long")
async def test_what_a_killed_projector_left_half_filled_is_filled_anew(side: ReadSide) -> None:
    await side.write(list(history(seed=11, appends=60)))
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", textwrap.dedent(KILLED), side.log_url, side.read_url],
        env={**os.environ, "TALLYBOOK_CRASH_AT": "before_filled:3"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    async with side.pool.connection() as connection:
        empty = await builds.unfilled(connection, [Table(model) for model in READ_MODELS])
    assert sum(empty.values()) == 1
    async with running(side.projector()):
        await side.converge()
    for model in READ_MODELS:
        assert (await verified(side, model)).differing == 0
