"""The cache from the wheel: on loopback, behind a password that nobody sees, nothing on disk, bounded."""

import asyncio
from pathlib import Path

import psutil
import pytest
from own_cache import OwnCache
from valkey.asyncio import Valkey
from valkey.exceptions import AuthenticationError

from runtime.embedded.cache import MAX_MEMORY_MB
from runtime.embedded.child import Child, ChildFailed

pytestmark = pytest.mark.anyio


async def test_it_listens_on_loopback_only_and_stops(own_cache: OwnCache) -> None:
    process = psutil.Process(own_cache.child.pid)
    assert {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    await own_cache.stop()
    assert own_cache.child.exit_code is not None


async def test_it_wants_a_password_that_only_its_own_files_show(own_cache: OwnCache, tmp_path: Path) -> None:
    stranger = Valkey(port=own_cache.port)
    with pytest.raises(AuthenticationError):
        await stranger.get("a")
    await stranger.aclose()
    password = own_cache.url.split(":")[2].partition("@")[0]
    assert password not in " ".join(psutil.Process(own_cache.child.pid).cmdline())
    assert (tmp_path / "cache.conf").stat().st_mode & 0o077 == 0
    assert password in (tmp_path / "cache.conf").read_text()


async def test_when_it_is_full_it_forgets_and_it_keeps_nothing_on_disk(own_cache: OwnCache) -> None:
    async with own_cache.client() as client:
        names = ("maxmemory", "maxmemory-policy", "save", "appendonly")
        settings = {name: (await client.config_get(name))[name] for name in names}
    assert settings == {
        "maxmemory": str(MAX_MEMORY_MB * 2**20),
        "maxmemory-policy": "allkeys-lru",
        "save": "",
        "appendonly": "no",
    }


async def test_on_a_taken_port_it_fails_although_the_other_one_answers(
    own_cache: OwnCache, tmp_path: Path
) -> None:
    other = Child(own_cache.child.spec)
    await other.start()
    await asyncio.sleep(0.5)  # the clash is found by the server itself
    with pytest.raises(ChildFailed, match="cache ended with code"):
        await other.wait_ready(5)
