"""What a lane does with deliveries: the chain tells what is missing, what was seen, and what is not ours."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fresh_fold import differing_rows
from history import history, received, stock_of
from parked_side import UNKNOWN
from prometheus_client import REGISTRY
from read_side import ReadSide

from domain.envelope import Mark
from projections.order_detail import ORDER_DETAIL
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.log.reading import StoredEvent
from runtime.messages import Delivery, delivery_of, message_of
from runtime.postgres import Connection
from runtime.read_models import builds
from runtime.read_models import lanes as folded_lanes
from runtime.read_models.apply import Step, apply
from runtime.read_models.builds import AheadOfLog, BuildGone
from runtime.read_models.folding import Model, contexts_of
from runtime.read_models.lanes import FoldedLane, Sources, require_in_log
from runtime.read_models.lanes import deliver as deliver_to
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

FOREIGN = "00000000-0000-7000-8000-00000000f0e1"


async def lanes_of(side: ReadSide, model: Model) -> dict[builds.Lane, FoldedLane]:
    """Its lanes, from where the stored checkpoints are; each call is another worker."""
    table, incarnation = Table(model), await side.reader.incarnation()
    async with side.pool.connection() as connection:
        await builds.create(connection, table, await side.reader.lanes(), incarnation)
        marks = await builds.marks_of(connection, table.build)
    sources = Sources(side.reader, side.pool, incarnation)
    return {lane: FoldedLane(sources, table, lane, mark) for lane, mark in marks.items()}


async def deliveries(side: ReadSide, model: Model) -> list[Delivery]:
    """All of the log that concerns the model, as it comes through Kafka."""
    incarnation = await side.reader.incarnation()
    return [
        delivery_of(message_of(event, incarnation))
        for event in await side.reader.read(0)
        if event.context in contexts_of(model)
    ]


async def deliver(lanes: dict[builds.Lane, FoldedLane], arriving: Sequence[Delivery]) -> None:
    await deliver_to(
        {
            lane: [one for one in arriving if one.event and (one.event.context, one.event.lane) == key]
            for key, lane in lanes.items()
        }
    )


async def differing(side: ReadSide, model: Model) -> list[str]:
    async with side.pool.connection() as connection:
        return await differing_rows(side.reader, connection, model)


def figure(name: str, model: Model = STOCK_AVAILABILITY) -> float:
    return REGISTRY.get_sample_value(f"tallybook_projector_{name}_total", {"model": model.name}) or 0.0


async def test_deliveries_in_order_are_applied_without_asking_the_log(side: ReadSide) -> None:
    await side.write(list(history(seed=11, appends=40)))
    from_log = figure("log_events")

    await deliver(await lanes_of(side, STOCK_AVAILABILITY), await deliveries(side, STOCK_AVAILABILITY))

    assert figure("log_events") == from_log
    assert await differing(side, STOCK_AVAILABILITY) == []


async def test_what_arrives_in_several_lanes_is_applied_together_and_in_bounded_steps(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.write(list(history(seed=11, appends=40)))
    arriving = await deliveries(side, STOCK_AVAILABILITY)
    took: list[list[int]] = []
    honest = apply

    async def counted(connection: Connection, table: Table, steps: Sequence[Step]) -> Sequence[Step]:
        took.append([len(step.events) for step in steps])
        return await honest(connection, table, steps)

    monkeypatch.setattr(folded_lanes, "apply", counted)
    for limit in (10, len(arriving)):
        monkeypatch.setattr(folded_lanes, "STEP_EVENTS", limit)
        took.clear()
        lanes = await lanes_of(side, STOCK_AVAILABILITY)
        for lane in lanes.values():
            lane.mark = builds.NOWHERE
        await deliver(lanes, arriving)
        assert all(sum(events) <= limit for events in took)
        assert max(map(len, took)) > 1
    assert len(took) == 1
    assert await differing(side, STOCK_AVAILABILITY) == []


async def test_everything_twice_is_as_good_as_once(side: ReadSide) -> None:
    await side.write(list(history(seed=12, appends=40)))
    arriving = await deliveries(side, STOCK_AVAILABILITY)
    lanes, before = await lanes_of(side, STOCK_AVAILABILITY), figure("duplicates")

    await deliver(lanes, [again for one in arriving for again in (one, one)])
    await deliver(lanes, arriving)
    await deliver(await lanes_of(side, STOCK_AVAILABILITY), arriving)

    assert figure("duplicates") == before + 3 * len(arriving)
    assert await differing(side, STOCK_AVAILABILITY) == []


@pytest.mark.parametrize("model", [STOCK_AVAILABILITY, ORDER_DETAIL], ids=lambda model: model.name)
async def test_lost_and_reordered_deliveries_are_made_good_from_the_log(side: ReadSide, model: Model) -> None:
    await side.write(list(history(seed=13, appends=60)))
    arriving = await deliveries(side, model)
    chance = random.Random(13)  # noqa: S311 - no secret
    survivors = chance.sample(arriving, len(arriving) // 3)
    last = {(one.event.context, one.event.lane): one for one in arriving if one.event}
    gaps = figure("gaps", model)

    await deliver(await lanes_of(side, model), [*survivors, *last.values()])

    assert figure("gaps", model) > gaps
    assert await differing(side, model) == []


async def test_an_event_that_did_not_fit_a_message_is_read_from_the_log(side: ReadSide) -> None:
    await side.write(list(history(seed=14, appends=10)))
    lanes, arriving = await lanes_of(side, STOCK_AVAILABILITY), await deliveries(side, STOCK_AVAILABILITY)
    await deliver_to(
        {
            lane: [
                replace(one, event=None)
                for one in arriving
                if one.event and (one.event.context, one.event.lane) == key
            ]
            for key, lane in lanes.items()
        }
    )

    assert await differing(side, STOCK_AVAILABILITY) == []


async def test_what_another_incarnation_wrote_is_dropped_and_moves_nothing(side: ReadSide) -> None:
    await side.writer.append((stock_of(0), received(0, 5)))
    [ours] = await deliveries(side, STOCK_AVAILABILITY)
    assert ours.event
    lane = (await lanes_of(side, STOCK_AVAILABILITY))[ours.event.context, ours.event.lane]
    before = figure("foreign")

    await deliver_to(
        {lane: [replace(ours, incarnation=FOREIGN), replace(ours, incarnation=FOREIGN, position=99)]}
    )

    assert figure("foreign") == before + 2
    assert lane.mark == builds.NOWHERE
    await deliver_to({lane: [ours]})
    assert lane.mark == Mark(ours.position, ours.event.event_id)


async def test_a_message_beyond_the_logs_end_moves_nothing_beyond_it(side: ReadSide) -> None:
    await side.writer.append((stock_of(0), received(0, 5)))
    [ours] = await deliveries(side, STOCK_AVAILABILITY)
    assert ours.event
    lane = (await lanes_of(side, STOCK_AVAILABILITY))[ours.event.context, ours.event.lane]

    await deliver_to({lane: [replace(ours, position=1_000, previous=999)]})

    assert lane.mark == Mark(ours.position, ours.event.event_id)
    assert await differing(side, STOCK_AVAILABILITY) == []


async def test_of_two_workers_on_one_lane_one_wins_and_the_other_takes_notice(side: ReadSide) -> None:
    await side.write(list(history(seed=15, appends=30)))
    arriving = await deliveries(side, STOCK_AVAILABILITY)
    first, second = await lanes_of(side, STOCK_AVAILABILITY), await lanes_of(side, STOCK_AVAILABILITY)
    lost = figure("lost_steps")

    await deliver(first, arriving)
    await deliver(second, arriving)

    assert figure("lost_steps") == lost + sum(1 for lane in first.values() if lane.mark.position)
    assert {key: lane.mark for key, lane in second.items()} == {key: lane.mark for key, lane in first.items()}
    assert await differing(side, STOCK_AVAILABILITY) == []


async def test_a_lane_that_is_overtaken_while_it_reads_the_log_folds_nothing_twice(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog tells a lane where another worker stands at any moment, also while the log is read."""
    await side.write(list(history(seed=16, appends=30)))
    heads = await side.reader.heads()
    mine, others = await lanes_of(side, STOCK_AVAILABILITY), await lanes_of(side, STOCK_AVAILABILITY)
    read_lane, overtaken = side.reader.read_lane, set[builds.Lane]()

    async def read_and_be_overtaken(
        context: str, lane: int, *, after: int, upto: int, limit: int
    ) -> list[StoredEvent]:
        found = await read_lane(context, lane, after=after, upto=upto, limit=limit)
        if found and (context, lane) not in overtaken:
            overtaken.add((context, lane))
            other = others[context, lane]
            await other.catch_up(found[0].position)
            mine[context, lane].observe(other.mark)
        return found

    monkeypatch.setattr(side.reader, "read_lane", read_and_be_overtaken)
    lost = figure("lost_steps")
    for key, lane in mine.items():
        if key in heads:
            await lane.catch_up(heads[key].position)

    assert overtaken
    assert await differing(side, STOCK_AVAILABILITY) == []
    assert figure("lost_steps") == lost + len(overtaken)


