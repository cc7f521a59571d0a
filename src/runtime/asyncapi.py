"""Writes the AsyncAPI 3 document of the topics: `python -m runtime.asyncapi <file>`."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import TypeAdapter

from domain import CONTEXTS, UNIONS
from domain.envelope import Metadata
from domain.values import Event
from runtime.messages import MAX_EVENT_BYTES, topic_of
from runtime.migrate import DEFAULT_LANES
from runtime.openapi import written

LINKED: Final = "linked"
"""The name of the message for an event, of any type, that is too large for one."""
BINDING: Final = "0.5.0"
_COMMENTS: Final = ("title", "description")

_COUNT: Final = {"type": "string", "pattern": "^[1-9][0-9]*$"}
_UUID: Final = {"type": "string", "format": "uuid"}
_TIME: Final = {"type": "string", "format": "date-time"}
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "ce_specversion": {"const": "1.0", "description": "CloudEvents, binary mode."},
    "ce_id": {**_UUID, "description": "The event's id."},
    "ce_source": {"type": "string", "format": "uri-reference", "description": "`/tallybook/<context>`."},
    "ce_type": {"type": "string", "description": "The event's stored name, with the version of its schema."},
    "ce_time": {**_TIME, "description": "When it occurred."},
    "ce_subject": {"type": "string", "description": "The stream; the key as well."},
    "content-type": {"const": "application/json"},
    "position": {**_COUNT, "description": "In the log: 1, 2, 3 and so on, over all topics."},
    "version": {**_COUNT, "description": "In the stream: 1, 2, 3 and so on."},
    "previous": {
        "type": "string",
        "pattern": "^(0|[1-9][0-9]*)$",
        "description": (
            "The position of the event before it in this partition, 0 when there is none. So the messages of "
            "a partition are a chain: who has applied all up to `previous` has missed nothing, and who has "
            "applied `position` has met a repeat."
        ),
    },
    "incarnation": {**_UUID, "description": "The history that the positions count; another after a restore."},
    "recorded_at": {**_TIME, "description": "When the log took it; it grows with the position."},
}
"""Of every message, as UTF-8."""


def schema_of(event: type[Any]) -> dict[str, Any]:
    """The schema of what is stored: references resolved, comments left out, for they bind nobody."""
    schema = TypeAdapter(event).json_schema()
    resolved: dict[str, Any] = _resolved(schema, schema.pop("$defs", {}))
    return resolved


def _resolved(schema: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 - any part of a schema
    if isinstance(schema, list):
        return [_resolved(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {
        key: {name: _resolved(field, definitions) for name, field in value.items()}
        if key == "properties"
        else _resolved(value, definitions)
        for key, value in schema.items()
        if key not in _COMMENTS
    }


def document() -> dict[str, Any]:
    events = dict(sorted(_events()))
    contexts = sorted(set(CONTEXTS.values()))
    keys = {
        context: [*(key_of(name) for name, (of, _) in events.items() if of == context), LINKED]
        for context in contexts
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tallybook: topics",
            "version": "1",
            "description": (
                "Every event of the log, on one topic a context. Topics are transport, the log is truth: a "
                "broker may lose, repeat or delay messages, and `previous` tells. Fields are only ever added."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {context: _channel(context, keys[context]) for context in contexts},
        "operations": {
            f"{verb}_{context}": _operation(action, context, what, keys[context])
            for context in contexts
            for verb, action, what in (
                ("publish", "send", "The relay publishes each event, at least once, in order."),
                ("follow", "receive", "The projector, and whoever likes to, follows the chain of each lane."),
            )
        },
        "components": {
            "messages": {key_of(name): _message(name, event) for name, (_, event) in events.items()}
            | {LINKED: _linked()},
            "schemas": {
                "headers": {
                    "type": "object",
                    "properties": dict(HEADERS),
                    "required": list(HEADERS),
                },
                "metadata": schema_of(Metadata),
            },
        },
    }


def key_of(name: str) -> str:
    """Of the message of an event: its stored name, as tools take it for a key."""
    return name.replace(".", "_")


def _events() -> Iterator[tuple[str, tuple[str, type[Event]]]]:
    """Context and class of each event, by its stored name."""
    for category, union in UNIONS.items():
        for event in get_args(union) or (union,):
            yield event.TYPE, (CONTEXTS[category], event)


def _channel(context: str, keys: list[str]) -> dict[str, Any]:
    return {
        "address": topic_of(context),
        "description": "As many partitions as the log has lanes, 8 unless it was made otherwise.",
        "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in keys},
        "bindings": {"kafka": {"partitions": DEFAULT_LANES, "bindingVersion": BINDING}},
    }


def _operation(action: str, context: str, summary: str, keys: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{context}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{context}/messages/{key}"} for key in keys],
    }


def _message(name: str, event: type[Event]) -> dict[str, Any]:
    metadata = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/metadata"},
        "description": "Who, when and why, as stored.",
    }
    return {
        "name": name,
        "headers": _headers({"ce_type": {"const": name}, "metadata": metadata}, "metadata"),
        "payload": schema_of(event),
        "bindings": _binding(),
    }


def _linked() -> dict[str, Any]:
    link = {"type": "string", "format": "uri-reference", "description": "Of the event, at the audit door."}
    return {
        "name": LINKED,
        "summary": (
            f"For an event of more than {MAX_EVENT_BYTES} bytes, or of fewer where a broker takes no more."
        ),
        "headers": _headers({"link": link}, "link"),
        "payload": {"type": "string", "maxLength": 0},
        "bindings": _binding(),
    }


def _headers(more: Mapping[str, Any], required: str) -> dict[str, Any]:
    return {
        "allOf": [{"$ref": "#/components/schemas/headers"}],
        "type": "object",
        "properties": dict(more),
        "required": [required],
    }


def _binding() -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": "The stream."}, "bindingVersion": BINDING}}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(written(document()))
