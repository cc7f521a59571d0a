"""Relays as processes: one that is stopped, and what they need of memory."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import psycopg
import pytest
from broker import OwnBroker
from history import received, stock_of, uuid_of
from listening import checkpoint, listening, until_published
from read_side import ReadSide

from commands.ports import MAX_EVENTS_PER_APPEND
from domain.product import ProductDrafted
from runtime.secrets import ROLES

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

TAKES_OVER_S = 2.0
PAUSED_S = 60.0
SETTLES_S = 3.0
WAIT_S = 240.0
MEMORY_MB = 200
SMALL_EVENTS = 100_000
LARGE_EVENTS = 100
LARGE_BYTES = 890_000


@asynccontextmanager
async def relay_process(side: ReadSide, servers: str) -> AsyncIterator[psutil.Process]:
    environment = {
        **os.environ,
        "TALLYBOOK_DATABASE_URL": side.log_url,
        "TALLYBOOK_READ_DATABASE_URL": side.read_url,
        "TALLYBOOK_KAFKA_BOOTSTRAP_SERVERS": servers,
        "TALLYBOOK_KAFKA_RECREATE_TOPICS": "true",
        "TALLYBOOK_DIGEST_KEY": "ab" * 32,
        "TALLYBOOK_TOKENS": json.dumps({role: f"token-{role}" for role in ROLES}),
    }
    command = (sys.executable, "-m", "runtime.cli", "relay")
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await asyncio.wait_for(process.wait(), WAIT_S)


async def holder(side: ReadSide) -> str:
    async with await psycopg.AsyncConnection.connect(side.log_url) as owner:
        found = await (await owner.execute("select holder::text from relay.lease")).fetchone()
    return found[0] if found else ""


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = WAIT_S) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stopped_broker", ["apache"], indirect=True)
async def test_a_leader_that_is_stopped_for_a_minute_is_followed_in_two_seconds_and_then_stands_by(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    async def led() -> bool:
        return await holder(side) != ""

    await side.write([[(stock_of(number), received(number, 5)) for number in range(5)]])
    async with relay_process(side, own_broker.servers) as first:
        await until_published(side)
        await until(led)
        stopped = await holder(side)
        async with relay_process(side, own_broker.servers):
            await asyncio.sleep(SETTLES_S)
            assert await holder(side) == stopped
            first.send_signal(signal.SIGSTOP)
            stopped_at = time.monotonic()
            await side.write([[(stock_of(0), received(0, 1))]])
            await until_published(side)
            assert time.monotonic() - stopped_at < TAKES_OVER_S
            follower = await holder(side)
            assert follower != stopped
            async with listening(side, own_broker.servers) as listener:
                while time.monotonic() - stopped_at < PAUSED_S:
                    await side.write([[(stock_of(0), received(0, 1))]])
                    await asyncio.sleep(1.0)
                first.send_signal(signal.SIGCONT)
                marks = []
                for _ in range(10):
                    await side.write([[(stock_of(0), received(0, 1))]])
                    await asyncio.sleep(SETTLES_S / 10)
                    marks.append(await checkpoint(side))
                assert await holder(side) == follower
                assert marks == sorted(marks)
                await listener.until({event.position for event in await side.reader.read(0)})


async def test_a_relay_with_a_large_backlog_of_small_and_large_events_stays_within_its_memory(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    for begin in range(0, SMALL_EVENTS, MAX_EVENTS_PER_APPEND):
        numbers = range(begin, begin + MAX_EVENTS_PER_APPEND)
        await side.write([[(stock_of(number), received(number, 1)) for number in numbers]])
        if begin < LARGE_EVENTS * MAX_EVENTS_PER_APPEND:
            product = uuid_of(9, begin)
            large = ProductDrafted(product, f"slug-{begin}", {"en": "x" * LARGE_BYTES}, "standard")
            await side.write([[(f"product-{product}", large)]])
    head = (await side.reader.head()).position
    peak = 0
    async with relay_process(side, own_broker.servers) as relay:
        began = time.monotonic()
        while await checkpoint(side) < head:
            assert time.monotonic() - began < WAIT_S
            peak = max(peak, relay.memory_info().rss)
            await asyncio.sleep(0.05)
    sys.stdout.write(f"{head} events in {time.monotonic() - began:.1f} s, at most {peak / 1e6:.0f} MB\n")
    assert peak < MEMORY_MB * 1e6
