"""Reading what stands in a topic, whoever put it there."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from runtime.kafka import Message
from runtime.log.reading import StoredEvent
from runtime.messages import MAX_EVENT_BYTES, Delivery, ForeignMessage, delivery_of, message_of, topics

INCARNATION = "0199a7c0-0000-7000-8000-000000000001"
EVENT = StoredEvent(
    position=7,
    stream="stock-É@MAIN",
    version=3,
    event_id="0199a7c0-0000-7000-8000-000000000002",
    type="stock.received.v1",
    context="inventory",
    lane=5,
    data=b'{"qty":1}',
    metadata=b'{"occurred_at":"2026-01-01T12:00:00Z","actor":{}}',
    recorded_at=datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC),
    previous=4,
)


def test_an_event_comes_back_as_it_went_to_the_byte() -> None:
    assert delivery_of(message_of(EVENT, INCARNATION)) == Delivery(INCARNATION, 7, 4, EVENT)


def test_an_event_too_large_for_brokers_defaults_goes_without_its_bytes() -> None:
    message = message_of(replace(EVENT, data=b"x" * MAX_EVENT_BYTES), INCARNATION)

    assert message.value == b""
    assert dict(message.headers)["link"] == f"/v1/events/{EVENT.event_id}".encode()
    assert delivery_of(message) == Delivery(INCARNATION, 7, 4, None)


@pytest.mark.parametrize(
    "missing", ["position", "previous", "incarnation", "ce_id", "recorded_at", "metadata"]
)
def test_a_message_without_one_of_our_headers_is_foreign(missing: str) -> None:
    message = message_of(EVENT, INCARNATION)
    headers = [header for header in message.headers if header[0] != missing]

    with pytest.raises(ForeignMessage, match=missing):
        delivery_of(Message(message.topic, message.partition, message.key, message.value, headers))


@pytest.mark.parametrize(
    ("name", "value"), [("position", b"seven"), ("incarnation", b"\xff"), ("recorded_at", b"yesterday")]
)
def test_a_message_with_a_header_that_cannot_be_read_is_foreign(name: str, value: bytes) -> None:
    message = message_of(EVENT, INCARNATION)
    headers = [(key, value if key == name else own) for key, own in message.headers]

    with pytest.raises(ForeignMessage):
        delivery_of(Message(message.topic, message.partition, message.key, message.value, headers))


def test_every_context_has_a_topic_with_a_partition_a_lane() -> None:
    assert topics(8) == {
        "tallybook.catalogue.v1": 8,
        "tallybook.inventory.v1": 8,
        "tallybook.orders.v1": 8,
    }
