"""Which lane a stream is in: fixed for ever, since it names a partition."""

import hashlib
from functools import lru_cache
from typing import Final

REMEMBERED: Final = 65_536


@lru_cache(REMEMBERED)
def lane_of(stream: str, lanes: int) -> int:
    """The first 8 bytes of the SHA-256 of its name, modulo the lanes; `log.lane_of` says the same."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8]) % lanes
