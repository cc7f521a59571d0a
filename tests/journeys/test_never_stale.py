"""A refusal tells the truth at the moment it is answered; a repeat gets the first answer."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from house import Client
from uuid_utils import uuid7

pytestmark = pytest.mark.anyio

START_SECONDS = 20.0
REACH_SECONDS = 10.0


@asynccontextmanager
async def write_door_that_pauses(client: Client, port: int, point: str, gate: Path) -> AsyncIterator[str]:
    """One more write door beside the house; it stands at `point` until `gate` exists."""
    environment = {
        "TALLYBOOK_HOME": str(client.house.home),
        "TALLYBOOK_WRITE_PORT": str(port),
        "TALLYBOOK_PAUSE_AT": f"{point}={gate}",
    }
    door = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "write-api"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(START_SECONDS):
            while not await _ready(client, url):
                await asyncio.sleep(0.05)
        yield url
    finally:
        door.kill()
        door.wait()


async def _ready(client: Client, url: str) -> bool:
    try:
        return (await client.http.get(f"{url}/readyz")).is_success
    except httpx.TransportError:
        return False


async def test_a_refusal_decided_before_stock_arrived_is_not_answered_after_it(
    client: Client, tmp_path: Path, free_port: object
) -> None:
    assert callable(free_port)
    await client.product("LATE-1", qty=1)
    assert (await client.order("LATE-1")).is_success  # the last unit is gone
    gate = tmp_path / "gate"
    async with write_door_that_pauses(client, free_port(), "before_append", gate) as door:
        order = asyncio.create_task(client.order("LATE-1", base=door))
        async with asyncio.timeout(REACH_SECONDS):
            while not gate.with_name("gate.reached").exists():
                await asyncio.sleep(0.02)
        await client.receive("LATE-1", 5)
        gate.touch()
        answer = await order
    assert answer.status_code == 201, answer.text


async def test_the_repeat_of_an_order_gets_its_first_answer_when_the_stock_is_gone(client: Client) -> None:
    await client.product("ONCE-1", qty=1)
    key = str(uuid7())
    body = {
        "customer_id": str(uuid7()),
        "lines": [{"sku": "ONCE-1", "qty": 1, "location": "DEPOT"}],
        "currency": "EUR",
        "expected_total": {"amount_minor": 999, "currency": "EUR"},
    }
    first = await client.done("customer", "/orders", body, key=key)
    other = await client.order("ONCE-1")
    assert other.json()["code"] == "insufficient_stock"
    for door in client.house.write_all:
        again = await client.post("customer", "/orders", body, key=key, base=door)
        assert again.status_code == first.status_code
        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
    history = await client.history("stock-ONCE-1@DEPOT")
    assert sum(event["type"] == "stock.reserved.v1" for event in history) == 1
