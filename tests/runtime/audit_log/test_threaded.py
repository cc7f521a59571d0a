"""The auditor's half as a door has it: what it reads is the log, and nothing is waited for without end."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from history import Writer, history, received, stock_of
from wire import Wire, wire_to

from api.audit.ports import HistoryEvent
from domain import CONTEXTS
from runtime.audit_log import datastore, threaded
from runtime.audit_log.threaded import HistoryAway, ThreadedHistory
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.postgres import RECONNECT_S

pytestmark = pytest.mark.anyio

WAIT_S = 10.0
MANY = 10_000
SHORT_S = 0.3
FIELDS = (
    "position",
    "stream",
    "version",
    "event_id",
    "type",
    "context",
    "lane",
    "data",
    "metadata",
    "recorded_at",
)


def told(events: Sequence[HistoryEvent]) -> list[tuple[Any, ...]]:
    return [tuple(getattr(event, name) for name in FIELDS) for event in events]


@pytest.fixture
async def writer(empty_log: str) -> AsyncIterator[Writer]:
    async with PostgresLog.open(empty_log) as log:
        yield Writer(log)


@pytest.fixture
async def audited(empty_log: str) -> AsyncIterator[ThreadedHistory]:
    async with ThreadedHistory.open(empty_log) as audited:
        yield audited


@pytest.fixture
async def wired(empty_log: str) -> AsyncIterator[tuple[Wire, ThreadedHistory]]:
    """Over a wire that can be cut."""
    async with wire_to(empty_log) as (wire, url), ThreadedHistory.open(url) as audited:
        yield wire, audited


async def receive(writer: Writer, times: int = 1) -> None:
    for _ in range(times):
        await writer.append((stock_of(0), received(0, 1)))


async def taken(batches: AsyncGenerator[Sequence[HistoryEvent]], count: int) -> list[int]:
    """The positions of the next events, at least so many."""
    found: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += [event.position for event in await anext(batches)]
    return found


async def test_an_empty_log(audited: ThreadedHistory) -> None:
    assert await audited.head() == 0
    assert await audited.heads(MANY) == {}
    assert await audited.read(0, MANY) == []


async def test_whatever_is_read_is_what_the_writers_read(
    empty_log: str, writer: Writer, audited: ThreadedHistory
) -> None:
    for facts in history(seed=3, appends=80):
        await writer.append(*facts)
    async with LogReader.open(empty_log) as reader:
        stored = await reader.read(0, MANY)
        head = len(stored)
        assert await audited.head() == head
        assert await audited.incarnation() == await reader.incarnation()
        for after, limit in ((0, MANY), (0, 7), (head - 3, 7), (head, 7)):
            assert told(await audited.read(after, limit)) == told(stored[after : after + limit])
        for upto in (0, 1, head // 2, head):
            assert await audited.heads(upto) == await reader.heads(upto)
        some = [9, 2, head, 5, head + 1]
        assert [event.position for event in await audited.read_positions(some)] == [2, 5, 9, head]
        stream = stored[-1].stream
        expected = [event for event in stored if event.stream == stream]
        assert told(await audited.read_stream(stream, after_version=1, limit=2)) == told(expected[1:3])
        assert told([await audited.event(stored[4].event_id) or stored[0]]) == told(stored[4:5])
        assert await audited.event("0198c0de-0000-7000-8000-00000000beef") is None
        for event in stored[:: head // 7]:
            assert await audited.position_at(event.recorded_at) == await reader.position_at(event.recorded_at)


async def test_a_context_is_its_lanes_in_the_order_of_the_log(
    writer: Writer, audited: ThreadedHistory
) -> None:
    for facts in history(seed=4, appends=60):
        await writer.append(*facts)
    whole = await audited.read(0, MANY)
    half = len(whole) // 2
    for context in sorted(set(CONTEXTS.values())):
        expected = [event for event in whole if event.context == context]
        assert len({event.lane for event in expected}) > 1
        assert await audited.read_context(context, after=0, upto=MANY, limit=MANY) == expected
        upto_half = [event for event in expected if 5 < event.position <= half]
        for limit in (1, 3, MANY):
            assert await audited.read_context(context, after=5, upto=half, limit=limit) == upto_half[:limit]


async def test_a_subscription_gives_everything_after_a_position(
    writer: Writer, audited: ThreadedHistory
) -> None:
    await receive(writer, 5)
    async with aclosing(audited.subscribe(2, 2)) as one, aclosing(audited.subscribe(0, 100)) as two:
        assert await taken(one, 3) == [3, 4, 5]
        assert await taken(two, 5) == [1, 2, 3, 4, 5]
        coming = asyncio.gather(taken(one, 1), taken(two, 1))
        await receive(writer)
        assert [*await coming] == [[6], [6]]


async def test_a_subscription_is_woken_before_it_looks_by_itself(
    writer: Writer, audited: ThreadedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threaded, "LOOK_S", 60.0)
    async with aclosing(audited.subscribe(0, 100)) as following:
        for position in range(1, 6):
            coming = asyncio.ensure_future(taken(following, 1))
            await asyncio.sleep(0.01)
            await receive(writer)
            assert await coming == [position]


async def test_a_subscription_that_nothing_wakes_looks_by_itself(
    writer: Writer, audited: ThreadedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threaded, "LOOK_S", 0.05)
    monkeypatch.setattr(audited, "_wake_all", lambda: None)
    async with aclosing(audited.subscribe(0, 100)) as following:
        coming = asyncio.ensure_future(taken(following, 1))
        await asyncio.sleep(0.2)
        await receive(writer)
        assert await coming == [1]


async def test_a_subscription_outlives_its_connections_and_an_absence_of_the_database(
    writer: Writer, wired: tuple[Wire, ThreadedHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threaded, "AWAY_PAUSE_S", 0.05)
    wire, audited = wired
    await receive(writer)
    async with aclosing(audited.subscribe(0, 100)) as following:
        assert await taken(following, 1) == [1]
        coming = asyncio.ensure_future(taken(following, 3))
        wire.cut()
        await receive(writer)
        await wire.down()
        await receive(writer)
        await asyncio.sleep(SHORT_S)
        await wire.up()
        await receive(writer)
        assert await coming == [2, 3, 4]


async def test_a_read_whose_connection_is_cut_is_done_again(
    empty_log: str, writer: Writer, audited: ThreadedHistory
) -> None:
    await receive(writer)
    with psycopg.connect(empty_log, autocommit=True) as owner:
        for _ in range(3):
            assert await audited.head() == 1
            owner.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where"
                " datname = current_database() and application_name = 'tallybook_reader'"
            )


async def test_a_database_that_is_away_is_told_in_time_and_asked_when_it_is_back(
    wired: tuple[Wire, ThreadedHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, audited = wired
    audited._history._recorder.datastore.pool.timeout = SHORT_S
    assert await audited.head() == 0
    await wire.down()
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(HistoryAway):
            await audited.head()
    assert time.monotonic() - began < 8 * SHORT_S
    await asyncio.sleep(2 * RECONNECT_S)  # the pool has given up
    await wire.up()
    audited._history._recorder.datastore.pool.timeout = threaded.WAIT_S
    began = time.monotonic()
    assert await audited.head() == 0
    assert time.monotonic() - began < threaded.WAIT_S / 2


async def test_a_peer_that_falls_silent_is_given_up_by_the_door_and_by_the_thread(
    wired: tuple[Wire, ThreadedHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threaded, "ANSWER_S", SHORT_S)
    monkeypatch.setattr(datastore, "ANSWER_S", 3 * SHORT_S)
    wire, audited = wired
    assert await audited.head() == 0
    audited._history._recorder.datastore.pool.timeout = SHORT_S
    wire.deaf = True
    began = time.monotonic()
    with pytest.raises(HistoryAway, match=r"no answer in 0\.3 s"):
        await audited.head()
    assert time.monotonic() - began < 2 * SHORT_S
    await every_thread_is_free(audited)
    wire.deaf = False
    wire.cut()


async def test_who_is_cancelled_leaves_neither_a_thread_nor_a_connection_behind(
    empty_log: str, writer: Writer, audited: ThreadedHistory
) -> None:
    await receive(writer)
    with psycopg.connect(empty_log) as owner:
        owner.execute("lock table log.events in access exclusive mode")
        asking = [asyncio.create_task(audited.head()) for _ in range(3 * threaded.THREADS)]
        async with asyncio.timeout(WAIT_S):
            while waiting(owner) < threaded.THREADS:
                await asyncio.sleep(0.01)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        owner.rollback()
    await every_thread_is_free(audited)
    stats = audited._history._recorder.datastore.pool.get_stats()
    assert stats["pool_size"] == stats["pool_available"] == threaded.THREADS
    assert await audited.head() == 1


def waiting(owner: psycopg.Connection[Any]) -> int:
    """How many of its peers wait for a lock."""
    return owner.execute(
        "select from pg_locks where not granted and relation = 'log.events'::regclass"
    ).rowcount


async def every_thread_is_free(audited: ThreadedHistory) -> None:
    """Once so many calls run at the same time."""
    all_of_them = threading.Barrier(threaded.THREADS)
    loop = asyncio.get_running_loop()
    calls = (
        loop.run_in_executor(audited._threads, all_of_them.wait, WAIT_S) for _ in range(threaded.THREADS)
    )
    await asyncio.gather(*calls)


async def test_many_at_once_are_so_many_threads(writer: Writer, audited: ThreadedHistory) -> None:
    await receive(writer, 3)
    asked = [audited.read(after, 1) for after in itertools.islice(itertools.cycle(range(3)), 60)]
    found = await asyncio.gather(*asked)
    assert [event.position for (event,) in found] == [1, 2, 3] * 20
    assert len(audited._threads._threads) <= threaded.THREADS
