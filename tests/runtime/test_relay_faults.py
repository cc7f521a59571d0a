"""Whatever happens to broker, topics or leader, the relay goes on, and loses nothing."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import psutil
import pytest
from broker import OwnBroker, quick_on_the_embedded_one
from history import history, received, stock_of
from kafka import KafkaAdminClient
from listening import ARRIVE_SECONDS, checkpoint, listening, until_published
from read_side import ReadSide, running

from domain.product import ProductDrafted
from runtime import kafka, relay
from runtime.kafka import WrongPartitions
from runtime.lease import RENEW_S, Lease
from runtime.log.reading import LogReader, StoredEvent
from runtime.messages import delivery_of, topic_of, topics
from runtime.relay import Relay

pytestmark = [
    pytest.mark.anyio,
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

TRIES = 200
RECOVERY_S = 2.0
LANES = 8
INVENTORY = topic_of("inventory")
SMALL_BYTES = 4_000
FORGETS_S = 10.0
"""The embedded broker answers with errors for seconds where a topic was written to while it was away."""


async def administer(servers: str, what: str, *arguments: Any) -> Any:
    def call() -> Any:
        admin = KafkaAdminClient(bootstrap_servers=servers)
        try:
            return getattr(admin, what)(*arguments)
        finally:
            admin.close()

    return await asyncio.to_thread(call)


def of(partitions: int, **configs: str) -> dict[str, Any]:
    return {"num_partitions": partitions, "replication_factor": 1, "configs": configs}


async def remake(servers: str, topic: str, partitions: int) -> None:
    """Empty; a broker may take a moment to forget the old one."""
    await administer(servers, "delete_topics", [topic])
    async with asyncio.timeout(ARRIVE_SECONDS):
        while topic in await administer(servers, "list_topics"):
            await asyncio.sleep(0.02)
    await administer(servers, "create_topics", {topic: of(partitions)})


@asynccontextmanager
async def writing(side: ReadSide) -> AsyncIterator[None]:
    """An event every few milliseconds, so that the relay is never idle."""

    async def write() -> None:
        while True:
            await side.writer.append((stock_of(0), received(0, 1)))
            await asyncio.sleep(0.005)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def failures(more: int) -> None:
    enough = relay.FAILURES._value.get() + more
    async with asyncio.timeout(ARRIVE_SECONDS):
        while relay.FAILURES._value.get() < enough:
            await asyncio.sleep(0.01)


async def what_is_written_now_arrives(side: ReadSide, servers: str) -> None:
    [event] = await side.writer.append((stock_of(1), received(1, 1)))
    async with listening(side, servers) as listener:
        await listener.until({event.position})


@pytest.mark.heavy
async def test_after_many_tries_without_a_broker_nothing_is_left_behind_and_all_goes_on_once_it_is_back(
    side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    async def subscribe(
        self: LogReader, after: int, limit: int = 0, *, rest_s: float = 0.0
    ) -> AsyncGenerator[list[StoredEvent]]:
        read.append(after)
        async for batch in subscribe_as_it_is(self, after, limit, rest_s=rest_s):
            yield batch

    subscribe_as_it_is = LogReader.subscribe
    monkeypatch.setattr(LogReader, "subscribe", subscribe)
    await side.write(list(history(seed=61, appends=5)))
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
        await own_broker.kill()
        await failures(1)
        await side.write([[(stock_of(0), received(0, 1))]])
        read.clear()
        process, threads = psutil.Process(), threading.active_count()
        files = process.num_fds()
        with monkeypatch.context() as an_hour_in_seconds:
            an_hour_in_seconds.setattr(relay, "LONGEST_PAUSE_S", 0.001)
            await failures(TRIES)
        assert read == [], "the log is not read for a broker that is away"
        assert threading.active_count() <= threads + 2
        assert process.num_fds() <= files + 2
        await asyncio.sleep(2 * relay.LONGEST_PAUSE_S)  # the pauses are long again
        await own_broker.start()
        began = time.monotonic()
        await until_published(side)
        assert time.monotonic() - began < RECOVERY_S
        await what_is_written_now_arrives(side, own_broker.servers)


@pytest.mark.parametrize(
    ("stopped_broker", "busy", "seconds"),
    [
        ("embedded", False, RECOVERY_S),
        ("apache", False, RECOVERY_S),
        pytest.param("embedded", True, FORGETS_S, marks=pytest.mark.heavy),
        pytest.param("apache", True, RECOVERY_S, marks=pytest.mark.heavy),
    ],
    indirect=["stopped_broker"],
)
async def test_a_topic_that_is_deleted_is_made_again_and_gets_what_is_written_from_then_on(
    side: ReadSide, own_broker: OwnBroker, busy: bool, seconds: float
) -> None:
    await side.write([[(stock_of(0), received(0, 5))]])
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
        async with writing(side) if busy else nullcontext():
            await administer(own_broker.servers, "delete_topics", [INVENTORY])
            async with asyncio.timeout(ARRIVE_SECONDS):
                while INVENTORY in await administer(own_broker.servers, "list_topics"):
                    await asyncio.sleep(0.01)
                began = time.monotonic()
                while INVENTORY not in await administer(own_broker.servers, "list_topics"):
                    await asyncio.sleep(0.01)
        await side.write([[(stock_of(1), received(1, 1))]])
        await until_published(side)
        assert time.monotonic() - began < seconds
        await what_is_written_now_arrives(side, own_broker.servers)


@quick_on_the_embedded_one
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_topic_made_again_empty_gets_what_is_written_from_then_on(
    side: ReadSide, own_broker: OwnBroker, busy: bool
) -> None:
    await side.write([[(stock_of(number), received(number, 5)) for number in range(5)]])
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
        if busy:
            async with writing(side):
                await remake(own_broker.servers, INVENTORY, LANES)
        else:
            await remake(own_broker.servers, INVENTORY, LANES)
        began = time.monotonic()
        await what_is_written_now_arrives(side, own_broker.servers)
        assert time.monotonic() - began < 2 * RECOVERY_S


@quick_on_the_embedded_one
async def test_a_topic_that_gets_another_number_of_partitions_is_made_again_where_that_is_allowed(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    async def as_many_as_lanes() -> bool:
        described = await administer(own_broker.servers, "describe_topics", [INVENTORY])
        return [len(topic["partitions"]) for topic in described] == [LANES]

    async with running(side.relay(own_broker.servers)):
        await side.write([[(stock_of(number), received(number, 5)) for number in range(5)]])
        await until_published(side)
        await remake(own_broker.servers, INVENTORY, LANES - 3)
        async with asyncio.timeout(ARRIVE_SECONDS):
            while not await as_many_as_lanes():
                await asyncio.sleep(0.05)
        await what_is_written_now_arrives(side, own_broker.servers)


@quick_on_the_embedded_one
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_topic_that_gets_another_number_of_partitions_stops_the_running_relay(
    side: ReadSide, own_broker: OwnBroker, busy: bool
) -> None:
    await side.write([[(stock_of(number), received(number, 5)) for number in range(5)]])
    strict = Relay(side.log_url, side.reader, own_broker.servers, recreate_topics=False)
    task = asyncio.create_task(strict.run())
    await until_published(side)
    if busy:
        async with writing(side):
            await remake(own_broker.servers, INVENTORY, LANES - 3)
            await asyncio.wait({task}, timeout=ARRIVE_SECONDS)
    else:
        await remake(own_broker.servers, INVENTORY, LANES - 3)
    with pytest.raises(WrongPartitions, match=r"tallybook\.inventory\.v1.*5.*delete them, or set"):
        await asyncio.wait_for(task, ARRIVE_SECONDS)


@pytest.mark.parametrize(
    ("stopped_broker", "limited_by"),
    [  # the embedded one takes any size
        ("embedded", "client"),
        pytest.param("apache", "client", marks=pytest.mark.heavy),
        ("apache", "broker"),
    ],
    indirect=["stopped_broker"],
)
async def test_an_event_that_the_broker_finds_too_large_travels_as_a_link_and_the_others_as_they_are(
    side: ReadSide,
    own_broker: OwnBroker,
    limited_by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if limited_by == "client":
        monkeypatch.setattr(kafka, "MAX_REQUEST_BYTES", SMALL_BYTES)
    else:
        limited = of(LANES, **{"max.message.bytes": str(SMALL_BYTES)})
        await administer(own_broker.servers, "create_topics", dict.fromkeys(topics(LANES), limited))
    for number in range(40):  # more at once than the broker takes, so that the client must split them
        await side.write([[(stock_of(number % 4), received(number % 4, 1))]])
        if number in (10, 20):
            title = {"en": "x" * SMALL_BYTES * (1 + number // 20)}
            large = ProductDrafted(f"p{number}", f"slug-{number}", title, "standard")
            await side.write([[(f"product-p{number}", large)]])
    stored = {event.position: event for event in await side.reader.read(0)}
    linked = relay.LINKED._value.get()

    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        await listener.until(set(stored))
    links = {delivery.position for delivery in listener.deliveries if delivery.event is None}
    assert links == {position for position, event in stored.items() if event.type == "product.drafted.v1"}
    assert relay.LINKED._value.get() - linked == 2


@quick_on_the_embedded_one
async def test_two_relays_that_both_lead_lose_nothing_and_show_no_consumer_a_gap(
    side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes(_: Lease) -> bool:
        return True

    facts = list(history(seed=63, appends=30))
    both = side.relay(own_broker.servers), side.relay(own_broker.servers)
    monkeypatch.setattr(relay, "RECONNECT_S", 0.05)
    async with running(*both):
        with monkeypatch.context() as forced:
            forced.setattr(Lease, "_take", takes)
            marks = [0]
            for append in facts:
                await side.write([append])
                marks.append(await checkpoint(side))
            await until_published(side)
        assert marks == sorted(marks)
        async with listening(side, own_broker.servers) as listener:
            await listener.until({event.position for event in await side.reader.read(0)})
            assert len(listener.deliveries) > len(await side.reader.read(0)), "they did both publish"
            for arrived in listener.arrived.values():
                seen = 0
                for delivery in map(delivery_of, arrived):
                    assert delivery.previous <= seen
                    seen = max(seen, delivery.position)
            await asyncio.sleep(4 * RENEW_S)  # each has found out by now who leads
            settled = len(listener.deliveries)
            [event] = await side.writer.append((stock_of(0), received(0, 1)))
            await listener.until({event.position})
            await asyncio.sleep(0.5)
            assert len(listener.deliveries) == settled + 1
