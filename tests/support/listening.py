"""What a relay has published, and what has arrived of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]  # ships no types
from read_side import ReadSide

from runtime.kafka import Message
from runtime.messages import Delivery, delivery_of, topics

ARRIVE_SECONDS = 20.0


class Listener:
    """Collects what arrives on all topics, by (topic, partition)."""

    def __init__(self) -> None:
        self.arrived: dict[tuple[str, int], list[Message]] = {}
        self._stopped = False

    @property
    def deliveries(self) -> list[Delivery]:
        return [delivery_of(message) for messages in self.arrived.values() for message in messages]

    async def run(self, servers: str, lanes: int) -> None:
        await asyncio.to_thread(self._listen, servers, lanes)

    def stop(self) -> None:
        self._stopped = True

    def _listen(self, servers: str, lanes: int) -> None:
        """Without a group, which would take its time to form."""
        consumer = KafkaConsumer(
            bootstrap_servers=servers, auto_offset_reset="earliest", metadata_max_age_ms=500
        )
        try:
            consumer.assign(
                [
                    TopicPartition(topic, lane)
                    for topic, count in topics(lanes).items()
                    for lane in range(count)
                ]
            )
            while not self._stopped:
                for partition, records in consumer.poll(timeout_ms=100).items():
                    self.arrived.setdefault((partition.topic, partition.partition), []).extend(
                        Message(
                            partition.topic, partition.partition, record.key, record.value, record.headers
                        )
                        for record in records
                    )
        finally:
            consumer.close()

    async def until(self, positions: set[int]) -> None:
        async with asyncio.timeout(ARRIVE_SECONDS):
            while not positions <= {delivery.position for delivery in self.deliveries}:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(side: ReadSide, servers: str) -> AsyncIterator[Listener]:
    """Once the relay has made the topics."""
    await until_published(side)
    listener = Listener()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.run(servers, await side.reader.lanes()))
        try:
            yield listener
        finally:
            listener.stop()


async def checkpoint(side: ReadSide) -> int:
    async with await psycopg.AsyncConnection.connect(side.log_url) as owner:
        found = await (await owner.execute("select position from relay.checkpoint")).fetchone()
    return found[0] if found else 0


async def until_published(side: ReadSide) -> None:
    async with asyncio.timeout(ARRIVE_SECONDS):
        while await checkpoint(side) < (await side.reader.head()).position:
            await asyncio.sleep(0.02)
