"""Events and their metadata as stored bytes: JSON, field by field, one decoder a stored name.

A field that this code does not know is passed over when reading: a later release added it, as optional.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final, get_args, get_type_hints

import msgspec

import domain
from domain.envelope import Metadata
from domain.values import Event

NUL: Final = rb"\u0000"
_HOLDS_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # a backslash before it may be escaped itself

Times = tuple[tuple[str, Callable[[str, Any], None]], ...]

_encoder = msgspec.json.Encoder()
_metadata = msgspec.json.Decoder(Metadata)


class UnknownEvent(ValueError):
    """A stored name that this code does not know: it was written by a later release, or by another shop."""


def encode(event: Event) -> bytes:
    """ValueError if a time in it is naive, or a text is none of PostgreSQL's: with a NUL or half a pair."""
    if _times(type(event)):
        _require_aware(event)
    return _encoded(event)


def encode_metadata(metadata: Metadata) -> bytes:
    """ValueError as for an event."""
    _refuse_naive("occurred_at", metadata.occurred_at)
    return _encoded(metadata)


def _encoded(value: Event | Metadata) -> bytes:
    encoded = _encoder.encode(value)
    if NUL in encoded and _HOLDS_NUL.search(encoded):
        raise ValueError("a text with a NUL")
    return encoded


def decode(stored_name: str, data: bytes) -> Event:
    """`UnknownEvent`; msgspec.ValidationError or ValueError if the bytes are not such an event."""
    read, holds_times = _decoder_of(stored_name)
    event: Event = read(data)
    if holds_times:
        _require_aware(event)
    return event


@cache
def _decoder_of(stored_name: str) -> tuple[Callable[[bytes], Event], bool]:
    """And whether there is a time in what it decodes."""
    kind = domain.EVENTS.get(stored_name)
    if kind is None:
        raise UnknownEvent(f"no event of this code has the stored name {stored_name!r}")
    return msgspec.json.Decoder(kind).decode, bool(_times(kind))


@lru_cache(1)  # the events of one command, which are neighbours in the log, have the same
def decode_metadata(metadata: bytes) -> Metadata:
    decoded = _metadata.decode(metadata)
    _refuse_naive("occurred_at", decoded.occurred_at)
    return decoded


def _require_aware(value: Any) -> None:  # noqa: ANN401 - any dataclass
    for name, check in _times(value.__class__):
        check(name, getattr(value, name))


@cache
def _times(kind: type[Any]) -> Times:
    """The fields of a dataclass that hold a time, somewhere, with what checks them."""
    hints = get_type_hints(kind)
    checked = ((field.name, _check_of(hints[field.name])) for field in fields(kind))
    return tuple((name, check) for name, check in checked if check)


def _check_of(hint: Any) -> Callable[[str, Any], None] | None:  # noqa: ANN401 - any annotation
    if hint is datetime:
        return _refuse_naive
    if is_dataclass(hint) and isinstance(hint, type):
        return (lambda _, value: _require_aware(value)) if _times(hint) else None
    inner = [check for part in get_args(hint) if (check := _check_of(part))]
    return _check_parts if inner else None


def _refuse_naive(name: str, value: Any) -> None:  # noqa: ANN401 - decoded
    if value.tzinfo is None:
        raise ValueError(f"{name} has no time zone: {value}")


def _check_parts(name: str, value: Any) -> None:  # noqa: ANN401 - an optional, or a container
    if isinstance(value, datetime):
        _refuse_naive(name, value)
    elif isinstance(value, Mapping):
        _check_parts(name, tuple(value.items()))
    elif isinstance(value, tuple | list | set | frozenset):
        for part in value:
            _check_parts(name, part)
    elif is_dataclass(value):
        _require_aware(value)
