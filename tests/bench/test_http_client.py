"""The clients of the benchmarks: they keep connections, and say what they do not understand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.http_client import Client, request

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def door(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes], Callable[[], int]]]:
    """Gives these answers in turn. Its URL, the heads of the requests that came, how often it was called."""
    left, heads, calls = list(answers), [], []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(1)
        while left:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(left.pop(0))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", heads, lambda: len(calls)


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nEtag: abc\r\n\r\n%s" % (status, len(body), body)


async def test_an_answer_has_its_status_its_headers_and_all_of_its_body() -> None:
    async with door(answer(425, b"not yet")) as (url, heads, _):
        client = Client(url)
        told = await client.ask(request("GET", "/v1/stock/A", "secret", {"Prefer": "wait=3"}))
        client.close()
    assert (told.status, told.header("ETag"), told.body) == (425, "abc", b"not yet")
    assert heads[0].startswith(b"GET /v1/stock/A HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer secret\r\nPrefer: wait=3\r\n" in heads[0]


async def test_a_connection_is_used_again() -> None:
    async with door(answer(200, b"one"), answer(200, b"two")) as (url, _, calls):
        client = Client(url)
        bodies = [(await client.ask(request("GET", "/", "t"))).body for _ in range(2)]
        client.close()
        assert (bodies, calls()) == ([b"one", b"two"], 1)


async def test_an_answer_without_a_length_is_refused() -> None:
    async with door(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") as (url, _, _):
        with pytest.raises(ValueError, match="without a length"):
            await Client(url).ask(request("GET", "/", "t"))


async def test_a_header_that_is_missing_is_an_error() -> None:
    async with door(answer(200, b"")) as (url, _, _):
        client = Client(url)
        told = await client.ask(request("GET", "/", "t"))
        client.close()
    with pytest.raises(KeyError):
        told.header("Consistency-Token")
