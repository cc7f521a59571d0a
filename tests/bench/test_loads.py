"""The loads append what they say, on logs that are what the log itself would have made of them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from log_tools import T0

from bench import growth, ours, pgbench
from bench.loads import Deciding, Hot, Spread
from bench.loops import Window, in_tasks, in_threads
from bench.payload import append_of, digest, event, metadata, stream_of
from bench.seed import add_same_tables, fill, seed
from commands.ports import Appended
from domain.envelope import NOTHING
from domain.stock import StockAdjusted
from runtime.codec import encode, encode_metadata
from runtime.ids import FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate

ITEMS = range(8)


@pytest.fixture
async def log() -> MemoryLog:
    log = MemoryLog(FixedClock(T0))
    await fill(log, len(ITEMS))
    return log


@pytest.fixture
def owner_url(new_database: Callable[[], str]) -> str:
    url = new_database()
    asyncio.run(migrate(url, "log"))
    return url


async def events_of_items(log: MemoryLog) -> list[int]:
    """How many events each item has, besides the one of the seed."""
    found = await log.read_streams(dict.fromkeys(map(stream_of, ITEMS), 0))
    return [len(events) - 1 for events in found.values()]


def test_an_event_has_360_bytes_of_data_and_about_286_of_metadata() -> None:
    assert len(encode(event(stream_of(0)))) == 360
    assert len(encode_metadata(metadata())) in range(280, 289)


@pytest.mark.anyio
async def test_no_two_callers_of_a_spread_load_meet(log: MemoryLog) -> None:
    spread = Spread(log, await ours.tips_of(log, ITEMS), events=2)
    for _ in range(5):
        assert await asyncio.gather(*(spread.once() for _ in ITEMS)) == [2] * len(ITEMS)
    assert await events_of_items(log) == [10] * len(ITEMS)


@pytest.mark.anyio
async def test_an_order_is_five_events_over_four_streams(log: MemoryLog) -> None:
    spread = Spread(log, await ours.tips_of(log, ITEMS), events=1)
    assert sum(await asyncio.gather(spread.order(), spread.order())) == 10
    assert sorted(await events_of_items(log)) == [1, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.anyio
async def test_a_hot_chain_that_somebody_breaks_begins_again_and_loses_nothing(log: MemoryLog) -> None:
    stream = stream_of(0)
    hot = Hot(log, stream, (await ours.tips_of(log, ITEMS))[stream])
    assert await asyncio.gather(*(hot.once() for _ in range(8))) == [1] * 8
    assert hot.conflicts == 0

    tip = (await ours.tips_of(log, ITEMS))[stream]
    assert isinstance(await log.append(append_of({stream: tip}, [stream], digest())), Appended)
    assert await asyncio.gather(*(hot.once() for _ in range(8))) == [1] * 8
    assert hot.conflicts == 8
    assert (await events_of_items(log))[0] == 8 + 1 + 8


@pytest.mark.anyio
@pytest.mark.parametrize("items", [ITEMS, ITEMS[:1]], ids=["spread", "hot"])
async def test_a_decision_appends_the_event_that_the_bare_append_does(log: MemoryLog, items: range) -> None:
    deciding = Deciding(ours.shop_on(log), items)
    await deciding.every()
    assert await asyncio.gather(*(deciding.once() for _ in items)) == [1] * len(items)
    [recorded] = (await log.read_streams({stream_of(0): 2}))[stream_of(0)]
    assert isinstance(recorded.event, StockAdjusted)
    assert len(encode(recorded.event)) == 360
    assert len(encode_metadata(recorded.metadata)) in range(280, 289)


@pytest.mark.anyio
async def test_only_what_is_answered_in_the_window_counts() -> None:
    began = time.perf_counter()

    async def once() -> int:
        await asyncio.sleep(0.01)
        return 1 if time.perf_counter() - began > 0.2 else 1_000_000

    measured = await in_tasks(once, 4, Window(warm=0.25, seconds=0.25))
    assert 0 < measured.rate <= 4 / 0.01
    assert measured.p50_ms is not None
    assert 10 <= measured.p50_ms < 500
    with pytest.raises(RuntimeError, match="0 answers"):
        await in_tasks(once, 4, Window(warm=0.0, seconds=0.001))


def test_what_a_caller_raises_ends_the_run() -> None:
    def fails() -> int:
        raise OSError("cut")

    def works() -> int:
        time.sleep(0.001)
        return 1

    with pytest.raises(OSError, match="cut"):
        in_threads([works, fails], Window(warm=0.0, seconds=60.0))


def test_a_filled_log_is_one_that_the_log_appends_to(owner_url: str) -> None:
    growth.fill(owner_url, growth.BLOCK_EVENTS)
    last = growth.BLOCK_STREAMS - 1
    streams = {growth.stream_of_fill(n): growth.tip_of_fill(n) for n in (0, 1, last)}

    async def append_to_it() -> None:
        async with PostgresLog.open(owner_url) as log:
            verdict = await log.append(append_of(streams, list(streams), digest()))
            assert isinstance(verdict, Appended)
            assert [one.position for one in verdict.events] == [10_001, 10_002, 10_003]
            found = await log.read_streams(dict.fromkeys(streams, 0))
            assert [len(events) for events in found.values()] == [growth.STREAM_EVENTS + 1] * 3
            unknown = growth.stream_of_fill(last + 1)
            assert isinstance(await log.append(append_of({unknown: NOTHING}, [unknown], digest())), Appended)

    asyncio.run(append_to_it())
    with psycopg.connect(owner_url) as owner:
        counts = owner.execute(
            "select (select count(*) from log.events), (select count(*) from log.requests)"
        ).fetchall()
    assert counts == [(growth.BLOCK_EVENTS + 4, growth.BLOCK_EVENTS + 2)]


@pytest.mark.heavy
@pytest.mark.parametrize("script", pgbench.SCRIPTS)
def test_pgbench_writes_what_the_log_writes(owner_url: str, script: pgbench.Script, tmp_path: Path) -> None:
    asyncio.run(seed(owner_url, 1))
    add_same_tables(owner_url)
    assert pgbench.measure(owner_url, script, 2, Window(0.0, 1.0), tmp_path).rate > 0
    with psycopg.connect(owner_url) as owner:
        sizes = owner.execute(
            "select length(data), length(metadata) between 280 and 288, context, type"
            " from same_work.events where type = 'stock.adjusted.v1' group by 1, 2, 3, 4"
        ).fetchall()
        [(requests,)] = owner.execute(
            "select count(*) from same_work.requests r"
            " join same_work.events e on e.position = r.first_position and e.type = 'stock.adjusted.v1'"
        ).fetchall()
        [(events,)] = owner.execute(
            "select count(*) from same_work.events where type = 'stock.adjusted.v1'"
        ).fetchall()
        indexes = owner.execute(
            "select c.relnamespace::regnamespace::text, count(*)"
            " from pg_index i join pg_class c on c.oid = i.indrelid"
            " where c.oid in ('log.events'::regclass, 'same_work.events'::regclass) group by 1 order by 1"
        ).fetchall()
    assert sizes == [(360, True, "inventory", "stock.adjusted.v1")]
    assert requests == (0 if script == "event" else events)
    assert indexes[0][1] == indexes[1][1]
