"""Arrays in PostgreSQL's binary form (that of `array_recv`): much quicker than lists given to psycopg."""

import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final

BYTEA, BIGINT, SMALLINT, INTEGER, TEXT, UUID = 17, 20, 21, 23, 25, 2950
"""Oids of the types."""

_EMPTY: Final = struct.Struct(">3i")
_HEADER: Final = struct.Struct(">5i")
_length: Final = struct.Struct(">i").pack
_NULL: Final = _length(-1)
_UUID_LENGTH: Final = _length(16).hex()


def smallints(values: Sequence[int]) -> bytes:
    return _numbers(SMALLINT, 2, "ih", values)


def integers(values: Sequence[int]) -> bytes:
    return _numbers(INTEGER, 4, "ii", values)


def bigints(values: Sequence[int]) -> bytes:
    return _numbers(BIGINT, 8, "iq", values)


def texts(values: Collection[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return _array(TEXT, len(encoded), [_length(len(value)) + value for value in encoded])


def blobs(values: Collection[bytes | None]) -> bytes:
    return _array(
        BYTEA, len(values), [_NULL if value is None else _length(len(value)) + value for value in values]
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


def _numbers(oid: int, width: int, code: str, values: Sequence[int]) -> bytes:
    pairs = [width] * (2 * len(values))
    pairs[1::2] = values
    return _array(oid, len(values), (struct.pack(">" + code * len(values), *pairs),))


def _array(oid: int, length: int, elements: Iterable[bytes]) -> bytes:
    """One dimension, counted from 1; each element with its length before it."""
    if length == 0:
        return _EMPTY.pack(0, 0, oid)
    return _HEADER.pack(1, 0, oid, length, 1) + b"".join(elements)
