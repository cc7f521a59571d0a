"""Publishes the log to Kafka: at least once, in order, from a checkpoint in PostgreSQL.

The checkpoint moves over records the broker has acknowledged, by compare-and-set. Whatever goes wrong, the
relay makes a new producer and begins again at the checkpoint: consumers recognise what they have seen. One
relay leads, by a lease; that spares duplicates, safety does not depend on it.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import psycopg
from prometheus_client import Counter, Gauge

from domain.envelope import NO_EVENT, Mark
from runtime import lag
from runtime.kafka import BATCH_BYTES, KafkaUnavailable, Message, Published, Publisher
from runtime.lease import Lease, NoLongerLeads
from runtime.log.reading import LogReader, StoredEvent
from runtime.messages import MAX_EVENT_BYTES, message_of, size_of, topics
from runtime.meters import serve_meters
from runtime.points import reached
from runtime.postgres import Connection, connect
from runtime.process import CannotStart
from runtime.settings import Settings
from runtime.stopping import cancel, stop_if_cancelled

logger = logging.getLogger(__name__)

NAME: Final = "kafka"
ROLE: Final = "tallybook_relay"
BATCH_EVENTS: Final = 2_000
REST_S: Final = 0.02
"""Between looks at the log while it grows slowly."""
RECONNECT_S: Final = 0.25
"""Until a relay that has lost the lead, or the log, tries again."""
CHECK_S: Final = 0.5
"""Between looks whether the topics still are as they should be, idle or busy."""
SHRINK: Final = 4
"""By this the producer's batches are divided when the broker finds one too large."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
"""A broker that is back is in use within two seconds; a try costs a connection and two short queries."""

PUBLISHED = Counter("tallybook_relay_published_events", "Events that Kafka acknowledged")
FAILURES = Counter("tallybook_relay_failures", "Times the relay had to begin again at its checkpoint")
POSITION = Gauge("tallybook_relay_position", "Position in the log up to which Kafka has everything")
LAG_POSITIONS = Gauge("tallybook_relay_lag_positions", "Events that Kafka does not have yet", ["relay"])
LAG_SECONDS = Gauge(
    "tallybook_relay_lag_seconds", "Since the oldest event that Kafka does not have was recorded", ["relay"]
)
LINKED = Counter("tallybook_relay_linked_events", "Events too large for a message, published as a link")
LEADS = Gauge("tallybook_relay_leads", "1 while this process publishes, 0 on standby")


class CheckpointAheadOfLog(CannotStart):
    """The log does not have the event at which the relay's checkpoint stands."""

    def __init__(self, position: int, event_id: str) -> None:
        super().__init__(
            f"the relay has published event {event_id} at position {position}, which the log does not have: "
            "it was restored to an older point, or is another shop's. Restore the log that has this event; "
            "or have this log published anew: remove the row of relay.checkpoint, start the relay again"
        )


async def run(settings: Settings) -> None:
    serve_meters(settings)
    async with (
        LogReader.open(settings.database_url, ROLE) as reader,
        lag.watched(partial(reader.lags_of_all, lag.RELAYS), LAG_POSITIONS, LAG_SECONDS),
    ):
        await Relay(
            settings.database_url,
            reader,
            settings.kafka_bootstrap_servers,
            recreate_topics=settings.kafka_recreate_topics,
        ).run()


@dataclass(frozen=True, slots=True)
class _Batch:
    """`messages` are those of `events`, one each."""

    events: Sequence[StoredEvent]
    messages: Sequence[Message]


