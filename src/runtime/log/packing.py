"""Arrays in PostgreSQL's binary form (`array_recv`), put together from elements that were packed before.

The elements of an append are packed in its caller's task; its batch only joins them.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper

SMALLINT: Final = (21, 2)
INTEGER: Final = (23, 4)
BIGINT: Final = (20, 8)
TEXT: Final = 25
BYTEA: Final = 17
UUID: Final = 2950

_NULL: Final = struct.pack(">i", -1)
_CODES: Final = {2: "h", 4: "i", 8: "q"}
_LENGTH: Final = struct.Struct(">i")
_HEADER: Final = struct.Struct(">5i")
_EMPTY: Final = struct.Struct(">3i")


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


def element(value: bytes | None) -> bytes:
    return _NULL if value is None else _LENGTH.pack(len(value)) + value


def ids(values: Iterable[str]) -> bytes:
    """UUIDs in their canonical text form."""
    return b"".join(element(bytes.fromhex(value.replace("-", ""))) for value in values)


def integers(values: Sequence[int], width: int) -> bytes:
    pairs = [width] * (2 * len(values))
    pairs[1::2] = values
    return struct.pack(">" + ("i" + _CODES[width]) * len(values), *pairs)


def array(kind: int, length: int, elements: Iterable[bytes]) -> Packed:
    """`length` elements of a type, given by its oid: each with its length before it."""
    if length == 0:
        return Packed(_EMPTY.pack(0, 0, kind))
    return Packed(_HEADER.pack(1, 0, kind, length, 1) + b"".join(elements))


def array_of(kind: tuple[int, int], values: Sequence[int]) -> Packed:
    oid, width = kind
    return array(oid, len(values), (integers(values, width),))
