"""Whatever happens to the cache, what is asked of it is only not there, and soon said to be."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from own_cache import OwnCache

from runtime import cache
from runtime.cache import Cache

pytestmark = pytest.mark.anyio

SLACK_S = 0.3
"""What a busy machine may add."""


@pytest.fixture
async def held(own_cache: OwnCache) -> AsyncIterator[Cache]:
    async with Cache.open(own_cache.url) as held:
        await held.put({"a": b"1", "b": b"2"})
        yield held


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "REST_S", 0.2)


async def taken(held: Cache) -> float:
    """The seconds until it is said that nothing is there."""
    clock = asyncio.get_running_loop().time
    began = clock()
    assert await held.get(["a", "b"]) == [None, None]
    return clock() - began


async def again(held: Cache) -> None:
    """Until it has what it was given."""
    async with asyncio.timeout(10):
        while await held.get(["a"]) != [b"1"]:
            await held.put({"a": b"1"})
            await asyncio.sleep(0.02)


def errors() -> float:
    return float(cache.ERRORS._value.get())


async def test_it_has_what_it_was_given_in_the_order_that_is_asked_for(held: Cache) -> None:
    assert await held.get(["b", "none", "a"]) == [b"2", None, b"1"]
    assert await held.get([]) == []


async def test_what_is_too_large_is_left_out_and_everything_ends(own_cache: OwnCache, held: Cache) -> None:
    largest = b"x" * cache.MAX_VALUE_BYTES
    await held.put({"large": largest, "too large": largest + b"x"})
    assert await held.get(["large", "too large"]) == [largest, None]
    async with own_cache.client() as client:
        seconds = await client.execute_command("TTL", "large")
    assert 0 < seconds <= cache.TTL_S


async def test_a_value_of_another_type_is_not_there_and_is_replaced(own_cache: OwnCache, held: Cache) -> None:
    async with own_cache.client() as client:
        await client.delete("a")
        await client.execute_command("RPUSH", "a", "x")
    assert await held.get(["a", "b"]) == [None, b"2"]
    await held.put({"a": b"1"})
    assert await held.get(["a"]) == [b"1"]


async def test_one_that_is_gone_is_left_alone_and_found_again(own_cache: OwnCache, held: Cache) -> None:
    await own_cache.stop()
    before = errors()
    assert await taken(held) < cache.CALL_S + SLACK_S
    assert held.rests
    for _ in range(100):
        await held.get(["a"])
        await held.put({"a": b"1"})
    assert errors() == before + 1
    await own_cache.start()
    await again(held)
    assert not held.rests


async def test_one_that_is_frozen_costs_one_short_wait(own_cache: OwnCache, held: Cache) -> None:
    own_cache.freeze()
    assert await taken(held) < cache.CALL_S + SLACK_S
    assert await taken(held) < cache.CALL_S
    own_cache.thaw()
    await again(held)


async def test_after_the_rest_one_caller_tries_and_the_others_go_on(
    own_cache: OwnCache, held: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.freeze()
    await taken(held)
    await asyncio.sleep(cache.REST_S + 0.05)
    monkeypatch.setattr(cache, "REST_S", 60.0)
    before = errors()
    assert await asyncio.gather(*(held.get(["a"]) for _ in range(20))) == [[None]] * 20
    assert errors() == before + 1


async def test_a_wrong_password_is_as_good_as_none_there(own_cache: OwnCache) -> None:
    async with Cache.open(f"valkey://:wrong@127.0.0.1:{own_cache.port}") as held:
        assert await taken(held) < cache.CALL_S + SLACK_S


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\n\r\n", b":x\r\n", b"*2\r\n$-7\r\n", b"*1\r\n$1\r\na\r\n", b""]
)
async def test_who_speaks_nonsense_is_not_listened_to(free_port: Callable[[], int], says: bytes) -> None:
    port = free_port()
    async with speaking(port, says), Cache.open(f"valkey://127.0.0.1:{port}") as held:
        assert await taken(held) < cache.CALL_S + SLACK_S


@asynccontextmanager
async def speaking(port: int, says: bytes) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(1_000):
                writer.write(says)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        yield
        server.close()


async def test_who_is_cancelled_leaves_no_answer_behind_for_others(own_cache: OwnCache, held: Cache) -> None:
    for _ in range(50):
        asking = asyncio.create_task(held.get(["a"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert await held.get(["b"]) == [b"2"]
