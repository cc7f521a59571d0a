"""Connections: a task that is cancelled while it waits for one ends."""

import asyncio
from collections.abc import Callable

import pytest

from runtime.postgres import Pool, open_pool

pytestmark = pytest.mark.anyio

TRIES = 150
END_SECONDS = 5.0


async def _for_ever(pool: Pool) -> None:
    while True:
        async with pool.connection() as connection:
            await connection.execute("select 1")


async def test_a_cancellation_is_never_lost_while_a_connection_is_made(
    new_database: Callable[[], str],
) -> None:
    url = new_database()
    for number in range(TRIES):
        async with open_pool(url, "postgres", size=1) as pool:
            task = asyncio.create_task(_for_ever(pool))
            await asyncio.sleep(0.0002 * number)
            task.cancel()
            ended, _ = await asyncio.wait({task}, timeout=END_SECONDS)
            if not ended:
                task.cancel()
                await asyncio.wait({task})
            assert ended, f"cancelled after {0.2 * number:.1f} ms"
