"""The fold's transaction: rows and checkpoint together, or neither."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from fresh_fold import differing_rows
from history import NOON, history, item, received, stock_of
from read_side import ReadSide

from domain.envelope import Mark, Recorded
from domain.location import LocationRegistered
from domain.price import PriceSet
from domain.product import ProductDrafted, VariantAdded
from domain.stock import StockDepleted
from domain.values import Event
from projections.product_detail import PRODUCT_DETAIL
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.postgres import connect
from runtime.projector import ROLE
from runtime.read_models import apply as applying
from runtime.read_models import builds
from runtime.read_models.apply import Step, apply
from runtime.read_models.folding import Model, contexts_of
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

TABLE = Table(STOCK_AVAILABILITY)


@pytest.fixture(autouse=True)
async def build(side: ReadSide) -> None:
    async with side.pool.connection() as connection:
        await builds.create(connection, TABLE, await side.reader.lanes(), await side.reader.incarnation())


async def step(side: ReadSide, events: tuple[Recorded, ...], before: Mark = builds.NOWHERE) -> Step:
    return Step(events[0].context, events[0].lane, await side.reader.incarnation(), before, events)


async def applied(side: ReadSide, wanted: Step, table: Table = TABLE) -> bool:
    async with side.pool.connection() as connection:
        return bool(await apply(connection, table, [wanted]))


async def stored(side: ReadSide) -> list[tuple[str, int, int]]:
    """Key, on hand, revision."""
    async with side.pool.connection() as connection:
        rows = await connection.execute(f"select id, on_hand, revision from read.{TABLE.build} order by id")
        return await rows.fetchall()


async def mark(side: ReadSide, lane: builds.Lane) -> Mark:
    async with side.pool.connection() as connection:
        return (await builds.marks_of(connection, TABLE.build))[lane]


async def test_a_step_that_does_not_begin_at_the_checkpoint_changes_nothing(side: ReadSide) -> None:
    first = await side.writer.append((stock_of(0), received(0, 5)))
    second = await side.writer.append((stock_of(0), received(0, 7)))

    assert not await applied(side, await step(side, second, before=Mark(1, first[0].event_id)))
    assert await stored(side) == []
    assert await applied(side, await step(side, first))
    assert not await applied(side, await step(side, first))
    assert await stored(side) == [("SKU0@MAIN", 5, 1)]


async def test_a_step_of_events_that_were_applied_is_none(side: ReadSide) -> None:
    [event] = await side.writer.append((stock_of(0), received(0, 5)))
    with pytest.raises(ValueError, match="does not follow"):
        await step(side, (event,), before=Mark(event.position, event.event_id))


async def test_a_crash_before_the_commit_leaves_neither_row_nor_checkpoint(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = await side.writer.append((stock_of(0), received(0, 5)))

    async def crash(point: str) -> None:
        raise ConnectionAbortedError(point)

    with monkeypatch.context() as patch:
        patch.setattr(applying, "reached", crash)
        with pytest.raises(ConnectionAbortedError, match="after_rows_before_commit"):
            await applied(side, await step(side, events))

    assert await stored(side) == []
    assert await mark(side, (events[0].context, events[0].lane)) == builds.NOWHERE


@pytest.mark.parametrize("point", ["after_rows_before_commit", "after_commit"])
async def test_a_worker_that_dies_at_any_point_is_followed_by_one_that_applies_the_step_once(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    events = await side.writer.append((stock_of(0), received(0, 5)))

    async def dies(here: str) -> None:
        if here == point:
            raise ConnectionAbortedError(point)

    with monkeypatch.context() as patch:
        patch.setattr(applying, "reached", dies)
        with pytest.raises(ConnectionAbortedError, match=point):
            await applied(side, await step(side, events))
    if await mark(side, (events[0].context, events[0].lane)) == builds.NOWHERE:
        assert await applied(side, await step(side, events))

    assert await stored(side) == [("SKU0@MAIN", 5, 1)]
    assert await mark(side, (events[0].context, events[0].lane)) == Mark(1, events[0].event_id)


async def test_of_steps_of_several_lanes_those_are_taken_that_begin_at_their_checkpoints(
    side: ReadSide,
) -> None:
    await side.write(list(history(seed=21, appends=60)))
    lanes = await by_lane(side, STOCK_AVAILABILITY)
    steps = [await step(side, tuple(events)) for events in lanes.values()]
    late, others = steps[0], steps[1:]
    assert len(others) > 1
    async with side.pool.connection() as connection:
        first = Step(late.context, late.lane, late.incarnation, late.before, late.events[:1])
        assert await apply(connection, TABLE, [first]) == [first]
        assert await apply(connection, TABLE, steps) == others
        assert await apply(connection, TABLE, steps) == []
        rest = Step(late.context, late.lane, late.incarnation, first.after, late.events[1:])
        assert await apply(connection, TABLE, [rest]) == [rest]
        assert await differing_rows(side.reader, connection, STOCK_AVAILABILITY) == []
    for one in steps:
        assert await mark(side, one.place) == one.after


async def test_workers_with_the_same_lanes_in_any_order_never_wait_in_a_circle(side: ReadSide) -> None:
    await side.write(list(history(seed=22, appends=60)))
    lanes = await by_lane(side, STOCK_AVAILABILITY)
    steps = [await step(side, tuple(events)) for events in lanes.values()]
    chance = random.Random(22)  # noqa: S311 - not a secret

    async def work() -> int:
        async with connect(side.read_url, ROLE) as connection:
            return len(await apply(connection, TABLE, chance.sample(steps, len(steps))))

    assert sum(await asyncio.gather(*(work() for _ in range(8)))) == len(steps)
    async with side.pool.connection() as connection:
        assert await differing_rows(side.reader, connection, STOCK_AVAILABILITY) == []


async def test_an_event_that_feeds_no_row_moves_the_checkpoint_all_the_same(side: ReadSide) -> None:
    events = await side.writer.append(("location-L1", LocationRegistered("L1", "Berlin", "DE")))

    assert await applied(side, await step(side, events))

    assert await stored(side) == []
    assert await mark(side, (events[0].context, events[0].lane)) == Mark(1, events[0].event_id)


async def test_a_revision_is_raised_once_a_step_that_changes_the_row(side: ReadSide) -> None:
    events = await side.writer.append((stock_of(0), received(0, 5)), (stock_of(0), received(0, 6)))
    await applied(side, await step(side, events))
    assert await stored(side) == [("SKU0@MAIN", 11, 1)]

    more = await side.writer.append((stock_of(0), StockDepleted(*item(0), available=0)))
    await applied(side, await step(side, more, before=Mark(2, events[-1].event_id)))
    assert await stored(side) == [("SKU0@MAIN", 11, 2)]  # the row shows the stream's version


async def test_workers_on_lanes_that_feed_the_same_rows_wait_for_each_other(side: ReadSide) -> None:
    """All events of a lane in one step, all lanes at once, each pair of lanes on common rows."""
    await side.write(list(history(seed=21, appends=60)))
    lanes = await by_lane(side, STOCK_AVAILABILITY)

    done = await asyncio.gather(*[applied(side, await step(side, tuple(e))) for e in lanes.values()])

    assert all(done)
    async with side.pool.connection() as connection:
        assert await differing_rows(side.reader, connection, STOCK_AVAILABILITY) == []


async def by_lane(side: ReadSide, model: Model) -> dict[builds.Lane, list[Recorded]]:
    lanes: dict[builds.Lane, list[Recorded]] = {}
    for event in await side.reader.read(0):
        if event.context in contexts_of(model):
            lanes.setdefault((event.context, event.lane), []).append(side.reader.decode(event))
    return lanes


async def test_a_row_that_another_lane_makes_meanwhile_is_folded_again(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has written the row and not committed when the second finds it missing."""
    table = Table(PRODUCT_DETAIL)
    async with side.pool.connection() as connection:
        await builds.create(connection, table, await side.reader.lanes(), await side.reader.incarnation())
    drafted = ProductDrafted("p1", "slug", {"en": "Title"}, "standard")
    await side.writer.append(
        ("product-p1", drafted),
        ("product-p1", VariantAdded("p1", "v2", "SKU2", {}, 1)),
        ("price-v2", PriceSet("e", "p1", "v2", "EUR", 1, NOON)),
    )
    steps = [await step(side, tuple(events)) for events in (await by_lane(side, PRODUCT_DETAIL)).values()]
    assert len(steps) == 2
    written, go_on = asyncio.Event(), asyncio.Event()

    async def waits_once(point: str) -> None:
        if point == "after_rows_before_commit" and not written.is_set():
            written.set()
            await go_on.wait()

    monkeypatch.setattr(applying, "reached", waits_once)
    first = asyncio.create_task(applied(side, steps[0], table))
    await written.wait()
    second = asyncio.create_task(applied(side, steps[1], table))
    await asyncio.sleep(0.2)
    assert not second.done()
    go_on.set()
    assert all(await asyncio.gather(first, second))
    async with side.pool.connection() as connection:
        assert await differing_rows(side.reader, connection, PRODUCT_DETAIL) == []
        [(revision,)] = await (
            await connection.execute(f"select revision from read.{table.build}")
        ).fetchall()
        assert revision == 2


