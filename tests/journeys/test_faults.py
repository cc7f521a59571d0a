"""Kill -9 of relay, projector and broker while orders arrive: the read models still equal the log."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
from broker import OwnApacheKafka
from differences import differing_rows
from house import Client, client_of, free_port_base, house_in, new_home

pytestmark = pytest.mark.anyio

VICTIMS = ("relay", "projector", "broker")
ORDERS_PER_FAULT = 30
RESTART_SECONDS = 20.0
CONVERGE_SECONDS = 30.0


@asynccontextmanager
async def orders_arriving(client: Client, sku: str) -> AsyncIterator[list[str]]:
    """A steady stream of orders; on leaving, all of them have been answered."""
    placed: list[str] = []

    async def buy() -> None:
        while True:
            answer = await client.order(sku)
            assert answer.is_success, answer.text
            placed.append(answer.json()["order_id"])

    async with asyncio.TaskGroup() as group:
        buyers = [group.create_task(buy()) for _ in range(4)]
        yield placed
        for buyer in buyers:
            buyer.cancel()


async def _until_more(placed: list[str], more: int) -> None:
    target = len(placed) + more
    async with asyncio.timeout(RESTART_SECONDS):
        while len(placed) < target:
            await asyncio.sleep(0.02)


async def _until_restarted(client: Client, victim: str, killed: int) -> None:
    async with asyncio.timeout(RESTART_SECONDS):
        while client.house.pid_of(victim) in {None, killed}:
            await asyncio.sleep(0.05)


async def test_read_models_equal_a_fresh_fold_after_every_worker_was_killed(
    client: Client,
) -> None:
    await kill_every_worker(client)


@pytest.mark.heavy
async def test_on_apache_kafka_read_models_equal_a_fresh_fold_after_every_worker_was_killed(
    apache_kafka: OwnApacheKafka,  # which says whether it can run here
) -> None:
    with new_home() as home:
        starting = house_in(home, "--port-base", str(free_port_base()), "--kafka", "apache")
        house = await asyncio.to_thread(starting.__enter__)
        try:
            async with client_of(house) as client:
                assert broker_of(client) == "java"
                await kill_every_worker(client)
                assert broker_of(client) == "java"
                await brought_by_kafka(client)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


def broker_of(client: Client) -> str:
    pid = client.house.pid_of("broker")
    assert pid is not None
    return psutil.Process(pid).name()


async def brought_by_kafka(client: Client) -> None:
    """The projector listens again: what is bought now it has not from the log."""
    async with asyncio.timeout(RESTART_SECONDS):
        before = await figures(client)
        while True:
            await client.order("FAULT-1")
            now = await figures(client)
            if now["applied"] - now["log"] > before["applied"] - before["log"]:
                return


async def figures(client: Client) -> dict[str, float]:
    """Events that the projector has applied, and those of them that it had from the log."""
    port = int(client.house.write.rpartition(":")[2]) + 6
    told = (await client.http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {
        name: sum(
            float(line.rpartition(" ")[2])
            for line in told.splitlines()
            if line.startswith(f"tallybook_projector_{name}_events_total")
        )
        for name in ("applied", "log")
    }


async def kill_every_worker(client: Client) -> None:
    await client.product("FAULT-1", qty=1_000_000)
    async with orders_arriving(client, "FAULT-1") as placed:
        for victim in VICTIMS:
            await _until_more(placed, ORDERS_PER_FAULT)
            killed = client.house.pid_of(victim)
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await _until_more(placed, ORDERS_PER_FAULT)
            await _until_restarted(client, victim, killed)
        await _until_more(placed, ORDERS_PER_FAULT)
    async with asyncio.timeout(CONVERGE_SECONDS):
        while differing := await differing_rows(client.house.settings):
            await asyncio.sleep(0.2)
    assert differing == []
    for order_id in placed:
        assert (await client.get("customer", f"/orders/{order_id}")).is_success
