"""An event of the log as a Kafka message, and back: CloudEvents 1.0 in binary mode.

One topic a context, one partition a lane, the stream as the key. Beside the CloudEvents headers stand the
links of the chain: `position`, and `previous`, the position of the event before it in the same context and
lane.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

import msgspec

from domain import CONTEXTS
from domain.envelope import Recorded
from runtime.kafka import Message
from runtime.log.reading import LogReader, StoredEvent, Undecodable

MAX_EVENT_BYTES: Final = 900_000
"""Data and metadata, of an event that travels as a whole; brokers refuse messages above 1 MiB by default."""


class ForeignMessage(Exception):
    """Not a message of this relay."""


class _Occurrence(msgspec.Struct):
    occurred_at: str


_occurrence: Final = msgspec.json.Decoder(_Occurrence)


@dataclass(frozen=True)
class Delivery:
    """A link of a lane's chain. `event` is None when it was too large for a message: the log has it."""

    incarnation: str
    position: int
    previous: int
    event: StoredEvent | None

    @cached_property
    def recorded(self) -> Recorded | Undecodable | None:
        """The event, decoded once for all that it is delivered to."""
        return LogReader.decode_or_not(self.event) if self.event else None


def topic_of(context: str) -> str:
    return f"tallybook.{context}.v1"


def context_of(topic: str) -> str:
    _, context, _ = topic.split(".")
    return context


def topics(lanes: int, contexts: Iterable[str] = frozenset(CONTEXTS.values())) -> dict[str, int]:
    """The number of partitions of the contexts' topics."""
    return {topic_of(context): lanes for context in sorted(contexts)}


def size_of(event: StoredEvent) -> int:
    """In bytes: data and metadata."""
    return len(event.data) + len(event.metadata)


def message_of(event: StoredEvent, incarnation: str, largest: int = MAX_EVENT_BYTES) -> Message:
    """With the event if it has at most `largest` bytes, else with a link to it."""
    occurred_at = _occurrence.decode(event.metadata).occurred_at
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.event_id.encode()),
        ("ce_source", f"/tallybook/{event.context}".encode()),
        ("ce_type", event.type.encode()),
        ("ce_time", occurred_at.encode()),
        ("ce_subject", event.stream.encode()),
        ("content-type", b"application/json"),
        ("position", b"%d" % event.position),
        ("version", b"%d" % event.version),
        ("previous", b"%d" % event.previous),
        ("incarnation", incarnation.encode()),
        ("recorded_at", event.recorded_at.isoformat().encode()),
    ]
    if size_of(event) > largest:
        value = b""
        headers.append(("link", f"/v1/events/{event.event_id}".encode()))  # at the audit door
    else:
        value = event.data
        headers.append(("metadata", event.metadata))
    return Message(topic_of(event.context), event.lane, event.stream.encode(), value, headers)


def delivery_of(message: Message) -> Delivery:
    """Raises `ForeignMessage` when it cannot be read as one of ours."""
    headers = dict(message.headers)
    try:
        position, previous = int(headers["position"]), int(headers["previous"])
        incarnation = headers["incarnation"].decode()
        event = None if "link" in headers else _event(message, headers, position, previous)
    except (KeyError, ValueError) as error:
        raise ForeignMessage(f"{message.topic}, partition {message.partition}: {error!r}") from error
    return Delivery(incarnation, position, previous, event)


def _event(message: Message, headers: Mapping[str, bytes], position: int, previous: int) -> StoredEvent:
    return StoredEvent(
        position=position,
        stream=message.key.decode(),
        version=int(headers["version"]),
        event_id=headers["ce_id"].decode(),
        type=headers["ce_type"].decode(),
        context=context_of(message.topic),
        lane=message.partition,
        data=message.value,
        metadata=headers["metadata"],
        recorded_at=datetime.fromisoformat(headers["recorded_at"].decode()),
        previous=previous,
    )
