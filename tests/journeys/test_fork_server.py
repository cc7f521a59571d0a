"""What dies in a whole house is forked again, from a fork server that is replaced when it dies itself."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import httpx
import psutil
import pytest
from house import Client

from runtime import fork_server

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
T = TypeVar("T")


async def found(look: Callable[[], T | None]) -> T:
    async with asyncio.timeout(WAIT_S):
        while (it := look()) is None:
            await asyncio.sleep(0.02)
        return it


def server_of(client: Client) -> psutil.Process | None:
    for child in psutil.Process(client.house.pid).children():
        with suppress(psutil.NoSuchProcess):  # what died and has not been waited for counts as none
            if child.cmdline()[-1:] == [fork_server.__name__]:
                return child
    return None


async def killed_and_back(client: Client, name: str) -> psutil.Process:
    """The successor, which tells its figures."""
    killed = client.house.pid_of(name)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    def successor() -> int | None:
        pid = client.house.pid_of(name)
        return None if pid == killed else pid

    pid = await found(successor)
    base = int(client.house.write.rpartition(":")[2]) - 1
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                told = await client.http.get(f"http://127.0.0.1:{base + 10}/metrics")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    assert "tallybook_verifier_" in told.text
    return psutil.Process(pid)


async def test_what_dies_is_forked_again_and_so_is_what_dies_after_the_fork_server(client: Client) -> None:
    server = await found(lambda: server_of(client))
    first = await killed_and_back(client, "verifier")
    assert first.ppid() == server.pid
    assert first.cmdline()[0] == "tallybook verifier"

    server.kill()
    other = await found(lambda: server_of(client))
    assert other.pid != server.pid
    assert first.is_running()  # the house goes on
    async with asyncio.timeout(WAIT_S):
        while (second := await killed_and_back(client, "verifier")).ppid() != other.pid:
            assert second.ppid() == client.house.pid  # started anew while the other one is still loading
