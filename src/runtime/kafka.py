"""The one thin module around kafka-python: every client lives in a thread of its own.

A broker is never believed: it may lose, repeat, reorder, delay or forget everything. What cannot be used now
is `KafkaUnavailable`, and whoever meets it closes the client and makes a new one.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]  # ships no types
from kafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]  # ships no types
from kafka.errors import (  # type: ignore[import-untyped]  # ships no types
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.future import Future  # type: ignore[import-untyped]  # ships no types

from runtime.process import CannotStart

logger = logging.getLogger(__name__)
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it repeats at length what KafkaUnavailable says once

CONNECT_MS: Final = 3_000
REQUEST_MS: Final = 2_500
DELIVERY_MS: Final = 3_000
FLUSH_S: Final = 4.0
SLOW_S: Final = 0.5
"""After so long without an answer one looks whether the broker and the topics are still there."""
ABANDON_S: Final = 4.0
"""For a producer to end: longer than delivery, for closed with a message pending it keeps its thread."""
LEAVE_S: Final = 0.1
"""One waits for that: long enough where nothing is pending."""
CLOSE_S: Final = 1.0
END_S: Final = 4.0
SESSION_MS: Final = 6_000
HEARTBEAT_MS: Final = 1_000
METADATA_MS: Final = 2_000
POLL_MS: Final = 500
RECOVER_S: Final = 1.0
UNASSIGNED_S: Final = 10.0
"""How long a member of a group may be without a partition: well above what joining takes."""
MAX_POLL_RECORDS: Final = 1_000
FETCH_BYTES: Final = 2 * 2**20
PARTITION_BYTES: Final = 512 * 1024
"""Of one answer to a fetch: as they come, 50 MiB, which would be in memory several times over."""
FETCH_MS: Final = 50
"""How long a broker may hold a fetch that finds nothing. Tansu lets what arrives meanwhile wait as long."""
LINGER_MS: Final = 100
"""Longer than it takes to hand over what is published at once; then it is flushed, and nothing lingers."""
BATCH_BYTES: Final = 256 * 1024
"""A message that is not smaller travels alone."""
MAX_REQUEST_BYTES: Final = 1024 * 1024
"""As brokers have it by default; a message stays below."""
REPLICATION: Final = -1
"""As the broker has it by default."""

_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes]]


class KafkaUnavailable(Exception):
    """The broker is away, or its topics are not (yet) as they should be."""


class NothingAssigned(KafkaUnavailable):
    """The group gives this member no partition: it has enough others, or the broker lost track of it."""


class WrongPartitions(CannotStart):
    """A topic has another number of partitions than the log has lanes."""


@dataclass(frozen=True, slots=True)
class Message:
    """As sent and as received; `partition` is the lane."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers

    @property
    def size(self) -> int:
        """In bytes, without the few that the protocol adds."""
        return len(self.key) + len(self.value) + sum(len(name) + len(value) for name, value in self.headers)


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has the first `count`; the rest, if any, may be there or not.

    `refused`: the first that it does not have is too large for it, or was in a batch that is.
    """

    count: int
    refused: bool


class _Thread:
    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function)
        except (KafkaError, OSError, ValueError) as error:
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error

    async def end(self, last: Callable[[], object], seconds: float) -> None:
        """Runs `last` after what still runs, and waits for it, but not for ever."""
        ending = asyncio.wrap_future(self._executor.submit(last))
        self._executor.shutdown(wait=False)
        await asyncio.wait({ending}, timeout=seconds)


class Publisher:
    """Sends messages to topics that exist with the right number of partitions."""

    def __init__(
        self,
        servers: str,
        topics: Mapping[str, int],
        *,
        recreate: bool,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._servers = servers.split(",")
        self._topics = topics
        self._recreate = recreate
        self._batch_bytes = batch_bytes
        self._thread = _Thread("kafka-publisher")
        self._admin: Any = None
        self._producer: Any = None

    async def connect(self) -> None:
        """Creates missing topics; a wrong one is made again if `recreate`, else raises `WrongPartitions`."""
        await self._thread.call(self._connect)

    async def check(self) -> None:
        """Raises `KafkaUnavailable` unless the topics still are as they should be."""
        await self._thread.call(self._check)

    async def publish(self, messages: Sequence[Message]) -> Published:
        """Until the broker has them all, or has failed to take one. Takes at most `FLUSH_S` and a check."""
        return await self._thread.call(lambda: self._publish(messages))

    async def close(self) -> None:
        """What is pending expires behind the caller's back: the broker may still get it, as a duplicate."""
        await self._thread.end(self._close, LEAVE_S)

    def _connect(self) -> None:
        _require_any(self._servers)
        self._admin = KafkaAdminClient(
            bootstrap_servers=self._servers, bootstrap_timeout_ms=CONNECT_MS, request_timeout_ms=REQUEST_MS
        )
        self._make_topics()
        self._producer = KafkaProducer(
            bootstrap_servers=self._servers,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            batch_size=self._batch_bytes,
            max_request_size=MAX_REQUEST_BYTES,
            bootstrap_timeout_ms=CONNECT_MS,
            max_block_ms=CONNECT_MS,
            request_timeout_ms=REQUEST_MS,
            delivery_timeout_ms=DELIVERY_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def _make_topics(self) -> None:
        counts = _partitions(self._admin, self._topics)
        if wrong := {topic: counts[topic] for topic in self._wrong(counts) if counts[topic]}:
            if not self._recreate:
                raise WrongPartitions(
                    f"topics with another number of partitions than the log has lanes: {wrong}, wanted "
                    f"{ {topic: self._topics[topic] for topic in wrong} }. The log is the truth, so deleting "
                    "topics loses nothing: delete them, or set TALLYBOOK_KAFKA_RECREATE_TOPICS=true"
                )
            logger.warning("deleting topics with a wrong number of partitions: %s", wrong)
            self._admin.delete_topics(list(wrong), timeout_ms=REQUEST_MS)
        if missing := self._wrong(counts):
            wanted = {
                topic: {"num_partitions": self._topics[topic], "replication_factor": REPLICATION}
                for topic in missing
            }
            self._admin.create_topics(wanted, timeout_ms=REQUEST_MS)
            self._admin.wait_for_topics(list(wanted), timeout_ms=REQUEST_MS)
            self._check()  # a broker may have made one by itself meanwhile, for a consumer that asked

    def _check(self) -> None:
        _require_any(self._servers)
        if wrong := self._wrong(_partitions(self._admin, self._topics)):
            raise KafkaUnavailable(f"topics missing or with a wrong number of partitions: {', '.join(wrong)}")

    def _wrong(self, counts: Mapping[str, int]) -> list[str]:
        return [topic for topic, wanted in self._topics.items() if counts[topic] != wanted]

    def _publish(self, messages: Sequence[Message]) -> Published:
        futures: list[Any] = []
        try:
            futures.extend(self._send(message) for message in messages)
        except (KafkaError, ValueError) as error:  # ValueError: a partition the topic does not have
            futures.append(Future().failure(error))
        self._settle(futures)
        count = acknowledged(futures)
        failed = futures[count].exception if count < len(futures) else None
        if failed:
            logger.warning("message %d of %d failed: %r", count + 1, len(messages), failed)
        return Published(count, refused=isinstance(failed, _TOO_LARGE))

    def _settle(self, futures: Sequence[Any]) -> None:
        """Until all have succeeded or one cannot: it failed, took too long, broker or topics are away."""
        deadline = time.monotonic() + FLUSH_S
        with suppress(KafkaError):  # it gives up, too, where the client splits a batch that is too large
            self._producer.flush(timeout=SLOW_S)
        try:
            for future in futures:
                while not future.is_done and time.monotonic() < deadline:
                    self._check()
                    with suppress(KafkaError):
                        future.get(timeout=SLOW_S)
                if not future.succeeded():
                    return
        except (KafkaError, KafkaUnavailable, OSError) as error:
            logger.warning("not all was acknowledged: %s: %s", type(error).__name__, error)

    def _send(self, message: Message) -> Any:  # noqa: ANN401 - kafka-python is untyped
        return self._producer.send(
            message.topic,
            key=message.key,
            value=message.value,
            headers=list(message.headers),
            partition=message.partition,
        )

    def _close(self) -> None:
        for close in (
            lambda: self._producer and self._producer.close(timeout=ABANDON_S),
            lambda: self._admin and self._admin.close(),
        ):
            _quietly(close)


class Subscriber:
    """A member of a consumer group; what it delivers is a hint that the log has more."""

    def __init__(self, servers: str, group: str, topics: Mapping[str, int]) -> None:
        self._servers = servers.split(",")
        self._group = group
        self._topics = topics
        self._thread = _Thread("kafka-subscriber")
        self._recover_at = 0.0
        self._assigned_at = 0.0
        self._next: dict[Any, int] = {}  # by partition: the offset after the last one that arrived
        self._consumer: Any = None

    async def connect(self) -> None:
        """Joins the group, once the topics are as they should be: asking for one may create it, wrongly."""
        await self._thread.call(self._connect)

    async def poll(self) -> Mapping[tuple[str, int], Sequence[Message]]:
        """What has arrived by (topic, partition), in order; waits at most half a second for it."""
        return await self._thread.call(self._poll)

    async def close(self) -> None:
        await self._thread.end(self._close, END_S)

    def _connect(self) -> None:
        _require_any(self._servers)
        admin = KafkaAdminClient(
            bootstrap_servers=self._servers, bootstrap_timeout_ms=CONNECT_MS, request_timeout_ms=REQUEST_MS
        )
        try:
            self._check(_partitions(admin, self._topics))
        finally:
            admin.close()
        self._consumer = KafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=self._group,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            bootstrap_timeout_ms=CONNECT_MS,
            request_timeout_ms=SESSION_MS + REQUEST_MS,
            metadata_max_age_ms=METADATA_MS,
            max_poll_records=MAX_POLL_RECORDS,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_wait_ms=FETCH_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        self._consumer.subscribe(list(self._topics))
        self._assigned_at = time.monotonic()

    def _check(self, counts: Mapping[str, int]) -> None:
        for topic, wanted in self._topics.items():
            if counts[topic] != wanted:
                raise KafkaUnavailable(f"{topic} has {counts[topic]} of {wanted} partitions")

    def _poll(self) -> dict[tuple[str, int], list[Message]]:
        arrived = self._consumer.poll(timeout_ms=POLL_MS)
        self._next |= {partition: records[-1].offset + 1 for partition, records in arrived.items()}
        if time.monotonic() > self._recover_at:
            self._recover_at = time.monotonic() + RECOVER_S
            self._recover()
        return {
            (partition.topic, partition.partition): [
                Message(
                    partition.topic,
                    partition.partition,
                    record.key or b"",
                    record.value or b"",
                    record.headers,
                )
                for record in records
            ]
            for partition, records in arrived.items()
        }

    def _recover(self) -> None:
        """A broker may come back without anything: topics it makes by itself, offsets beyond their end.

        Where the broker tells of that (Apache's does), the client itself goes back, but to the new end.
        """
        _require_any(self._servers)
        self._check({topic: len(self._consumer.partitions_for_topic(topic) or ()) for topic in self._topics})
        assigned = self._consumer.assignment()
        if assigned:
            self._assigned_at = time.monotonic()
        elif time.monotonic() - self._assigned_at > UNASSIGNED_S:
            raise NothingAssigned(f"{self._group} has no partition for this member")
        for partition in assigned:
            end = self._consumer.highwater(partition)
            position = self._consumer.position(partition, timeout_ms=POLL_MS)
            if position is None:
                continue
            if position < self._next.get(partition, 0) or (end is not None and position > end):
                self._next.pop(partition, None)
                self._consumer.seek_to_beginning(partition)

    def _close(self) -> None:
        _quietly(lambda: self._consumer and self._consumer.close(timeout_ms=CLOSE_S * 1000))


def acknowledged(futures: Sequence[Any]) -> int:
    """How many of the first records are in their topics; the offset is -1 for some that are not."""
    return sum(1 for _ in takewhile(lambda sent: sent.succeeded() and sent.value.offset >= 0, futures))


def _require_any(servers: Sequence[str]) -> None:
    """OSError unless one of them listens: a client that cannot connect waits long and leaks its sockets."""
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_MS / 1000).close()
        except OSError as error:
            away = error
        else:
            return
    raise away


def _partitions(admin: Any, topics: Mapping[str, int]) -> dict[str, int]:  # noqa: ANN401 - kafka-python is untyped
    found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(topics))}
    return {topic: found.get(topic, 0) for topic in topics}


def _quietly(close: Callable[[], object]) -> None:
    try:
        close()
    except Exception as error:  # noqa: BLE001 - whatever a dying client says, it is being left behind
        logger.info("closing a Kafka client: %s: %s", type(error).__name__, error)
