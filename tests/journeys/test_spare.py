"""What dies is taken over by a spare, a process that has loaded everything already."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TypeVar

import httpx
import psutil
import pytest
from house import Client

from runtime import spare
from runtime.supervisor import SPARES

pytestmark = pytest.mark.anyio

WAIT_S = 10.0
T = TypeVar("T")


async def found(look: Callable[[], T | None]) -> T:
    async with asyncio.timeout(WAIT_S):
        while (it := look()) is None:
            await asyncio.sleep(0.02)
        return it


def spares_of(client: Client) -> set[int] | None:
    """When all stand by."""
    children = psutil.Process(client.house.pid).children()
    spares = {child.pid for child in children if child.cmdline()[-1:] == [spare.__name__]}
    spares -= {client.house.pid_of("verifier")}
    return spares if len(spares) == SPARES else None


async def test_what_dies_is_taken_over_by_a_spare_and_another_one_stands_by(client: Client) -> None:
    killed, first = client.house.pid_of("verifier"), await found(lambda: spares_of(client))
    await asyncio.sleep(1)  # it has loaded everything
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    def successor() -> int | None:
        pid = client.house.pid_of("verifier")
        return None if pid == killed else pid

    successor_pid = await found(successor)
    assert successor_pid in first
    base = int(client.house.write.rpartition(":")[2]) - 1
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                told = await client.http.get(f"http://127.0.0.1:{base + 10}/metrics")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    assert "tallybook_verifier_" in told.text
    assert await found(lambda: spares_of(client)) - first