@pytest.mark.parametrize("seed", range(3))
async def test_lanes_that_make_the_same_rows_at_once_never_wait_in_a_circle(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each lane in steps of its own length, so that some rows are there and others missing, to each."""
    chance = random.Random(seed)  # noqa: S311 - not a secret

    async def rests(_point: str) -> None:
        await asyncio.sleep(chance.random() / 100)

    monkeypatch.setattr(applying, "reached", rests)
    table = Table(PRODUCT_DETAIL)
    async with side.pool.connection() as connection:
        await builds.create(connection, table, await side.reader.lanes(), await side.reader.incarnation())
    for first in range(0, 400, 100):
        facts: list[tuple[str, Event]] = []
        for number in range(first, first + 100):
            name = f"p{number}"
            facts.append((f"product-{name}", ProductDrafted(name, name, {"en": name}, "standard")))
            facts.append((f"price-v{number}", PriceSet(name, name, f"v{number}", "EUR", 1, NOON)))
        await side.writer.append(*facts)

    async def work(events: Sequence[Recorded], length: int) -> None:
        before = builds.NOWHERE
        async with connect(side.read_url, ROLE) as connection:
            for first in range(0, len(events), length):
                one = await step(side, tuple(events[first : first + length]), before)
                assert await apply(connection, table, [one])
                before = one.after

    lanes = await by_lane(side, PRODUCT_DETAIL)
    await asyncio.gather(*(work(events, chance.randrange(5, 60)) for events in lanes.values()))
    async with side.pool.connection() as connection:
        assert await differing_rows(side.reader, connection, PRODUCT_DETAIL) == []
