"""A door on a real socket, and clients that do not behave."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from doors import TOKENS, WriteDoor

from runtime import bounded_http
from runtime.bounded_http import MAX_HEAD_BYTES
from runtime.process import serve_door

pytestmark = pytest.mark.anyio

SECONDS = 0.3
START_SECONDS = 10.0
GET = b"GET /healthz HTTP/1.1\r\nHost: door\r\n"


@pytest.fixture
async def port(free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", SECONDS)
    monkeypatch.setattr(bounded_http, "UNREAD_SECONDS", SECONDS)
    number = free_port()
    serving = asyncio.create_task(serve_door(WriteDoor().app, host="127.0.0.1", port=number))
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", number)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
    yield number
    serving.cancel()
    await asyncio.wait({serving})


async def says(port: int, *chunks: bytes, pause: float = 0.0) -> bytes:
    """All that the door answers to these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(START_SECONDS):
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(pause)
            return await reader.read()
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        GET + b"A: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        GET + b"".join(b"A%d: x\r\n" % number for number in range(MAX_HEAD_BYTES // 5)) + b"\r\n",
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: door\r\n\r\n",
    ],
    ids=["one header", "many headers", "path"],
)
async def test_a_head_has_a_size(port: int, head: bytes) -> None:
    assert (await says(port, head)).startswith(b"HTTP/1.1 431 ")


async def test_a_header_that_never_ends_is_not_kept(port: int) -> None:
    answer = await says(port, GET + b"A: ", *[b"x" * MAX_HEAD_BYTES] * 8, pause=0.01)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("sent", [b"", b"GET /hea", GET, b"\r\n\r\n"])
async def test_a_head_that_does_not_come_loses_its_connection(port: int, sent: bytes) -> None:
    began = asyncio.get_running_loop().time()
    assert await says(port, sent) == b""
    assert SECONDS <= asyncio.get_running_loop().time() - began < SECONDS + 3


async def test_the_answer_to_a_body_that_is_too_large_arrives(port: int) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.post("/v1/products", content=b" " * (5 * 2**20), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert (await http.get("/healthz")).status_code == 200


async def test_a_body_that_goes_on_after_its_answer_loses_its_connection(port: int) -> None:
    head = b"POST /v1/products HTTP/1.1\r\nHost: door\r\nContent-Length: 1000000\r\n\r\n"
    answer = await says(port, head)
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_whoever_waits_to_send_many_commands_is_told_to_go_on(port: int) -> None:
    token = TOKENS["admin"].encode()
    head = b"POST /v1/commands HTTP/1.1\r\nHost: door\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
    head += b"Content-Type: application/x-ndjson\r\nAuthorization: Bearer " + token + b"\r\n"
    told = await says(port, head + b"Connection: close\r\n\r\n", b"{}\n", pause=0.1)
    assert told.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_a_connection_serves_many_requests_large_and_small(port: int) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for _ in range(5):
            answer = await http.post("/v1/products", content=b" " * 300_000 + b"{", headers=headers)
            assert answer.json()["code"] == "malformed_json"
            assert (await http.get("/healthz", headers={"A": "x" * 30_000})).status_code == 200
            await asyncio.sleep(SECONDS / 2)


async def test_what_is_not_http_is_told_so(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert (await says(port, b"\x16\x03\x01 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
