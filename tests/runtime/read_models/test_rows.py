"""What queries are told: rows and vector of one snapshot, after what was asked for, or not at all."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
from fresh_fold import fresh_fold
from history import NOON, Facts, history, received, stock_of
from psycopg import OperationalError
from read_side import ReadSide, running
from wire import wire_to

from domain.envelope import Mark, Recorded, Token
from domain.price import PriceSet
from projections import READ_MODELS
from projections.order_detail import ORDER_DETAIL, order_of
from projections.ports import Ask, ForeignToken, NotYetApplied
from projections.product_detail import product_of, product_with_slug
from projections.stock_availability import STOCK_AVAILABILITY, availability_of
from runtime import projector
from runtime.read_models import rows as reading
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

ANY = Ask()
SNAPSHOTS = 400


@pytest.fixture
async def rows(side: ReadSide) -> AsyncIterator[PostgresRows]:
    async with PostgresRows.open(side.read_url) as rows:
        yield rows


@asynccontextmanager
async def projecting(side: ReadSide, facts: Sequence[Facts] = ()) -> AsyncIterator[None]:
    """With these facts written and applied."""
    await side.write(facts)
    async with running(side.projector()):
        await side.converge()
        yield


async def token_of(side: ReadSide, *events: Recorded) -> Token:
    marks = {(event.context, event.lane): Mark(event.position, event.event_id) for event in events}
    return Token(await side.reader.incarnation(), marks)


async def test_every_row_is_answered_as_the_fold_made_it(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=31, appends=60))):
        for model in READ_MODELS:
            expected = await fresh_fold(side.reader, model)
            answer = await rows.select(model, "true", {}, ANY)
            key = Table(model).key.name
            assert {getattr(one.row, key): one.row for one in answer.rows} == {
                key: row for key, row in expected.items() if row is not None
            }
            assert expected


async def test_queries_find_by_key_slug_and_skus_in_order(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=32, appends=0))):
        [by_id] = (await product_of(rows, "p1", ANY)).rows
        [by_slug] = (await product_with_slug(rows, "slug-p1", ANY)).rows
        stocked = (await availability_of(rows, ["SKU4", "SKU0", "NONE"], ANY)).rows

        assert by_id == by_slug
        assert [variant.sku for variant in by_id.row.variants] == ["SKU2", "SKU3"]
        assert [(one.row.sku, one.row.available) for one in stocked] == [("SKU0", 1000), ("SKU4", 1000)]
        assert (await order_of(rows, "nowhere", ANY)).rows == ()


async def test_a_row_with_nothing_to_show_yet_is_not_shown(side: ReadSide, rows: PostgresRows) -> None:
    price = PriceSet("e", "p9", "v9", "EUR", 100, NOON)
    async with projecting(side, [[("price-v9", price)]]):
        assert (await product_of(rows, "p9", ANY)).rows == ()


async def test_the_vector_of_an_answer_is_where_the_log_stood(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=33, appends=20))):
        await rows_have(side, rows)
        answer = await rows.select(ORDER_DETAIL, "true", {}, ANY)

        heads = await side.reader.heads()
        assert {lane: mark for lane, mark in answer.at.marks.items() if mark.position} == {
            lane: mark for lane, mark in heads.items() if lane[0] == "orders"
        }
        assert answer.at.incarnation == await side.reader.incarnation()


async def rows_have(side: ReadSide, rows: PostgresRows) -> None:
    token = Token(await side.reader.incarnation(), await side.reader.heads())
    for model in READ_MODELS:
        await rows.select(model, "true", {}, Ask(token, 5.0))


async def test_rows_and_vector_are_of_one_snapshot_while_the_rows_change(
    side: ReadSide, rows: PostgresRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "WATCH_S", 0.0)

    async def write() -> None:
        while True:
            await side.writer.append((stock_of(0), received(0, 1)))

    async with projecting(side, [[(stock_of(0), received(0, 1))]]):
        writing = asyncio.create_task(write())
        answers = [await availability_of(rows, ["SKU0"], ANY) for _ in range(SNAPSHOTS)]
        writing.cancel()
        await asyncio.wait({writing})
    versions = {event.position: event.version for event in await side.reader.read(0, limit=1_000_000)}
    seen = [
        (answer.rows[0].row.version, max(at.position for at in answer.at.marks.values()))
        for answer in answers
    ]
    assert len(set(seen)) > 1
    assert [version for version, _ in seen] == [versions[position] for _, position in seen]


async def test_a_query_waits_for_what_its_token_names(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=34, appends=0))):
        for qty in range(1, 6):
            events = await side.writer.append((stock_of(0), received(0, 1)))
            ask = Ask(await token_of(side, *events), 5.0)
            [one] = (await availability_of(rows, ["SKU0"], ask)).rows
            assert one.row.on_hand == 1000 + qty


async def test_a_token_that_is_not_reached_in_time_is_refused(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=35, appends=0))):
        pass
    events = await side.writer.append((stock_of(0), received(0, 1)))
    token = await token_of(side, *events)

    with pytest.raises(NotYetApplied):
        await availability_of(rows, ["SKU0"], Ask(token, 0.1))
    assert len((await order_of(rows, "o", Ask(token, 0.0))).rows) == 0  # not of a context that feeds orders
    assert (await availability_of(rows, ["SKU0"], ANY)).rows[0].row.on_hand == 1000


async def test_a_token_of_another_history_is_foreign(side: ReadSide, rows: PostgresRows) -> None:
    async with projecting(side, list(history(seed=36, appends=0))):
        await rows_have(side, rows)
        heads = await side.reader.heads()
        lane, mark = next((lane, mark) for lane, mark in heads.items() if lane[0] == "inventory")
        token = Token(await side.reader.incarnation(), {lane: mark})
        assert (await availability_of(rows, ["SKU0"], Ask(token))).rows

        for foreign in (
            replace(token, incarnation="00000000-0000-7000-8000-00000000f0e1"),
            replace(token, marks={lane: replace(mark, event_id="00000000-0000-7000-8000-00000000f0e1")}),
            replace(token, marks={("inventory", 99): mark}),
        ):
            with pytest.raises(ForeignToken):
                await availability_of(rows, ["SKU0"], Ask(foreign))


async def test_every_write_raises_the_revision_and_no_other_write_does(
    side: ReadSide, rows: PostgresRows
) -> None:
    async def revision(sku: str, after: Token | None = None) -> int:
        return (await availability_of(rows, [sku], Ask(after, 5.0))).rows[0].revision

    async with projecting(side, list(history(seed=37, appends=0))):
        before, other = await revision("SKU0"), await revision("SKU1")
        events = await side.writer.append((stock_of(0), received(0, 1)))

        assert await revision("SKU0", await token_of(side, *events)) == before + 1
        assert await revision("SKU1") == other


async def test_a_build_made_again_answers_under_another_name(side: ReadSide, rows: PostgresRows) -> None:
    facts = list(history(seed=38, appends=0))
    async with projecting(side, facts):
        first = (await availability_of(rows, ["SKU0"], ANY)).build
    table = Table(STOCK_AVAILABILITY)
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        await owner.execute(f"drop table read.{table.build} cascade")
        await owner.execute("delete from read.builds where build = %s", [table.build])
    with pytest.raises(NotYetApplied):
        await availability_of(rows, ["SKU0"], ANY)
    async with projecting(side):
        answer = await availability_of(rows, ["SKU0"], Ask(None, 5.0))

    assert answer.rows[0].row.on_hand == 1000
    assert answer.build != first


async def test_nothing_is_ready_before_a_projector_has_caught_up(side: ReadSide, rows: PostgresRows) -> None:
    assert [await rows.ready(model) for model in READ_MODELS] == [False] * len(READ_MODELS)
    with pytest.raises(NotYetApplied):
        await order_of(rows, "o1", Ask(None, 0.05))

    async with running(side.projector()), asyncio.timeout(10):
        while not all([await rows.ready(model) for model in READ_MODELS]):
            await asyncio.sleep(0.02)
        assert (await order_of(rows, "o1", ANY)).rows == ()


async def test_the_plain_name_shows_what_a_person_may_read(side: ReadSide) -> None:
    async with projecting(side, list(history(seed=39, appends=10))):
        pass
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as person:
        await person.execute("set role tallybook_reader")
        found = await person.execute("select sku, on_hand, revision > 0 from read.stock_availability")
        assert len(await found.fetchall()) == 6
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await person.execute("update read.checkpoints set position = 0")


async def test_a_database_that_falls_silent_is_not_waited_for(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ANSWER_S", 0.3)
    async with (
        projecting(side),
        wire_to(side.read_url) as (wire, url),
        PostgresRows.open(url) as rows,
    ):
        await rows.select(STOCK_AVAILABILITY, "true", {}, ANY)  # a connection that is there already
        wire.deaf = True
        began = time.monotonic()
        for ask in (rows.select(STOCK_AVAILABILITY, "true", {}, ANY), rows.ready(STOCK_AVAILABILITY)):
            with pytest.raises(OperationalError, match=r"no answer|couldn't get a connection"):
                await ask
        assert time.monotonic() - began < 3.0
