"""Arrays in PostgreSQL's binary form (that of `array_recv`): much quicker than lists given to psycopg.

None is null, where that is allowed for.
"""

import struct
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

BOOLEAN, BYTEA, BIGINT, SMALLINT, INTEGER, TEXT, TIMESTAMPTZ, UUID, JSONB = (
    16,
    17,
    20,
    21,
    23,
    25,
    1184,
    2950,
    3802,
)
"""Oids of the types."""

_EMPTY: Final = struct.Struct(">3i")
_HEADER: Final = struct.Struct(">5i")
_length: Final = struct.Struct(">i").pack
_NULL: Final = _length(-1)
_bigint: Final = struct.Struct(">q").pack
_BITS: Final = (b"\0", b"\1")
_JSONB_1: Final = b"\1"
"""The version of jsonb's binary form, which is text."""
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UUID_LENGTH: Final = _length(16).hex()


class Packed(bytes):
    """One of these arrays as a parameter of psycopg; the statement says by a cast what it is."""

    __slots__ = ()


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> Packed:
        return obj


psycopg.adapters.register_dumper(Packed, _PackedDumper)


def smallints(values: Sequence[int]) -> bytes:
    return _numbers(SMALLINT, 2, "ih", values)


def integers(values: Sequence[int]) -> bytes:
    return _numbers(INTEGER, 4, "ii", values)


def bigints(values: Sequence[int]) -> bytes:
    return _numbers(BIGINT, 8, "iq", values)


def texts(values: Collection[str | None]) -> bytes:
    return _elements(TEXT, [None if value is None else value.encode() for value in values])


def blobs(values: Collection[bytes | None]) -> bytes:
    return _elements(BYTEA, values)


def documents(values: Collection[str | None]) -> bytes:
    """Of JSON, as jsonb."""
    return _elements(JSONB, [None if value is None else _JSONB_1 + value.encode() for value in values])


def booleans(values: Collection[bool | None]) -> bytes:
    return _elements(BOOLEAN, [None if value is None else _BITS[value] for value in values])


def wide_numbers(values: Collection[int | None]) -> bytes:
    """As `bigints`, with nulls."""
    return _elements(BIGINT, [None if value is None else _bigint(value) for value in values])


def times(values: Collection[datetime | None]) -> bytes:
    """With time zones, to the microsecond."""
    return _elements(
        TIMESTAMPTZ,
        [None if value is None else _bigint((value - _EPOCH) // _MICROSECOND) for value in values],
    )


def uuids(values: Collection[str]) -> bytes:
    """In their canonical text form."""
    digits = "".join([_UUID_LENGTH + value for value in values]).replace("-", "")
    return _array(UUID, len(values), (bytes.fromhex(digits),))


def numbers(array: bytes) -> list[int]:
    """The elements of an array of integers of any width, 0 where there is none."""
    if len(array) == _EMPTY.size:
        return []
    found = []
    at = _HEADER.size
    while at < len(array):
        width = int.from_bytes(array[at : at + 4], signed=True)
        at += 4
        found.append(int.from_bytes(array[at : at + width], signed=True) if width > 0 else 0)
        at += max(width, 0)
    return found


def _elements(oid: int, values: Collection[bytes | None]) -> bytes:
    return _array(
        oid, len(values), [_NULL if value is None else _length(len(value)) + value for value in values]
    )


def _numbers(oid: int, width: int, code: str, values: Sequence[int]) -> bytes:
    pairs = [width] * (2 * len(values))
    pairs[1::2] = values
    return _array(oid, len(values), (struct.pack(">" + code * len(values), *pairs),))


def _array(oid: int, length: int, elements: Iterable[bytes]) -> bytes:
    """One dimension, counted from 1; each element with its length before it."""
    if length == 0:
        return _EMPTY.pack(0, 0, oid)
    return _HEADER.pack(1, 0, oid, length, 1) + b"".join(elements)
