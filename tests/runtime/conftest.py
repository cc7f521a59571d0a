import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from broker import OwnApacheKafka, OwnBroker, OwnEmbeddedBroker
from own_cache import OwnCache
from read_side import ReadSide, read_side

from runtime import kafka


@pytest.fixture
async def side(new_database: Callable[[], str]) -> AsyncIterator[ReadSide]:
    """A log and read models in one database; no service runs."""
    async with read_side(new_database) as side:
        yield side


@pytest.fixture(params=["embedded", "apache"])
def stopped_broker(
    request: pytest.FixtureRequest, free_port: Callable[[], int], tmp_path: Path
) -> OwnEmbeddedBroker | OwnApacheKafka:
    if request.param == "embedded":
        return OwnEmbeddedBroker(free_port(), tmp_path / "broker.log")
    own: OwnApacheKafka = request.getfixturevalue("apache_kafka")
    return own


@pytest.fixture
async def own_broker(stopped_broker: OwnEmbeddedBroker | OwnApacheKafka) -> AsyncIterator[OwnBroker]:
    """A broker of each kind that nobody else uses, for tests that kill it."""
    await stopped_broker.begin()
    yield stopped_broker
    await stopped_broker.end()
    async with asyncio.timeout(2 * kafka.ABANDON_S):
        while any(thread.name.startswith("kafka-publisher") for thread in threading.enumerate()):
            await asyncio.sleep(0.02)
    gc.collect()  # kafka-python leaves the sockets of refused connections behind; here they are forgiven


@pytest.fixture
async def own_cache(free_port: Callable[[], int], tmp_path: Path) -> AsyncIterator[OwnCache]:
    cache = OwnCache(free_port(), tmp_path)
    await cache.start()
    yield cache
    await cache.stop()
