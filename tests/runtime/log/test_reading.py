"""Reading the log: every order in which it is read, and following it as it grows."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from random import Random

import pytest
from log_tools import Appends

from commands.ports import Appended
from domain import CONTEXTS
from domain.envelope import NO_EVENT, NOTHING, Mark, Recorded, Tip
from runtime.log import reading
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader, StoredEvent
from runtime.postgres import Connection

pytestmark = pytest.mark.anyio

WAIT_S = 10.0


class CountingReader(LogReader):
    reads = 0

    async def read(self, after: int, limit: int = reading.BATCH_EVENTS) -> list[StoredEvent]:
        self.reads += 1
        return await super().read(after, limit)


class Kept:
    """A log, a reader of it, and what was written."""

    def __init__(self, log: PostgresLog, reader: CountingReader) -> None:
        self._log = log
        self.reader = reader
        self.written: list[Recorded] = []
        self._appends = Appends()
        self._tips: dict[str, Tip] = {}

    async def write(self, *streams: str) -> None:
        tips = {stream: self._tips.get(stream, NOTHING) for stream in streams}
        verdict = await self._log.append(self._appends.of(*streams, tips=tips))
        assert isinstance(verdict, Appended)
        self.written.extend(verdict.events)
        self._tips |= {event.stream: Tip(event.version, event.event_id) for event in verdict.events}


@pytest.fixture
async def kept(log_url: str) -> AsyncIterator[Kept]:
    async with PostgresLog.open(log_url) as log, CountingReader.open(log_url) as reader:
        assert isinstance(reader, CountingReader)
        yield Kept(log, reader)


async def take(batches: AsyncGenerator[list[StoredEvent]], count: int) -> list[int]:
    """The positions of the next events, at least so many."""
    taken: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while len(taken) < count:
            taken.extend(event.position for event in await anext(batches))
    return taken


async def test_an_empty_log(kept: Kept) -> None:
    assert await kept.reader.head() == Mark(0, NO_EVENT)
    assert await kept.reader.heads() == {}
    assert await kept.reader.read(0) == []
    assert await kept.reader.event(NO_EVENT) is None
    assert await kept.reader.lanes() == 8


async def test_every_order_is_the_same_log(kept: Kept) -> None:
    random = Random(7)  # noqa: S311 - a fixed history
    names = [f"{category}-{n}" for category in CONTEXTS for n in range(4)]
    for _ in range(60):
        await kept.write(*random.choices(names, k=random.randint(1, 5)))
    reader, written = kept.reader, kept.written
    stored = await reader.read(0)
    assert [reader.decode(event) for event in stored] == written
    assert [event.position for event in await reader.read(10, limit=5)] == [11, 12, 13, 14, 15]

    lanes: dict[tuple[str, int], list[StoredEvent]] = defaultdict(list)
    for event in stored:
        lanes[event.context, event.lane].append(event)
    for context, lane in itertools.product(sorted(set(CONTEXTS.values())), range(8)):
        expected = lanes[context, lane]
        assert await reader.read_lane(context, lane, after=0, upto=len(stored)) == expected
        assert [event.previous for event in expected] == [0, *(event.position for event in expected)][:-1]
        if expected:
            middle = expected[len(expected) // 2].position
            some = await reader.read_lane(context, lane, after=expected[0].position, upto=middle, limit=3)
            assert some == [event for event in expected[1:] if event.position <= middle][:3]
    assert await reader.heads() == {
        key: Mark(events[-1].position, events[-1].event_id) for key, events in lanes.items() if events
    }
    assert await reader.head() == Mark(stored[-1].position, stored[-1].event_id)

    streams = {event.stream for event in written}
    for stream in streams:
        expected = [event for event in stored if event.stream == stream]
        assert await reader.read_stream(stream, limit=1_000) == expected
        assert await reader.read_stream(stream, after_version=1, limit=2) == expected[1:3]
    one = random.choice(stored)
    assert await reader.event(one.event_id) == one


async def test_a_batch_ends_where_it_has_enough_bytes_and_holds_one_event_at_least(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        await kept.write("stock-MUG@MAIN")
    sizes = [len(event.data) + len(event.metadata) for event in await kept.reader.read(0)]
    for limit, positions in (
        (sum(sizes[:3]), [1, 2, 3]),
        (sum(sizes[:3]) + 1, [1, 2, 3, 4]),
        (1, [1]),
    ):
        monkeypatch.setattr(reading, "BATCH_BYTES", limit)
        assert [event.position for event in await kept.reader.read(0)] == positions
    assert [event.position for event in await kept.reader.read(5)] == [6]


async def test_a_subscription_gives_everything_after_a_position(kept: Kept) -> None:
    for _ in range(4):
        await kept.write("location-A", "location-B")
    following = kept.reader.subscribe(3, limit=2)
    assert await take(following, 5) == [4, 5, 6, 7, 8]
    later = asyncio.create_task(take(following, 2))
    await asyncio.sleep(0)
    await kept.write("location-C", "location-C")
    assert await later == [9, 10]
    await following.aclose()


async def test_a_subscription_is_woken_and_not_only_polls(
    kept: Kept, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "POLL_S", 10 * WAIT_S)
    following = kept.reader.subscribe(0)
    told = asyncio.create_task(take(following, 1))
    await _listens(owner)
    for position in range(1, 4):
        await kept.write("location-A")
        assert await told == [position]
        told = asyncio.create_task(take(following, 1))
    await asyncio.sleep(0.1)  # the last notification may come after what it tells of was read
    reads_before = kept.reader.reads
    await asyncio.sleep(0.1)
    assert kept.reader.reads - reads_before <= 1
    told.cancel()
    await asyncio.wait({told})
    await following.aclose()


async def test_a_notification_that_is_lost_costs_no_event(kept: Kept, owner: Connection) -> None:
    following = kept.reader.subscribe(0)
    told: list[int] = []
    for n in range(1, 6):
        waiting = asyncio.create_task(take(following, 1))
        await _listens(owner)
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%'"
        )
        await kept.write("location-A")
        began = asyncio.get_running_loop().time()
        told += await waiting
        assert asyncio.get_running_loop().time() - began < 1
        assert told == list(range(1, n + 1))
    await following.aclose()


async def test_whoever_listens_again_reads_what_was_written_meanwhile(
    kept: Kept, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "POLL_S", 10 * WAIT_S)
    following = kept.reader.subscribe(0)
    told = asyncio.create_task(take(following, 1))
    await _listens(owner)
    monkeypatch.setattr(reading, "FIRST_PAUSE_S", 0.5)
    await owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%'")
    await kept.write("location-A")
    assert await told == [1]
    await following.aclose()


async def test_a_subscription_survives_the_loss_of_every_connection(kept: Kept, owner: Connection) -> None:
    following = kept.reader.subscribe(0)
    await kept.write("location-A")
    assert await take(following, 1) == [1]
    await owner.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'tallybook_reader'"
    )
    await kept.write("location-A")
    assert await take(following, 1) == [2]
    await following.aclose()


async def _listens(owner: Connection) -> None:
    async with asyncio.timeout(WAIT_S):
        while not (
            await (
                await owner.execute(
                    "select from pg_stat_activity where query like 'listen%' and state = 'idle'"
                    " and datname = current_database()"
                )
            ).fetchall()
        ):
            await asyncio.sleep(0.01)
