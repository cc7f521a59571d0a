"""Each process is killed at each of its named points; what was acknowledged stays, and has happened once."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from differences import differing_rows
from house import Client, client_of, free_port_base, house_in, new_home
from uuid_utils import uuid7

pytestmark = pytest.mark.anyio

START_SECONDS = 20.0
CONVERGE_SECONDS = 40.0
ORDERS = 40


@asynccontextmanager
async def door_that_crashes(client: Client, port: int, point: str) -> AsyncIterator[str]:
    """One more write door beside the house, which ends as by kill -9 the first time it is at the point."""
    environment = {
        "TALLYBOOK_HOME": str(client.house.home),
        "TALLYBOOK_WRITE_PORT": str(port),
        "TALLYBOOK_CRASH_AT": point,
    }
    door = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "write-api"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
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


@pytest.mark.parametrize(
    ("point", "happened"),
    [("before_append", False), ("before_commit", False), ("after_commit_before_answer", True)],
)
async def test_a_write_door_that_dies_has_done_all_or_nothing_and_the_retry_finds_out(
    client: Client, free_port: Callable[[], int], point: str, *, happened: bool
) -> None:
    sku = f"CRASH-{point.replace('_', '-').upper()}"
    await client.product(sku, qty=5)
    key = str(uuid7())
    body = {
        "customer_id": str(uuid7()),
        "lines": [{"sku": sku, "qty": 1, "location": "DEPOT"}],
        "currency": "EUR",
        "expected_total": {"amount_minor": 999, "currency": "EUR"},
    }
    async with door_that_crashes(client, free_port(), point) as door:
        with pytest.raises(httpx.TransportError):
            await client.post("customer", "/orders", body, base=door, key=key)
    reserved = [event["type"] for event in await client.history(f"stock-{sku}@DEPOT")].count(
        "stock.reserved.v1"
    )
    assert reserved == int(happened)
    answer = await client.post("customer", "/orders", body, key=key)
    assert answer.status_code == 201, answer.text
    assert answer.headers.get("Idempotency-Replayed") == ("true" if happened else None)
    reserved = [event["type"] for event in await client.history(f"stock-{sku}@DEPOT")].count(
        "stock.reserved.v1"
    )
    assert reserved == 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("point", "victim"),
    [
        ("after_send_before_checkpoint:3", "relay"),
        ("after_rows_before_commit:25", "projector"),
        ("after_commit:25", "projector"),
    ],
)
async def test_workers_that_die_at_a_point_again_and_again_still_arrive(
    kafka_option: tuple[str, str], point: str, victim: str
) -> None:
    with new_home() as home:
        starting = house_in(
            home, "--port-base", str(free_port_base()), *kafka_option, TALLYBOOK_CRASH_AT=point
        )
        house = await asyncio.to_thread(starting.__enter__)
        try:
            async with client_of(house) as client:
                await client.product("CRASH-1", qty=1_000)
                placed = [await client.order("CRASH-1") for _ in range(ORDERS)]
                async with asyncio.timeout(CONVERGE_SECONDS):
                    log = home.parent / "home.up.log"
                    while f"{victim} ended with code -9" not in log.read_text():
                        placed.append(await client.order("CRASH-1"))
                    while await differing_rows(house.settings):
                        await asyncio.sleep(0.2)
                for answer in placed:
                    path = f"/orders/{answer.json()['order_id']}"
                    assert (await client.get("customer", path)).is_success
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)
        records = json.loads((home / "processes.json").read_text())
        assert records == []
