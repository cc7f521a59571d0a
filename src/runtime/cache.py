"""Valkey as a cache: whatever happens to it, what is asked of it is only not there.

Every call has a time limit. After one that failed the cache is left alone for a while; then one caller tries
it, and the others go on without until it has answered.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from prometheus_client import Counter, Gauge
from valkey.asyncio import BlockingConnectionPool, Valkey
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff
from valkey.exceptions import ValkeyError

logger = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S: Final = 0.05
"""For a connection and an answer; PostgreSQL itself takes a tenth of that."""
REST_S: Final = 1.0
CONNECTIONS: Final = 16
TTL_S: Final = 3_600
"""Rows that changed leave their earlier revisions behind; nobody asks for those again."""
MAX_VALUE_BYTES: Final = 65_536
SCHEMES: Final = ("valkey://", "valkeys://", "redis://", "rediss://", "unix://")
_AWAY: Final = (ValkeyError, OSError, TimeoutError, ValueError)
"""ValueError: the peer does not speak the protocol."""

ERRORS: Final = Counter("tallybook_cache_errors", "Calls of the cache that failed or took too long")
RESTING: Final = Gauge("tallybook_cache_resting", "1 while the cache is left alone because a call failed")


class Cache:
    """Small values by name. Raises nothing."""

    def __init__(self, client: Valkey) -> None:
        self._client = client
        self._clock = asyncio.get_running_loop().time
        self._failing = False
        self._rests_until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["Cache"]:
        """Connects when it is asked for something. ValueError for a URL that is none."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=CALL_S,
            socket_timeout=CALL_S,
            socket_connect_timeout=CALL_S,
            retry=Retry(NoBackoff(), 0),
        )
        client = Valkey.from_pool(pool)
        try:
            yield cls(client)
        finally:
            await client.aclose()

    @property
    def rests(self) -> bool:
        """Whether it is not worth asking just now."""
        return self._rests_until > self._clock()

    async def get(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """The values, in the order of their names; None for what is not there."""
        found = await self._answer_to(self._client.mget(names)) if names and not self.rests else None
        return found if found is not None and len(found) == len(names) else [None] * len(names)

    async def put(self, values: Mapping[str, bytes]) -> None:
        """All in one message; those that are too large are left out."""
        small = {name: value for name, value in values.items() if len(value) <= MAX_VALUE_BYTES}
        if not small or self.rests:
            return
        message = self._client.pipeline(transaction=False)
        for name, value in small.items():
            message.set(name, value, ex=TTL_S)
        await self._answer_to(message.execute())

    async def _answer_to(self, call: Awaitable[T]) -> T | None:
        if self._failing:
            self._rest()  # the others; this one tries
        try:
            async with asyncio.timeout(CALL_S):
                answer = await call
        except _AWAY as away:
            ERRORS.inc()
            if not self._failing:
                logger.warning("the cache is away, queries do without: %s", str(away) or type(away).__name__)
            self._failing = True
            self._rest()
            return None
        if self._failing:
            logger.info("the cache answers again")
        self._failing, self._rests_until = False, 0.0
        RESTING.set(0)
        return answer

    def _rest(self) -> None:
        self._rests_until = self._clock() + REST_S
        RESTING.set(1)


def cache_url(given: str) -> str:
    """The URL, if it is one of a cache. Raises ValueError, which shows none of it."""
    if not given.startswith(SCHEMES):
        raise ValueError(f"a URL that begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    try:
        BlockingConnectionPool.from_url(given)
    except (TypeError, ValueError):
        raise ValueError("not a URL of a cache, as valkey://user:password@host:port") from None
    return given
