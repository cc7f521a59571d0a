"""How far the log's readers are behind it: nobody by anything that is there, and by all that is not."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta

import psycopg
import pytest
from history import history, received, stock_of
from prometheus_client import REGISTRY, Gauge
from read_side import ReadSide, running

from domain.envelope import Mark
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import lag, relay
from runtime.lag import NONE, Lag
from runtime.log.reading import LogReader
from runtime.read_models import builds
from runtime.read_models import lag as lane_lag
from runtime.read_models.lanes import FoldedLane, Sources
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

UNTIL_SECONDS = 10.0
AGED = timedelta(hours=1)


async def aged(side: ReadSide) -> None:
    """As if all was recorded an hour ago."""
    async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as owner:
        await owner.execute("alter table log.events disable trigger all")
        await owner.execute("update log.events set recorded_at = recorded_at - interval '1 hour'")


async def by_lane(side: ReadSide) -> dict[builds.Lane, list[int]]:
    """The positions of each lane's events."""
    lanes: dict[builds.Lane, list[int]] = {}
    for event in await side.reader.read(0):
        lanes.setdefault((event.context, event.lane), []).append(event.position)
    return lanes


def about_an_hour(seconds: float) -> bool:
    return AGED.total_seconds() <= seconds < AGED.total_seconds() + UNTIL_SECONDS


async def test_a_lane_is_behind_by_its_last_event_and_since_its_oldest(side: ReadSide) -> None:
    await side.write(list(history(seed=41, appends=40)))
    await aged(side)
    for (context, lane), positions in (await by_lane(side)).items():
        for number, position in enumerate([0, *positions[:-1]]):
            found = (await side.reader.lags([(context, lane, position)]))[context, lane, position]
            assert found.positions == positions[-1] - position
            assert about_an_hour(found.seconds), number
        assert await side.reader.lags([(context, lane, positions[-1])]) == {}


async def test_the_seconds_are_those_of_the_oldest_event_that_is_missing(side: ReadSide) -> None:
    for _ in range(2):
        await side.writer.append((stock_of(0), received(0, 1)))
    await aged(side)
    [new] = await side.writer.append((stock_of(0), received(0, 1)))
    first, second = ((new.context, new.lane, position) for position in (1, 2))

    lags = await side.reader.lags([first, second])

    assert (lags[first].positions, lags[second].positions) == (2, 1)
    assert about_an_hour(lags[first].seconds)
    assert 0 <= lags[second].seconds < UNTIL_SECONDS


async def test_a_lane_of_which_there_is_no_event_is_not_behind_others(side: ReadSide) -> None:
    """What follows it in the index is another lane's."""
    await side.write(list(history(seed=43, appends=10)))
    taken = await by_lane(side)
    empty = [
        (context, lane, 0) for context, _ in taken for lane in range(-1, 9) if (context, lane) not in taken
    ]
    assert empty
    assert await side.reader.lags(empty) == {}
    assert await side.reader.lags([]) == {}


async def lanes_at(side: ReadSide, share: float) -> list[FoldedLane]:
    """Of a model, with so much of each applied; the checkpoints alone."""
    table, incarnation = Table(STOCK_AVAILABILITY), await side.reader.incarnation()
    sources = Sources(side.reader, side.pool, incarnation)
    lanes = []
    for (context, lane), positions in (await by_lane(side)).items():
        if context == "inventory":
            applied = positions[: int(len(positions) * share)]
            mark = Mark(applied[-1], "") if applied else builds.NOWHERE
            lanes.append(FoldedLane(sources, table, (context, lane), mark))
    return lanes


def told(lane: FoldedLane) -> Lag:
    labels = {"model": "stock_availability", "context": lane.lane[0], "lane": str(lane.lane[1])}
    values = [
        REGISTRY.get_sample_value(f"tallybook_projector_lag_{unit}", labels)
        for unit in ("positions", "seconds")
    ]
    assert None not in values
    return Lag(int(values[0] or 0), values[1] or 0.0)


async def test_a_projector_tells_it_of_each_lane_and_asks_nothing_when_none_is_behind(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.write(list(history(seed=44, appends=60)))
    await aged(side)
    heads, half, all_of_it = await side.reader.heads(), await lanes_at(side, 0.5), await lanes_at(side, 1)

    await lane_lag.tell(side.reader, heads, half)
    for lane in half:
        assert told(lane).positions == heads[lane.lane].position - lane.mark.position > 0
        assert about_an_hour(told(lane).seconds)

    async def refuse(*_: object) -> Mapping[lag.Place, Lag]:
        raise AssertionError("nobody is behind")

    monkeypatch.setattr(LogReader, "lags", refuse)
    await lane_lag.tell(side.reader, heads, all_of_it)
    assert [told(lane) for lane in all_of_it] == [NONE] * len(all_of_it)


async def test_a_projector_that_cannot_reach_its_read_models_tells_that_it_falls_behind(
    side: ReadSide,
) -> None:
    facts = list(history(seed=45, appends=60))
    await side.write(facts[:30])
    projector = side.projector()
    async with running(projector):
        await side.converge()
    heads = await side.reader.heads()
    await side.pool.close()
    await side.write(facts[30:])
    with pytest.raises(psycopg.OperationalError):
        await projector._look(heads, await side.reader.heads())
    moved = [lane for lane in await lanes_at(side, 1) if lane.mark != heads.get(lane.lane)]
    assert moved
    for lane in moved:
        assert told(lane).positions >= lane.mark.position - heads[lane.lane].position > 0


async def test_a_reader_of_all_of_the_log_is_behind_by_what_it_has_not_read(side: ReadSide) -> None:
    await side.write(list(history(seed=46, appends=10)))
    await aged(side)
    head = (await side.reader.head()).position
    async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as owner:
        for name, position in (("begun", 0), ("done", head), ("near", head - 1), ("restored", head + 5)):
            await owner.execute(
                "insert into relay.checkpoint values (%s, gen_random_uuid(), %s, gen_random_uuid())",
                [name, position],
            )
    async with LogReader.open(side.log_url, relay.ROLE) as reader:
        found = await reader.lags_of_all(lag.RELAYS)
    assert {name: one.positions for name, one in found.items()} == {
        "begun": head,
        "done": 0,
        "near": 1,
        "restored": 0,
    }
    assert about_an_hour(found["begun"].seconds)
    assert about_an_hour(found["near"].seconds)
    assert found["done"] == found["restored"] == NONE


async def test_it_is_told_again_and_again_whatever_the_database_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "WATCH_S", 0.01)
    positions, seconds = (Gauge(f"test_lag_{unit}", unit, ["relay"]) for unit in ("positions", "seconds"))
    looks = 0

    async def look() -> Mapping[str, Lag]:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise psycopg.OperationalError("away")
        return {"kafka": Lag(looks, looks / 2)}

    async with lag.watched(look, positions, seconds):
        await until(lambda: looks >= 4)
    after = looks
    assert REGISTRY.get_sample_value("test_lag_positions", {"relay": "kafka"}) == after
    assert REGISTRY.get_sample_value("test_lag_seconds", {"relay": "kafka"}) == after / 2
    await asyncio.sleep(0.05)
    assert looks == after


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(UNTIL_SECONDS):
        while not reached():
            await asyncio.sleep(0.005)
