"""A broker of each kind, empty, for as long as it is needed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.server import free_port
from runtime.embedded.apache_kafka.node import ApacheKafka
from runtime.embedded.broker import broker_spec
from runtime.embedded.child import LOOPBACK, Child, ChildSpec
from runtime.up import Broker

BROKERS: Final[dict[str, Broker]] = {"kafka": "apache", "embedded": "embedded"}
"""By the name that figures have of it."""
START_S: Final = 60.0


@contextmanager
def broker_in(directory: Path, kind: Broker) -> Iterator[str]:
    """Its bootstrap servers. The directory must not be there yet."""
    directory.mkdir()
    port = free_port()
    child = Child(asyncio.run(_spec(directory, kind, port)))
    try:
        asyncio.run(_start(child))
        yield f"{LOOPBACK}:{port}"
    finally:
        asyncio.run(child.stop())


async def _spec(directory: Path, kind: Broker, port: int) -> ChildSpec:
    log = directory / "broker.log"
    if kind == "embedded":
        return broker_spec(port, log)
    node = ApacheKafka(directory=directory / "kafka", port=port, controller_port=free_port(), log=log)
    return await node.spec()


async def _start(child: Child) -> None:
    await child.start()
    await child.wait_ready(START_S)
