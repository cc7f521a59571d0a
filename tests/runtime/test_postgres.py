"""Connections: who waits for one is served, or ends when it is told to."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from wire import wire_to

from runtime.postgres import Pool, connect, open_pool

pytestmark = pytest.mark.anyio

TRIES = 75
END_SECONDS = 5.0
AWAY_SECONDS = 1.5
BACK_SECONDS = 0.6
BROKEN = 4


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
            await asyncio.sleep(0.0004 * number)
            task.cancel()
            ended, _ = await asyncio.wait({task}, timeout=END_SECONDS)
            if not ended:
                task.cancel()
                await asyncio.wait({task})
            assert ended, f"cancelled after {0.4 * number:.1f} ms"


async def test_who_finds_every_connection_broken_is_served_at_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    async with open_pool(url, "postgres", size=BROKEN + 1) as pool, connect(url, "postgres") as owner:
        async with AsyncExitStack() as held:
            for _ in range(BROKEN):
                await held.enter_async_context(pool.connection())
        await owner.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        assert pool.get_stats()["pool_available"] == BROKEN
        began = time.monotonic()
        async with pool.connection() as connection:
            await connection.execute("select 1")
        assert time.monotonic() - began < BACK_SECONDS


async def test_who_waits_is_served_as_soon_as_the_server_is_back(new_database: Callable[[], str]) -> None:
    async def ask(pool: Pool) -> float:
        async with pool.connection() as connection:
            await connection.execute("select 1")
        return time.monotonic()

    async with wire_to(new_database()) as (wire, url), open_pool(url, "postgres", size=2) as pool:
        await ask(pool)
        await wire.down()
        waiting = [asyncio.create_task(ask(pool)) for _ in range(5)]
        await asyncio.sleep(AWAY_SECONDS)
        await wire.up()
        back = time.monotonic()
        assert max(await asyncio.gather(*waiting)) - back < BACK_SECONDS
