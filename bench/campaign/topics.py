"""What is done to topics behind everybody's back, with clients of our own; each call blocks."""

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]  # ships no types

from runtime.messages import topics

MS: Final = 5_000
MESSAGES: Final = 40
"""Of each partition, so many of the last are sent again."""
FOREIGN: Final = "0198c0de-0000-7000-8000-00000000dead"
"""An incarnation that is none of the log's."""
PARTITIONS: Final = 3
T = TypeVar("T")
Change = Callable[[Sequence[Any]], Sequence[Any]]


def delete(servers: str, lanes: int) -> None:
    _administer(
        servers, lambda admin: admin.delete_topics(list(topics(lanes)), timeout_ms=MS, raise_errors=False)
    )


def make_again(servers: str, lanes: int, partitions: int) -> None:
    """Empty, with so many partitions; the relay may have been faster, which is as good."""

    def anew(admin: Any) -> None:  # noqa: ANN401 - kafka-python is untyped
        admin.delete_topics(list(topics(lanes)), timeout_ms=MS, raise_errors=False)
        wanted = {topic: {"num_partitions": partitions, "replication_factor": 1} for topic in topics(lanes)}
        admin.create_topics(wanted, timeout_ms=MS, raise_errors=False)

    _administer(servers, anew)


def last(servers: str, lanes: int) -> Sequence[Any]:
    """The last messages of every partition."""
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, consumer_timeout_ms=1_000)
    with closing(consumer):
        partitions = [
            TopicPartition(topic, lane) for topic, count in topics(lanes).items() for lane in range(count)
        ]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, max(0, ends[partition] - MESSAGES))
        return [record for _, record in zip(range(MESSAGES * len(partitions)), consumer, strict=False)]


def send(servers: str, records: Sequence[Any]) -> None:
    """To where each came from."""
    with closing(KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)) as producer:
        for record in records:
            producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                partition=record.partition,
            )
        producer.flush(timeout=MS / 1_000)


def forged(records: Sequence[Any]) -> Sequence[Any]:
    """As if of another log; and every other one as nothing that a relay sends."""
    return [
        record._replace(headers=_of_another(record.headers) if number % 2 else [("greeting", b"hello")])
        for number, record in enumerate(records)
    ]


def shuffled(chance: random.Random) -> Change:
    return lambda records: chance.sample(records, len(records))


def _of_another(headers: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    return [(name, FOREIGN.encode() if name == "incarnation" else value) for name, value in headers]


def _administer(servers: str, deed: Callable[[Any], T]) -> T:
    with closing(KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=MS)) as admin:
        return deed(admin)
