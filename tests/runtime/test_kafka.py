"""The adapter to kafka-python, against a broker that is away, wrong, or without its memory."""

import asyncio
from collections.abc import Callable

import pytest
from broker import OwnBroker, quick_on_the_embedded_one
from kafka import KafkaAdminClient
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.producer.future import RecordMetadata

from runtime import kafka
from runtime.kafka import (
    KafkaUnavailable,
    Message,
    NothingAssigned,
    Publisher,
    Subscriber,
    WrongPartitions,
    acknowledged,
)

pytestmark = [
    pytest.mark.anyio,
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

TOPICS = {"here": 2}
ARRIVE_SECONDS = 20.0


def numbered(first: int, last: int) -> list[Message]:
    return [
        Message("here", number % 2, b"key", str(number).encode(), [("header", b"value")])
        for number in range(first, last + 1)
    ]


async def values(subscriber: Subscriber, count: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(ARRIVE_SECONDS):
        while len(found) < count:
            for messages in (await subscriber.poll()).values():
                found += [int(message.value) for message in messages]
    return found


async def checks(publisher: Publisher) -> None:
    while True:
        await publisher.check()
        await asyncio.sleep(0.05)


async def test_a_broker_that_is_away_is_unavailable_at_once(free_port: Callable[[], int]) -> None:
    servers = f"127.0.0.1:{free_port()}"
    for client in (Publisher(servers, TOPICS, recreate=True), Subscriber(servers, "group", TOPICS)):
        with pytest.raises(KafkaUnavailable):
            await asyncio.wait_for(client.connect(), 2.0)
        await client.close()


async def test_a_subscriber_does_not_ask_for_topics_that_are_not_there_yet(own_broker: OwnBroker) -> None:
    subscriber = Subscriber(own_broker.servers, "group", TOPICS)
    with pytest.raises(KafkaUnavailable, match="here has 0 of 2 partitions"):
        await subscriber.connect()
    await subscriber.close()

    strict = Publisher(own_broker.servers, TOPICS, recreate=False)
    await strict.connect()  # nobody has made the topic with another number of partitions
    await strict.close()


async def test_a_message_for_a_partition_that_is_not_there_ends_the_acknowledged_prefix(
    own_broker: OwnBroker,
) -> None:
    publisher = Publisher(own_broker.servers, TOPICS, recreate=False)
    await publisher.connect()
    beyond = Message("here", 2, b"key", b"3", [])

    assert (await publisher.publish([*numbered(1, 2), beyond, *numbered(4, 5)])).count == 2
    await publisher.close()


async def test_a_broker_killed_under_a_publisher_has_acknowledged_nothing_more(own_broker: OwnBroker) -> None:
    publisher = Publisher(own_broker.servers, TOPICS, recreate=False)
    await publisher.connect()
    assert (await publisher.publish(numbered(1, 2))).count == 2
    await own_broker.kill()

    assert (await publisher.publish(numbered(3, 4))).count == 0
    with pytest.raises(KafkaUnavailable):
        await publisher.check()
    await publisher.close()


@quick_on_the_embedded_one
async def test_what_is_published_arrives_in_each_partitions_order_and_topics_lost_are_noticed(
    own_broker: OwnBroker,
) -> None:
    publisher = Publisher(own_broker.servers, TOPICS, recreate=True)
    subscriber = Subscriber(own_broker.servers, "group", TOPICS)
    await publisher.connect()
    assert (await publisher.publish(numbered(1, 50))).count == 50
    await subscriber.connect()

    arrived = await values(subscriber, 50)

    assert [number for number in arrived if number % 2] == list(range(1, 51, 2))
    assert [number for number in arrived if not number % 2] == list(range(2, 51, 2))
    await own_broker.kill()
    await own_broker.start()
    with pytest.raises(KafkaUnavailable):
        await asyncio.wait_for(checks(publisher), ARRIVE_SECONDS)
    with pytest.raises(KafkaUnavailable):
        await values(subscriber, 1)
    await publisher.close()
    await subscriber.close()


def test_a_record_without_an_offset_ends_the_acknowledged_prefix() -> None:
    def sent(offset: int | None) -> Future:
        future = Future()
        if offset is None:
            return future.failure(KafkaTimeoutError("late"))
        return future.success(RecordMetadata("here", 0, None, offset, 0, None, 0, 0, 0))

    assert acknowledged([sent(0), sent(1), sent(-1), sent(2)]) == 2
    assert acknowledged([sent(None), sent(0)]) == 0
    assert acknowledged([sent(0), Future()]) == 1
    assert acknowledged([]) == 0


async def test_a_topic_made_again_under_a_subscriber_is_read_from_its_beginning(
    own_broker: OwnBroker,
) -> None:
    subscriber = Subscriber(own_broker.servers, "group", TOPICS)
    first = Publisher(own_broker.servers, TOPICS, recreate=False)
    await first.connect()
    assert (await first.publish(numbered(1, 50))).count == 50
    await subscriber.connect()
    await values(subscriber, 50)
    await first.close()
    admin = KafkaAdminClient(bootstrap_servers=own_broker.servers)
    admin.delete_topics(["here"])
    admin.create_topics({"here": {"num_partitions": 2, "replication_factor": 1}})
    admin.wait_for_topics(["here"])
    admin.close()
    second = Publisher(own_broker.servers, TOPICS, recreate=False)
    await second.connect()
    assert (await second.publish(numbered(51, 54))).count == 4

    assert sorted(await values(subscriber, 4)) == [51, 52, 53, 54]
    await second.close()
    await subscriber.close()


async def test_partitions_of_a_wrong_number_are_refused_or_made_again(own_broker: OwnBroker) -> None:
    for wanted, recreate in ((3, False), (2, True)):
        publisher = Publisher(own_broker.servers, {"here": wanted}, recreate=recreate)
        await publisher.connect()
        await publisher.close()

    refusing = Publisher(own_broker.servers, {"here": 3}, recreate=False)
    with pytest.raises(WrongPartitions, match="here"):
        await refusing.connect()
    await refusing.close()


@pytest.mark.heavy
async def test_a_member_that_its_group_gives_nothing_says_so_and_is_served_by_another_group(
    own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "UNASSIGNED_S", 5.0)
    topics = {"here": 1}
    publisher = Publisher(own_broker.servers, topics, recreate=True)
    first = Subscriber(own_broker.servers, "group", topics)
    second = Subscriber(own_broker.servers, "group", topics)
    other = Subscriber(own_broker.servers, "group.1", topics)
    try:
        await publisher.connect()
        assert (await publisher.publish([Message("here", 0, b"key", b"1", [])])).count == 1
        await first.connect()
        assert await values(first, 1) == [1]
        await second.connect()
        with pytest.raises(NothingAssigned):
            await asyncio.gather(*(_for_ever(subscriber) for subscriber in (first, second)))
        await other.connect()
        assert await values(other, 1) == [1]
    finally:
        for client in (first, second, other, publisher):
            await client.close()


async def _for_ever(subscriber: Subscriber) -> None:
    async with asyncio.timeout(ARRIVE_SECONDS):
        while True:
            await subscriber.poll()
