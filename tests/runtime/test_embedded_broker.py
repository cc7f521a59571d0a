"""The broker from the wheel: on loopback, and quick to end."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from runtime.embedded.broker import broker_spec
from runtime.embedded.child import Child, ChildFailed


def test_it_serves_the_topics_it_was_told_to_make(broker: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        admin.create_topics([NewTopic(name="tallybook.test.v1", num_partitions=8, replication_factor=1)])
        (topic,) = admin.describe_topics(["tallybook.test.v1"])
        assert len(topic["partitions"]) == 8
    finally:
        admin.close()


def test_it_listens_on_loopback_only_and_stops(free_port: Callable[[], int], tmp_path: Path) -> None:
    child = Child(broker_spec(free_port(), tmp_path / "broker.log"))

    async def scenario() -> None:
        await child.start()
        await child.wait_ready(10)
        listening = [c.laddr.ip for c in psutil.Process(child.pid).net_connections() if c.status == "LISTEN"]
        await child.stop()
        assert listening == ["127.0.0.1"]
        assert child.exit_code is not None

    asyncio.run(scenario())


def test_on_a_taken_port_it_fails_although_the_other_broker_answers(broker: str, tmp_path: Path) -> None:
    child = Child(broker_spec(int(broker.rpartition(":")[2]), tmp_path / "broker.log"))

    async def scenario() -> None:
        await child.start()
        await asyncio.sleep(0.5)  # the clash is found by the broker itself
        await child.wait_ready(5)

    with pytest.raises(ChildFailed, match="broker ended with code"):
        asyncio.run(scenario())
