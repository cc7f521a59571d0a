"""What is appended: one of the domain's own events, and the request that it answers.

A stock adjustment with a note of 155 characters has 360 bytes of data when stored; metadata of a member of
staff's command have 288. Every contender stores the same bytes, however it divides them.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Final

from commands.ports import Append, NewEvent
from domain.envelope import Actor, Metadata, Tip
from domain.stock import STOCK, StockAdjusted
from runtime.ids import SystemClock, Uuid7s

LOCATION: Final = "DEPOT"
NOTE: Final = ("counted again after the shelf was moved to the other aisle; " * 3)[:155]
STAFF: Final = Actor("staff", "01990b7e-5c00-7000-8000-0000000000aa")
PRODUCT: Final = "01990b7e-5c00-7000-8000-0000000000bb"
VARIANT: Final = "01990b7e-5c00-7000-8000-0000000000cc"
TRACE: Final = "0123456789abcdef" * 2
FINGERPRINT: Final = b"0123456789abcdef" * 2
TIME_BYTES: Final = 6

clock = SystemClock()
ids = Uuid7s()


def sku_of(number: int) -> str:
    return f"SKU-{number:08}"


def stream_of(number: int) -> str:
    return STOCK.stream(f"{sku_of(number)}@{LOCATION}")


@cache
def event(stream: str) -> StockAdjusted:
    sku = stream.partition("-")[2].partition("@")[0]
    return StockAdjusted(sku, LOCATION, PRODUCT, VARIANT, delta=1, reason="found", note=NOTE)


def metadata() -> Metadata:
    return Metadata(clock.now(), STAFF, ids.new(), ids.new(), None, TRACE)


def digest() -> bytes:
    """As commands.requests makes it of a key that is a UUIDv7: its time, then a hash (random bytes here)."""
    return bytes.fromhex(ids.new().replace("-", ""))[:TIME_BYTES] + random.randbytes(10)  # noqa: S311 - not a secret


def random_digest() -> bytes:
    """As commands.requests makes it of any other key."""
    return random.randbytes(16)  # noqa: S311 - not a secret


def append_of(tips: dict[str, Tip], streams: Sequence[str], digest_: bytes) -> Append:
    """An event to each of the streams, in order."""
    events = [NewEvent(stream, ids.new(), event(stream)) for stream in streams]
    return Append(tips, events, metadata(), digest_, FINGERPRINT)
