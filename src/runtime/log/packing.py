"""Arrays in PostgreSQL's binary form (that of `array_recv`): much quicker than lists given to psycopg."""

import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper

BYTEA, BIGINT, SMALLINT, INTEGER, TEXT, UUID = 17, 20, 21, 23, 25, 2950
"""Oids of the types."""

_EMPTY: Final = struct.Struct(">3i")
_HEADER: Final = struct.Struct(">5i")
_length: Final = struct.Struct(">i").pack
_NULL: Final = _length(-1)
_UUID_LENGTH: Final = _length(16)


class Packed(bytes):
    """A parameter that is sent as it is; the statement casts it to its type."""


class PackedDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Packed) -> bytes:
        return obj


def send_packed(context: AdaptContext) -> None:
    """Lets the statements of a connection take `Packed` parameters."""
    if context.adapters is not None:
        context.adapters.register_dumper(Packed, PackedDumper)


def smallints(values: Sequence[int]) -> Packed:
    return _numbers(SMALLINT, 2, "ih", values)


def integers(values: Sequence[int]) -> Packed:
    return _numbers(INTEGER, 4, "ii", values)


def bigints(values: Sequence[int]) -> Packed:
    return _numbers(BIGINT, 8, "iq", values)


def texts(values: Collection[str]) -> Packed:
    encoded = [value.encode() for value in values]
    return _array(TEXT, len(encoded), [_length(len(value)) + value for value in encoded])


def blobs(values: Collection[bytes | None]) -> Packed:
    return _array(
        BYTEA, len(values), [_NULL if value is None else _length(len(value)) + value for value in values]
    )


def uuids(values: Collection[str]) -> Packed:
    """In their canonical text form."""
    return _array(
        UUID, len(values), [_UUID_LENGTH + bytes.fromhex(value.replace("-", "")) for value in values]
    )


def _numbers(oid: int, width: int, code: str, values: Sequence[int]) -> Packed:
    pairs = [width] * (2 * len(values))
    pairs[1::2] = values
    return _array(oid, len(values), (struct.pack(">" + code * len(values), *pairs),))


def _array(oid: int, length: int, elements: Iterable[bytes]) -> Packed:
    """One dimension, counted from 1; each element with its length before it."""
    if length == 0:
        return Packed(_EMPTY.pack(0, 0, oid))
    return Packed(_HEADER.pack(1, 0, oid, length, 1) + b"".join(elements))
