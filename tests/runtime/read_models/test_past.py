"""A question about the past is answered as it would have been then."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from history import history, received, stock_of
from read_side import ReadSide, running

from projections import READ_MODELS
from projections.order_detail import order_of
from projections.ports import Ask, BeyondTheLog, NotYetApplied, TooMuchHistory
from projections.sales_daily import SalesFilter, sales_of
from projections.stock_availability import STOCK_AVAILABILITY, availability_of
from runtime.read_models import past
from runtime.read_models.folding import Model, fold
from runtime.read_models.past import PastRows
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

SKUS = [f"SKU{number}" for number in range(6)]


@pytest.fixture
async def rows(side: ReadSide) -> AsyncIterator[PastRows]:
    """Over some history, all of it applied."""
    await side.write(list(history(seed=7, appends=120)))
    async with running(side.projector()):
        await side.converge()
    async with PostgresRows.open(side.read_url) as rows:
        yield PastRows(rows, side.reader)


async def folded(side: ReadSide, model: Model, upto: int) -> dict[str, Any]:
    """The rows of a shop whose log stopped there."""
    parts: dict[str, dict[str, Any]] = {}
    events = await side.reader.read(0, upto) if upto else []
    fold(model, parts, map(side.reader.decode, events))
    combined = {key: model.combine(of_row) for key, of_row in parts.items() if of_row}
    return {key: row for key, row in combined.items() if row is not None}


async def test_at_any_position_every_row_is_that_of_a_shop_that_stopped_there(
    side: ReadSide, rows: PastRows
) -> None:
    head = (await side.reader.head()).position
    chance = random.Random(1)  # noqa: S311 - positions
    for position in (0, 1, *(chance.randrange(head) for _ in range(10)), head):
        for model in READ_MODELS:
            expected = await folded(side, model, position)
            for ever in ("true", None):
                answer = await rows.select(model, "true", {}, Ask(as_of=position), ever=ever)
                key = Table(model).key.name
                assert {getattr(one.row, key): one.row for one in answer.rows} == expected
                assert all(mark.position <= position for mark in answer.at.marks.values())


async def test_the_same_query_reads_it_with_its_order_and_limits(side: ReadSide, rows: PastRows) -> None:
    position = (await side.reader.head()).position * 2 // 3
    expected = await folded(side, STOCK_AVAILABILITY, position)
    answer = await availability_of(rows, SKUS[:3], Ask(as_of=position))
    wanted = sorted(
        (row for row in expected.values() if row.sku in SKUS[:3]), key=lambda row: (row.sku, row.location)
    )
    assert [one.row for one in answer.rows] == wanted
    sales = await sales_of(rows, SalesFilter(), Ask(as_of=position), limit=1)
    assert len(sales.rows) == 1


async def test_an_order_is_there_from_its_own_event_on(side: ReadSide, rows: PastRows) -> None:
    placed = next(event for event in await side.reader.read(0) if event.type == "order.placed.v1")
    order_id = placed.stream.removeprefix("order-")
    assert (await order_of(rows, order_id, Ask(as_of=placed.position - 1))).rows == ()
    [then] = (await order_of(rows, order_id, Ask(as_of=placed.position))).rows
    assert (then.row.status, then.row.version, then.revision) == ("placed", 1, placed.position)


async def test_a_time_is_a_position_for_ever(side: ReadSide, rows: PastRows) -> None:
    events = await side.reader.read(0)
    for event in events[:: len(events) // 7]:
        last = max(one.position for one in events if one.recorded_at <= event.recorded_at)
        assert await rows.position_at(event.recorded_at) == last
    assert await rows.position_at(events[0].recorded_at - timedelta(microseconds=1)) == 0
    newest = events[-1].recorded_at
    assert await rows.position_at(newest) == events[-1].position
    with pytest.raises(BeyondTheLog) as beyond:
        await rows.position_at(newest + timedelta(microseconds=1))
    assert beyond.value.head == events[-1].position
    await rows.must_reach(events[-1].position)
    with pytest.raises(BeyondTheLog):
        await rows.must_reach(events[-1].position + 1)


async def test_what_happened_later_does_not_change_the_past(side: ReadSide, rows: PastRows) -> None:
    position = (await side.reader.head()).position
    before = await rows.select(STOCK_AVAILABILITY, "true", {}, Ask(as_of=position), ever="true")
    await side.write([[(stock_of(number), received(number, 5))] for number in range(6)])
    async with running(side.projector()):
        await side.converge()
    assert await rows.select(STOCK_AVAILABILITY, "true", {}, Ask(as_of=position), ever="true") == before


async def test_more_history_than_is_looked_into_is_refused(
    rows: PastRows, side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Ask(as_of=(await side.reader.head()).position)
    monkeypatch.setattr(past, "MAX_EVENTS", 3)
    for ever in ("true", None):
        with pytest.raises(TooMuchHistory):
            await rows.select(STOCK_AVAILABILITY, "true", {}, ask, ever=ever)


async def test_of_more_rows_than_are_looked_up_the_past_is_the_same(
    rows: PastRows, side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    for position in (1, 40, (await side.reader.head()).position):
        looked_up = await rows.select(STOCK_AVAILABILITY, "true", {}, Ask(as_of=position), ever="true")
        with monkeypatch.context() as patch:
            patch.setattr(past, "MAX_ROWS", 1)
            read = await rows.select(STOCK_AVAILABILITY, "true", {}, Ask(as_of=position), ever="true")
        assert set(read.rows) == set(looked_up.rows)


async def test_the_past_is_told_once_the_read_models_have_seen_it(side: ReadSide) -> None:
    """Which rows there were then is known from the rows of today."""
    facts = list(history(seed=9, appends=20))
    await side.write(facts[:-5])
    async with running(side.projector()):
        await side.converge()
    await side.write(facts[-5:])
    async with PostgresRows.open(side.read_url) as present:
        rows = PastRows(present, side.reader)
        head = (await side.reader.head()).position
        behind = 0
        for model in READ_MODELS:
            try:
                await rows.select(model, "true", {}, Ask(as_of=head), ever="true")
            except NotYetApplied:
                behind += 1
        assert behind
        for model in READ_MODELS:
            await rows.select(model, "true", {}, Ask(as_of=1), ever="true")


async def test_a_row_is_explained_by_the_events_that_made_it(side: ReadSide, rows: PastRows) -> None:
    head = (await side.reader.head()).position
    for model in READ_MODELS:
        expected = await folded(side, model, head)
        for key in sorted(expected)[:3]:
            steps, at = await rows.explain(model, key, None, Ask())
            positions = [step.recorded.position for step in steps]
            assert positions == sorted(set(positions))
            assert steps[-1].value == expected[key]
            for step in steps:
                then = await folded(side, model, step.recorded.position)
                assert step.value == then.get(key)
            middle = positions[len(positions) // 2]
            until, _ = await rows.explain(model, key, None, Ask(as_of=middle))
            assert until == [step for step in steps if step.recorded.position <= middle]
            assert at.marks


async def test_a_field_is_explained_by_what_changed_it(side: ReadSide, rows: PastRows) -> None:
    steps, _ = await rows.explain(STOCK_AVAILABILITY, "SKU0@MAIN", "on_hand", Ask())
    assert {step.recorded.type for step in steps} == {"stock.received.v1"}
    values = [step.value for step in steps]
    assert values == sorted(set(values))
    held, _ = await rows.explain(STOCK_AVAILABILITY, "SKU0@MAIN", "reserved", Ask())
    assert "stock.reserved.v1" in {step.recorded.type for step in held}
    assert (await rows.explain(STOCK_AVAILABILITY, "NOTHING@MAIN", None, Ask()))[0] == []
