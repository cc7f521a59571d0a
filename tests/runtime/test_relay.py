"""The relay publishes the log: all of it, each lane in order, as a chain, by whichever relay leads."""

import asyncio

import psycopg
import pytest
from broker import OwnBroker, quick_on_the_embedded_one
from history import history, received, stock_of
from kafka import KafkaAdminClient
from listening import ARRIVE_SECONDS, checkpoint, listening, until_published
from read_side import ReadSide, running

from runtime import relay
from runtime.kafka import Publisher, WrongPartitions
from runtime.messages import delivery_of, topics
from runtime.relay import CheckpointAheadOfLog, Relay

pytestmark = [
    pytest.mark.anyio,
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


async def test_every_event_arrives_once_in_its_lane_as_a_link_of_its_chain(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    await side.write(list(history(seed=41, appends=40)))
    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        await listener.until({event.position for event in await side.reader.read(0)})

    stored = {event.position: event for event in await side.reader.read(0)}
    assert sorted(delivery.position for delivery in listener.deliveries) == sorted(stored)
    assert all(delivery.event == stored[delivery.position] for delivery in listener.deliveries)
    for arrived in listener.arrived.values():
        chain = [delivery_of(message) for message in arrived]
        assert [link.previous for link in chain] == [0, *(link.position for link in chain[:-1])]


async def test_messages_are_cloudevents_in_binary_mode(side: ReadSide, own_broker: OwnBroker) -> None:
    events = await side.writer.append((stock_of(0), received(0, 5)))
    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        await listener.until({1})
    [(message,)] = [tuple(messages) for messages in listener.arrived.values()]
    headers = {name: value.decode() for name, value in message.headers}

    assert message.topic == "tallybook.inventory.v1"
    assert (message.key.decode(), message.partition) == (stock_of(0), events[0].lane)
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_id"] == events[0].event_id
    assert headers["ce_type"] == "stock.received.v1"
    assert headers["ce_source"] == "/tallybook/inventory"
    assert headers["ce_subject"] == stock_of(0)
    assert headers["ce_time"] == "2026-01-01T12:00:01Z"
    assert headers["content-type"] == "application/json"


async def test_an_event_too_large_for_a_message_travels_as_a_link(
    side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.write(list(history(seed=42, appends=6)))
    sizes = {event.position: len(event.data) + len(event.metadata) for event in await side.reader.read(0)}
    limit = max(sizes.values()) - 1
    large = {position for position, size in sizes.items() if size > limit}
    monkeypatch.setattr(relay, "MAX_EVENT_BYTES", limit)
    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        await listener.until({event.position for event in await side.reader.read(0)})

    assert {delivery.position for delivery in listener.deliveries if delivery.event is None} == large


async def test_a_standby_publishes_nothing_until_the_leader_is_gone(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    facts = list(history(seed=43, appends=10))
    leader = asyncio.create_task(side.relay(own_broker.servers).run())
    await side.write(facts[:10])
    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        for facts_now in facts[10:20]:
            await side.write([facts_now])
            await asyncio.sleep(0.1)
        stored = await side.reader.read(0)
        await listener.until({event.position for event in stored})
        assert len(listener.deliveries) == len(stored)
        leader.cancel()
        await asyncio.wait({leader})
        await side.write(facts[20:])
        await listener.until({event.position for event in await side.reader.read(0)})


@quick_on_the_embedded_one
async def test_topics_are_made_again_after_a_broker_lost_them_though_nothing_is_to_be_sent(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    await side.write(list(history(seed=47, appends=0)))
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
        await own_broker.kill()
        await own_broker.start()
        admin = KafkaAdminClient(bootstrap_servers=own_broker.servers)
        async with asyncio.timeout(ARRIVE_SECONDS):
            while set(await asyncio.to_thread(admin.list_topics)) != set(topics(8)):
                await asyncio.sleep(0.05)
        admin.close()


@quick_on_the_embedded_one
async def test_nothing_moves_the_checkpoint_past_what_the_broker_has(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    facts = list(history(seed=44, appends=10))
    async with running(side.relay(own_broker.servers)):
        await side.write(facts[:5])
        await until_published(side)
        has = await checkpoint(side)
        await own_broker.kill()
        await side.write(facts[5:])
        await asyncio.sleep(1.0)
        assert await checkpoint(side) == has
        await own_broker.start()
        async with listening(side, own_broker.servers) as listener:
            await listener.until({event.position for event in await side.reader.read(has)})


async def test_a_relay_that_finds_its_checkpoint_moved_by_another_goes_on_from_there(
    side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = list(history(seed=48, appends=0))
    await side.write(facts[:-1])
    first = (await side.reader.read(0))[0]
    moved: list[str] = []

    async def meanwhile(point: str) -> None:
        if not moved:
            moved.append(point)
            async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as other:
                await other.execute(
                    "update relay.checkpoint set position = 1, event_id = %s", [first.event_id]
                )

    monkeypatch.setattr(relay, "reached", meanwhile)
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
        await side.write(facts[-1:])
        await until_published(side)
    assert moved == ["after_send_before_checkpoint"]


async def test_a_topic_with_another_number_of_partitions_stops_the_relay_loudly(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    await make_topics(own_broker.servers, partitions=3)

    strict = Relay(side.log_url, side.reader, own_broker.servers, recreate_topics=False)
    with pytest.raises(WrongPartitions, match=r"tallybook\.catalogue\.v1.*3.*delete them, or set"):
        await asyncio.wait_for(strict.run(), ARRIVE_SECONDS)


async def test_a_topic_with_another_number_of_partitions_is_made_again_where_that_is_allowed(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    await make_topics(own_broker.servers, partitions=3)
    await side.write(list(history(seed=45, appends=5)))

    async with running(side.relay(own_broker.servers)), listening(side, own_broker.servers) as listener:
        await listener.until({event.position for event in await side.reader.read(0)})


async def make_topics(servers: str, partitions: int) -> None:
    publisher = Publisher(servers, topics(partitions), recreate=False)
    await publisher.connect()
    await publisher.close()


async def test_a_checkpoint_that_the_log_does_not_have_stops_the_relay_and_says_what_to_do(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    await side.write(list(history(seed=46, appends=0)))
    async with running(side.relay(own_broker.servers)):
        await until_published(side)
    async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as owner:
        await owner.execute("update relay.checkpoint set event_id = gen_random_uuid()")

    with pytest.raises(CheckpointAheadOfLog, match=r"remove the row of relay\.checkpoint"):
        await asyncio.wait_for(side.relay(own_broker.servers).run(), ARRIVE_SECONDS)
