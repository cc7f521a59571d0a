"""Brokers that a test may kill, and start again with what they knew, or without."""

import asyncio
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from kafka import KafkaAdminClient  # type: ignore[import-untyped]  # ships no types
from kafka.errors import KafkaError  # type: ignore[import-untyped]  # ships no types

from runtime.embedded.apache_kafka.node import ApacheKafka
from runtime.embedded.broker import broker_spec
from runtime.embedded.child import Child, ChildSpec

START_SECONDS = 30.0
CLEAN_MS = 10_000


class OwnBroker(Protocol):
    @property
    def servers(self) -> str: ...

    async def start(self) -> None:
        """Without anything it knew."""

    async def resume(self) -> None:
        """With what it has on disk."""

    async def kill(self) -> None: ...


class OwnEmbeddedBroker:
    def __init__(self, port: int, log: Path) -> None:
        self.servers = f"127.0.0.1:{port}"
        self._spec = replace(broker_spec(port, log), stop_signal=signal.SIGKILL)
        self._child: Child | None = None

    async def begin(self) -> None:
        await self.start()

    async def end(self) -> None:
        await self.kill()

    async def start(self) -> None:
        self._child = await _started(self._spec)

    async def resume(self) -> None:
        await self.start()  # it keeps nothing on disk

    async def kill(self) -> None:
        if self._child:
            await self._child.stop()
        self._child = None


class OwnApacheKafka:
    """One for many tests, because it takes seconds to start: `begin` clears what the test before has left."""

    def __init__(self, node: ApacheKafka) -> None:
        self.servers = f"127.0.0.1:{node.port}"
        self._node = node
        self._formatted = node.directory / "formatted"
        self._child: Child | None = None

    async def prepare(self) -> None:
        """Once, before anything else. Raises ApacheKafkaUnusable."""
        self._spec = replace(await self._node.spec(), stop_signal=signal.SIGKILL)
        assert self._spec.before_start
        await self._spec.before_start()
        self._node.data.rename(self._formatted)

    async def begin(self) -> None:
        """It runs, and knows no topic and no group."""
        if self._child and self._child.exit_code is None and await asyncio.to_thread(self._cleared):
            return
        await self.kill()
        await self.start()

    async def end(self) -> None:
        """It goes on, for the next test."""

    async def start(self) -> None:
        shutil.rmtree(self._node.data, ignore_errors=True)
        shutil.copytree(self._formatted, self._node.data)
        await self.resume()

    async def resume(self) -> None:
        self._child = await _started(self._spec)

    async def kill(self) -> None:
        if self._child:
            await self._child.stop()
        self._child = None

    def _cleared(self) -> bool:
        """False where something stays, as a group does whose members were killed."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            if topics := _of_tests(admin):
                admin.delete_topics(topics, timeout_ms=CLEAN_MS)
            if groups := [group["group_id"] for group in admin.list_groups()]:
                admin.delete_groups(groups)
            return not _of_tests(admin) and not admin.list_groups()
        except KafkaError:
            return False
        finally:
            admin.close()


def _of_tests(admin: KafkaAdminClient) -> list[str]:
    return [topic for topic in admin.list_topics() if not topic.startswith("__")]


async def _started(spec: ChildSpec) -> Child:
    child = Child(spec)
    await child.start()
    await child.wait_ready(START_SECONDS)
    return child


quick_on_the_embedded_one = pytest.mark.parametrize(
    "stopped_broker", ["embedded", pytest.param("apache", marks=pytest.mark.heavy)], indirect=True
)
"""For a test that starts or kills its broker often: Apache Kafka takes seconds for each."""
