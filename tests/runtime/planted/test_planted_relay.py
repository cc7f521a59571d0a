"""Bugs planted in the relay are noticed, each by a check that the relay as it is passes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from broker import OwnBroker
from history import history
from kafka import KafkaProducer
from kafka.future import Future
from kafka.producer.future import RecordMetadata
from listening import checkpoint, listening, until_published
from planting import plant
from read_side import ReadSide, running

from runtime import kafka, relay

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.heavy,
    pytest.mark.parametrize("stopped_broker", ["embedded"], indirect=True),  # the bugs are the relay's own
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

LOSES = 3
NEVER_S = 60.0
LOOK_S = 1.0
ARRIVE_S = 3.0


class Noticed(AssertionError):
    """The relay has said what is not so."""


Check = Callable[[ReadSide, OwnBroker, pytest.MonkeyPatch], Awaitable[None]]


@dataclass(frozen=True)
class Planted:
    """`changes` in the text of `owner.name`."""

    bug: str
    owner: Any
    name: str
    changes: Sequence[tuple[str, str]]
    noticed_by: Check


async def what_is_published_is_in_its_topic(
    side: ReadSide, broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the client says of a record that it is, without an offset, and it is not."""
    sent: list[str] = []

    class Loses(KafkaProducer):  # type: ignore[misc]  # ships no types
        def send(self, topic: str, **record: Any) -> Any:
            sent.append(topic)
            if len(sent) == LOSES:
                return Future().success(RecordMetadata(topic, 0, None, -1, 0, None, 0, 0, 0))
            return super().send(topic, **record)

    monkeypatch.setattr(kafka, "KafkaProducer", Loses)
    await side.write(list(history(seed=71, appends=5)))
    stored = {event.position for event in await side.reader.read(0)}
    async with running(side.relay(broker.servers)), listening(side, broker.servers) as listener:
        with suppress(TimeoutError):
            await asyncio.wait_for(listener.until(stored), ARRIVE_S)
    if missing := stored - {delivery.position for delivery in listener.deliveries}:
        raise Noticed(f"the checkpoint is past events that are not there: {missing}")
    assert len(sent) > LOSES


async def the_checkpoint_waits_for_the_broker(
    side: ReadSide, broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "CHECK_S", NEVER_S)  # it is to find out by sending
    facts = list(history(seed=72, appends=5))
    async with running(side.relay(broker.servers)):
        await side.write(facts[:5])
        await until_published(side)
        has = await checkpoint(side)
        await broker.kill()
        await side.write(facts[5:])
        await asyncio.sleep(LOOK_S)
        moved = await checkpoint(side) != has
    if moved:
        raise Noticed("the checkpoint is past what the broker has")


async def the_checkpoint_never_goes_back(
    side: ReadSide, broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another relay, which leads as well, is ahead."""
    await side.write(list(history(seed=73, appends=5)))
    head = await side.reader.head()
    monkeypatch.setattr(relay, "BATCH_EVENTS", 2)
    marks: list[int] = []

    async def another(_: str) -> None:
        if not marks:
            async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as other:
                await other.execute(
                    "update relay.checkpoint set position = %s, event_id = %s", [head.position, head.event_id]
                )
        marks.append(await checkpoint(side))

    monkeypatch.setattr(relay, "reached", another)
    async with running(side.relay(broker.servers)):
        async with asyncio.timeout(ARRIVE_S):
            while not marks:
                await asyncio.sleep(0.01)
        await asyncio.sleep(LOOK_S)
        marks.append(await checkpoint(side))
    if marks != [head.position] * len(marks):
        raise Noticed(f"the checkpoint went back: {marks}")


PLANTED = [
    Planted(
        "an offset of -1 is accepted",
        kafka,
        "acknowledged",
        [(r" and sent\.value\.offset >= 0", "")],
        what_is_published_is_in_its_topic,
    ),
    Planted(
        "the cursor moves before the ack",
        relay.Relay,
        "_publish",
        [
            (r"(published = await publisher\.publish)", r"mark = await MOVE(batch.events); \1"),
            (r"mark = await self\._move\(\s*connection, incarnation, mark, batch[^)]*\)", "pass"),
            (r"MOVE\(", "self._move(connection, incarnation, mark, "),
        ],
        the_checkpoint_waits_for_the_broker,
    ),
    Planted(
        "the checkpoint is set without comparing",
        relay.Relay,
        "_move",
        [
            (r"where name = %s and position = %s and event_id = %s", "where name = %s"),
            (r"NAME, mark\.position, mark\.event_id", "NAME"),
        ],
        the_checkpoint_never_goes_back,
    ),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.bug)
async def test_a_planted_bug_is_noticed(
    planted: Planted, side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, planted.owner, planted.name, planted.changes)
    with pytest.raises(Noticed):
        await planted.noticed_by(side, own_broker, monkeypatch)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.bug)
async def test_the_relay_as_it_is_passes(
    planted: Planted, side: ReadSide, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await planted.noticed_by(side, own_broker, monkeypatch)