async def test_a_lane_whose_build_was_removed_says_so(side: ReadSide) -> None:
    await side.writer.append((stock_of(0), received(0, 5)))
    [ours] = await deliveries(side, STOCK_AVAILABILITY)
    assert ours.event
    lane = (await lanes_of(side, STOCK_AVAILABILITY))[ours.event.context, ours.event.lane]
    async with side.pool.connection() as connection:
        await connection.execute("delete from read.builds")

    with pytest.raises(BuildGone):
        await deliver_to({lane: [ours]})


async def test_what_the_log_does_not_have_shows_at_its_end(side: ReadSide) -> None:
    """Whoever may write to a topic can write what looks like the relay's; only a replay finds it later on."""
    [event] = await side.writer.append((stock_of(0), received(0, 5)))
    place = (event.context, event.lane)
    lane = (await lanes_of(side, STOCK_AVAILABILITY))[place]
    await lane.catch_up(event.position)
    require_in_log({lane: lane.mark}, await side.reader.heads())

    [stored] = await side.reader.read(event.position - 1)
    forged = replace(
        stored, position=event.position + 1, version=2, event_id=UNKNOWN, previous=event.position
    )
    await deliver_to({lane: [delivery_of(message_of(forged, await side.reader.incarnation()))]})
    assert lane.mark == Mark(forged.position, UNKNOWN)
    with pytest.raises(AheadOfLog, match=f"event {UNKNOWN} at position {forged.position}"):
        require_in_log({lane: lane.mark}, await side.reader.heads())
    await side.writer.append((stock_of(0), received(0, 5)))  # at the position of the forged one
    with pytest.raises(AheadOfLog, match=f"event {UNKNOWN} at position {forged.position}"):
        require_in_log({lane: lane.mark}, await side.reader.heads())
