"""Aggregates' states as bytes, and what tells whose states they are: MessagePack, typed by the initial state.

A snapshot is read only by code that would have folded the same state, so every kind of stream has a
fingerprint of all that a state of it depends on: the source text of the noun's module (events, state, fold),
that of the values which nouns share, and the edition of what is kept. A changed comment costs a replay of the
long streams; a changed fold that read old states would cost the truth.
"""

import hashlib
import inspect
from typing import Any, Final

import msgspec

import domain
from domain import values
from domain.values import Aggregate

EDITION: Final = 1
"""To be raised with whatever else makes kept states mean something else: this codec, or `Known.after`."""


AGGREGATES: Final[dict[str, Aggregate[Any, Any]]] = {
    found.category: found
    for module in vars(domain).values()
    if inspect.ismodule(module)
    for found in vars(module).values()
    if isinstance(found, Aggregate)
}
"""Every kind of stream, by category."""


def fingerprint_of(aggregate: Aggregate[Any, Any]) -> bytes:
    """SHA-256."""
    module = inspect.getmodule(aggregate.evolve)
    if module is None:
        raise AssertionError(f"the fold of {aggregate.category} is in no module")
    parts = [f"{EDITION} {aggregate.category}", inspect.getsource(values), inspect.getsource(module)]
    return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()


# Made when this is imported: the sources may be replaced while the process runs.
FINGERPRINTS: Final = {category: fingerprint_of(aggregate) for category, aggregate in AGGREGATES.items()}
"""32 bytes, by category."""

_encoder = msgspec.msgpack.Encoder()
_decoders = {
    category: msgspec.msgpack.Decoder(type(aggregate.initial)) for category, aggregate in AGGREGATES.items()
}


def encode_state(state: Any) -> bytes:  # noqa: ANN401 - any aggregate's
    return _encoder.encode(state)


def decode_state(category: str, data: bytes) -> Any:  # noqa: ANN401 - any aggregate's
    """msgspec.MsgspecError or ValueError if the bytes are not such a state."""
    return _decoders[category].decode(data)
