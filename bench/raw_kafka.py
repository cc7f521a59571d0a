"""kafka-python alone: the same messages produced, and consumed by nobody in particular.

The producer has all messages in memory, made before; the consumer counts what it gets. Both are tried with
the relay's and the projector's settings and with others; the better of the medians counts.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]  # ships no types
from kafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]  # ships no types

from bench import worker
from runtime.kafka import (
    BATCH_BYTES,
    FETCH_BYTES,
    FETCH_MS,
    HEARTBEAT_MS,
    LINGER_MS,
    MAX_POLL_RECORDS,
    MAX_REQUEST_BYTES,
    PARTITION_BYTES,
    SESSION_MS,
    Message,
)
from runtime.log.reading import LogReader
from runtime.messages import message_of

PRODUCING: Final[Mapping[str, Mapping[str, Any]]] = {
    "ours": {"linger_ms": LINGER_MS, "batch_size": BATCH_BYTES, "max_request_size": MAX_REQUEST_BYTES},
    "20 ms, 128 KiB": {"linger_ms": 20, "batch_size": 128 * 1024},
}
CONSUMING: Final[Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "max_poll_records": MAX_POLL_RECORDS,
        "fetch_max_wait_ms": FETCH_MS,
        "fetch_max_bytes": FETCH_BYTES,
        "max_partition_fetch_bytes": PARTITION_BYTES,
    },
    "2,000 at once": {"max_poll_records": 2_000},
}
LIMIT_S: Final = 120.0
TOPIC_MS: Final = 10_000
POLL_MS: Final = 500


def produced(servers: str, log_url: str, topic: str, events: int, settings: str) -> float:
    """Messages a second: the log's first events, to a topic that this makes."""
    task = {"kind": "produce", "log_url": log_url, "events": events}
    return _answer(task | {"servers": servers, "topic": topic, "settings": settings})


def consumed(servers: str, topic: str, events: int, settings: str) -> float:
    """Messages a second, from the first ones that arrive, in a group that is new."""
    task = {"kind": "consume", "events": events}
    return _answer(task | {"servers": servers, "topic": topic, "settings": settings})


def _answer(task: Mapping[str, Any]) -> float:
    [answer] = worker.run(__name__, [task], LIMIT_S)
    return float(answer["rate"])


def _produce(task: dict[str, Any]) -> float:
    lanes, messages = asyncio.run(_messages(task["log_url"], task["events"]))
    _make_topic(task["servers"], task["topic"], lanes)
    producer = KafkaProducer(
        bootstrap_servers=task["servers"],
        acks="all",
        enable_idempotence=True,
        allow_auto_create_topics=False,
        metrics_enabled=False,
        **PRODUCING[task["settings"]],
    )
    worker.wait_for_go()
    began = time.perf_counter()
    sent = [
        producer.send(
            task["topic"],
            key=message.key,
            value=message.value,
            headers=list(message.headers),
            partition=message.partition,
        )
        for message in messages
    ]
    producer.flush(timeout=LIMIT_S)
    took = time.perf_counter() - began
    if any(not one.succeeded() or one.value.offset < 0 for one in sent):
        raise RuntimeError("not all messages were acknowledged")
    producer.close()
    return len(sent) / took


async def _messages(log_url: str, events: int) -> tuple[int, Sequence[Message]]:
    messages: list[Message] = []
    async with LogReader.open(log_url) as reader:
        incarnation = await reader.incarnation()
        after = 0
        while len(messages) < events and (batch := await reader.read(after)):
            messages += [message_of(event, incarnation) for event in batch]
            after = batch[-1].position
        return await reader.lanes(), messages[:events]


def _make_topic(servers: str, topic: str, lanes: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        admin.create_topics({topic: {"num_partitions": lanes, "replication_factor": 1}}, timeout_ms=TOPIC_MS)
        admin.wait_for_topics([topic], timeout_ms=TOPIC_MS)
    finally:
        admin.close()


def _consume(task: dict[str, Any]) -> float:
    consumer = KafkaConsumer(
        bootstrap_servers=task["servers"],
        group_id=f"raw.{time.time_ns()}",
        auto_offset_reset="earliest",
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        allow_auto_create_topics=False,
        metrics_enabled=False,
        **CONSUMING[task["settings"]],
    )
    try:
        consumer.subscribe([task["topic"]])
        worker.wait_for_go()
        return _count(consumer, task["events"])
    finally:
        consumer.close()


def _count(consumer: Any, events: int) -> float:  # noqa: ANN401 - kafka-python is untyped
    first = seen = 0
    began = now = time.perf_counter()
    deadline = now + LIMIT_S
    while seen < events:
        arrived = sum(map(len, consumer.poll(timeout_ms=POLL_MS).values()))
        now = time.perf_counter()
        if now > deadline:
            raise RuntimeError(f"{seen} of {events} messages arrived in {LIMIT_S:.0f} s")
        seen += arrived
        if arrived and not first:
            first, began = arrived, now
    return (seen - first) / (now - began)


if __name__ == "__main__":
    told = worker.told()
    worker.answer({"rate": (_produce if told["kind"] == "produce" else _consume)(told)})
