"""A cache of a test's own, which it may stop, freeze and fill with nonsense."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from valkey.asyncio import Valkey

from runtime.embedded.cache import cache_spec, new_cache_url
from runtime.embedded.child import Child

START_SECONDS = 20.0


class OwnCache:
    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.url = new_cache_url(port)
        self._spec = cache_spec(self.url, port, directory / "cache.conf", directory / "cache.log")
        self.child = Child(self._spec)

    async def start(self) -> None:
        self.child = Child(self._spec)
        await self.child.start()
        await self.child.wait_ready(START_SECONDS)

    async def stop(self) -> None:
        if self.child.exit_code is None and self.child.pid is not None:
            self.thaw()
        await self.child.stop()

    def freeze(self) -> None:
        psutil.Process(self.child.pid).send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        psutil.Process(self.child.pid).send_signal(signal.SIGCONT)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Valkey]:
        client = Valkey.from_url(self.url)
        yield client
        await client.aclose()
