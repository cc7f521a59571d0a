import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from broker import OwnBroker
from own_cache import OwnCache
from read_side import ReadSide, read_side


@pytest.fixture
async def side(new_database: Callable[[], str]) -> AsyncIterator[ReadSide]:
    """A log and read models in one database; no service runs."""
    async with read_side(new_database) as side:
        yield side


@pytest.fixture
async def own_broker(free_port: Callable[[], int], tmp_path: Path) -> AsyncIterator[OwnBroker]:
    """A broker that nobody else uses, for tests that kill it."""
    broker = OwnBroker(free_port(), tmp_path / "broker.log")
    await broker.start()
    yield broker
    await broker.kill()
    gc.collect()  # kafka-python leaves the sockets of refused connections behind; here they are forgiven


@pytest.fixture
async def own_cache(free_port: Callable[[], int], tmp_path: Path) -> AsyncIterator[OwnCache]:
    cache = OwnCache(free_port(), tmp_path)
    await cache.start()
    yield cache
    await cache.stop()