class Relay:
    def __init__(self, url: str, reader: LogReader, servers: str, *, recreate_topics: bool) -> None:
        self._url = url
        self._reader = reader
        self._servers = servers
        self._recreate_topics = recreate_topics
        # Both are lowered, for as long as the process lives, when the broker turns out to take less.
        self._largest = MAX_EVENT_BYTES  # of an event that travels as a whole
        self._batch_bytes = BATCH_BYTES

    async def run(self) -> None:
        """Until cancelled: leads whenever nobody else does."""
        while True:
            try:
                # A crash that loses the checkpoint's last moves costs duplicates; waiting for the disk, time.
                async with connect(self._url, ROLE, synchronous_commit="off") as connection:
                    lease = Lease(connection)
                    await lease.wait()
                    await self._lead(connection, lease)
            except (NoLongerLeads, psycopg.OperationalError) as lost:
                logger.warning("the relay stands by: %s", lost)
            await asyncio.sleep(RECONNECT_S)

    async def _lead(self, connection: Connection, lease: Lease) -> None:
        logger.info("the relay leads")
        LEADS.set(1)
        work = [asyncio.create_task(self._keep_publishing(connection)), asyncio.create_task(lease.keep())]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                await ended
        finally:
            LEADS.set(0)
            for task in work:
                await cancel(task)
            await asyncio.gather(*work, return_exceptions=True)  # what one failure brought about is no news
            with suppress(psycopg.OperationalError):
                await lease.give_up()

    async def _keep_publishing(self, connection: Connection) -> None:
        pause = FIRST_PAUSE_S
        while True:
            stop_if_cancelled()
            begun = await self._checkpoint(connection)
            try:
                await self._publish(connection, begun)
            except KafkaUnavailable as failed:
                FAILURES.inc()
                logger.warning("the relay begins again at its checkpoint: %s", failed)
            moved = await self._checkpoint(connection) != begun
            pause = FIRST_PAUSE_S if moved else min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret

    async def _publish(self, connection: Connection, mark: Mark) -> None:
        """Until something goes wrong."""
        incarnation = await self._reader.incarnation()
        wanted = topics(await self._reader.lanes())
        publisher = Publisher(
            self._servers, wanted, recreate=self._recreate_topics, batch_bytes=self._batch_bytes
        )
        try:
            await publisher.connect()
            checked_at = time.monotonic()
            async with (
                aclosing(self._reader.subscribe(mark.position, BATCH_EVENTS, rest_s=REST_S)) as arriving,
                aclosing(_encoded(arriving, incarnation, self._largest)) as encoded,
                aclosing(_ahead(encoded, CHECK_S)) as batches,
            ):
                async for batch in batches:
                    if time.monotonic() - checked_at >= CHECK_S:
                        await publisher.check()
                        checked_at = time.monotonic()
                    if batch:
                        published = await publisher.publish(batch.messages)
                        await reached("after_send_before_checkpoint")
                        mark = await self._move(
                            connection, incarnation, mark, batch.events[: published.count]
                        )
                        self._require_all(batch, published)
        finally:
            await publisher.close()

    def _require_all(self, batch: _Batch, published: Published) -> None:
        if published.refused:
            event, message = batch.events[published.count], batch.messages[published.count]
            if message.size < self._batch_bytes:
                self._batch_bytes //= SHRINK
                raise KafkaUnavailable(f"a batch is too large for it: {self._batch_bytes} bytes from now on")
            self._largest = min(self._largest, size_of(event) - 1)
            raise KafkaUnavailable(f"an event of {size_of(event)} bytes is too large for it: as a link, then")
        if missing := len(batch.events) - published.count:
            raise KafkaUnavailable(f"{missing} of {len(batch.events)} messages not acknowledged")

    async def _move(
        self, connection: Connection, incarnation: str, mark: Mark, sent: Sequence[StoredEvent]
    ) -> Mark:
        if not sent:
            return mark
        after = Mark(sent[-1].position, sent[-1].event_id)
        moved = await connection.execute(
            "update relay.checkpoint set incarnation = %s, position = %s, event_id = %s "
            "where name = %s and position = %s and event_id = %s",
            [incarnation, after.position, after.event_id, NAME, mark.position, mark.event_id],
        )
        if moved.rowcount != 1:
            raise NoLongerLeads("another relay has moved the checkpoint")
        PUBLISHED.inc(len(sent))
        LINKED.inc(sum(size_of(event) > self._largest for event in sent))
        POSITION.set(after.position)
        return after

    async def _checkpoint(self, connection: Connection) -> Mark:
        """Where to go on; `CheckpointAheadOfLog` when the log does not have that event."""
        await connection.execute(
            "insert into relay.checkpoint (name, incarnation, position, event_id) values (%s, %s, 0, %s) "
            "on conflict do nothing",
            [NAME, await self._reader.incarnation(), NO_EVENT],
        )
        found = await connection.execute(
            "select position, event_id::text from relay.checkpoint where name = %s", [NAME]
        )
        [(position, event_id)] = await found.fetchall()
        if position:
            here = await self._reader.read(position - 1, 1)
            if not here or (here[0].position, here[0].event_id) != (position, event_id):
                raise CheckpointAheadOfLog(position, event_id)
        return Mark(position, event_id)


async def _encoded(
    batches: AsyncIterator[Sequence[StoredEvent]], incarnation: str, largest: int
) -> AsyncGenerator[_Batch]:
    async for events in batches:
        yield _Batch(events, [message_of(event, incarnation, largest) for event in events])


async def _ahead(batches: AsyncIterator[_Batch], seconds: float) -> AsyncGenerator[_Batch | None]:
    """The batches, each while the next one is being made; None whenever none has come for so long."""
    coming = asyncio.ensure_future(anext(batches))
    try:
        while True:
            if not (await asyncio.wait({coming}, timeout=seconds))[0]:
                yield None
                continue
            batch = coming.result()
            coming = asyncio.ensure_future(anext(batches))
            yield batch
    finally:
        await cancel(coming)
