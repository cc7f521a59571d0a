"""The document of the topics is checked in, is AsyncAPI, and says what the relay sends."""

import json
import warnings
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from tests.contracts import write_event_contract as contract

from domain import CONTEXTS, EVENTS
from domain.envelope import Actor, Metadata
from runtime import codec
from runtime.asyncapi import LINKED, document, key_of
from runtime.kafka import Message
from runtime.log.reading import StoredEvent
from runtime.messages import message_of, topic_of
from runtime.openapi import written

PATH = Path(__file__).parent / "asyncapi" / "topics.json"
DOCUMENT = document()
INCARNATION = "0199a7c0-0000-7000-8000-000000000001"
NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def context_of(name: str) -> str:
    [context] = [
        context for context, channel in DOCUMENT["channels"].items() if key_of(name) in channel["messages"]
    ]
    return str(context)


def sent(name: str, **more: Any) -> Message:
    """As the relay sends the sample of an event."""
    metadata = Metadata(NOW, Actor("staff", "s1"), INCARNATION, INCARNATION)
    event = StoredEvent(
        position=7,
        stream="stock-MUG@MAIN",
        version=3,
        event_id="0199a7c0-0000-7000-8000-000000000002",
        type=name,
        context=context_of(name),
        lane=5,
        data=contract.sample_path(name).read_bytes().removesuffix(b"\n"),
        metadata=codec.encode_metadata(metadata),
        recorded_at=NOW,
        previous=0,
    )
    return message_of(event, INCARNATION, **more)


def check(message: Message, key: str) -> None:
    """ValidationError unless it is as the document has it."""
    described = DOCUMENT["components"]["messages"][key]
    headers = {name: value.decode() for name, value in message.headers}
    _valid(headers, described["headers"])
    _valid(json.loads(message.value) if message.value else "", described["payload"])
    if "metadata" in headers:
        _valid(json.loads(headers["metadata"]), DOCUMENT["components"]["schemas"]["metadata"])


def _valid(value: Any, schema: dict[str, Any]) -> None:
    with_components = {**schema, "components": DOCUMENT["components"]}
    Draft202012Validator(with_components, format_checker=FormatChecker()).validate(value)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(found := part.get("$ref"), str):
            yield found
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from references(item)


def asyncapi_of(given: dict[str, Any]) -> Any:
    """As a reader of AsyncAPI 3 understands it. Raises pydantic's ValidationError, a ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its models shadow names of pydantic's
        from asyncapi3 import AsyncAPI3  # noqa: PLC0415 - see the line above
    return AsyncAPI3.model_validate(given)


def test_the_document_is_the_one_checked_in() -> None:
    assert written(DOCUMENT) == PATH.read_text(), "make asyncapi"


def test_the_document_is_asyncapi_3_and_a_wrong_one_would_not_be() -> None:
    read = asyncapi_of(DOCUMENT)
    assert read.asyncapi == "3.0.0"
    wrong = deepcopy(DOCUMENT)
    wrong["operations"]["publish_orders"]["action"] = "shout"
    with pytest.raises(ValueError, match="action"):
        asyncapi_of(wrong)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        there: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            there = there[step]


def test_every_topic_and_every_event_has_its_place() -> None:
    channels = DOCUMENT["channels"]
    assert {channel["address"] for channel in channels.values()} == set(map(topic_of, CONTEXTS.values()))
    placed = sorted(key for channel in channels.values() for key in channel["messages"] if key != LINKED)
    assert placed == sorted(map(key_of, EVENTS))
    for operation in DOCUMENT["operations"].values():
        context = operation["channel"]["$ref"].rpartition("/")[2]
        keys = [message["$ref"].rpartition("/")[2] for message in operation["messages"]]
        assert keys == list(channels[context]["messages"])


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_what_the_relay_sends_is_as_the_document_has_it(name: str) -> None:
    message = sent(name)
    check(message, key_of(name))
    assert message.topic == DOCUMENT["channels"][context_of(name)]["address"]
    check(sent(name, largest=1), LINKED)


@pytest.mark.parametrize(
    ("header", "value"),
    [("position", b"0"), ("previous", b"-1"), ("ce_type", b"stock.lost.v1"), ("ce_specversion", b"0.3")],
)
def test_a_message_with_a_wrong_header_is_not_as_the_document_has_it(header: str, value: bytes) -> None:
    message = sent("stock.received.v1")
    headers = [(name, value if name == header else own) for name, own in message.headers]
    assert dict(headers) != dict(message.headers)
    with pytest.raises(ValidationError):
        check(
            Message(message.topic, message.partition, message.key, message.value, headers),
            "stock_received_v1",
        )


def test_a_whole_event_is_no_link_and_a_link_no_whole_event() -> None:
    with pytest.raises(ValidationError):
        check(sent("stock.received.v1"), LINKED)
    with pytest.raises(ValidationError):
        check(sent("stock.received.v1", largest=1), "stock_received_v1")
