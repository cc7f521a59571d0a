"""Publishes the log to Kafka: at least once, in order, from a checkpoint in PostgreSQL.

The checkpoint moves over records the broker has acknowledged, by compare-and-set. Whatever goes wrong, the
relay makes a new producer and begins again at the checkpoint: consumers recognise what they have seen. One
relay leads, by a session's advisory lock; that spares duplicates, safety does not depend on it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import psycopg
from prometheus_client import Counter, Gauge

from domain.envelope import NO_EVENT, Mark
from runtime import lag
from runtime.kafka import KafkaUnavailable, Publisher
from runtime.log.reading import LogReader, StoredEvent
from runtime.messages import message_of, topics
from runtime.meters import serve_meters
from runtime.points import reached
from runtime.postgres import Connection, connect
from runtime.process import CannotStart
from runtime.settings import Settings
from runtime.stopping import cancel, stop_if_cancelled

logger = logging.getLogger(__name__)

NAME: Final = "kafka"
ROLE: Final = "tallybook_relay"
LEADER_LOCK: Final = 0x7A11_0001
"""The session's advisory lock of the relay that leads."""
STANDBY_S: Final = 0.5
CHECK_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0

PUBLISHED = Counter("tallybook_relay_published_events", "Events that Kafka acknowledged")
FAILURES = Counter("tallybook_relay_failures", "Times the relay had to begin again at its checkpoint")
POSITION = Gauge("tallybook_relay_position", "Position in the log up to which Kafka has everything")
LAG_POSITIONS = Gauge("tallybook_relay_lag_positions", "Events that Kafka does not have yet", ["relay"])
LAG_SECONDS = Gauge(
    "tallybook_relay_lag_seconds", "Since the oldest event that Kafka does not have was recorded", ["relay"]
)
LEADS = Gauge("tallybook_relay_leads", "1 while this process publishes, 0 on standby")


class NoLongerLeads(Exception):
    """Another relay has moved the checkpoint, or the session with the lock is gone."""


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


class Relay:
    def __init__(self, url: str, reader: LogReader, servers: str, *, recreate_topics: bool) -> None:
        self._url = url
        self._reader = reader
        self._servers = servers
        self._recreate_topics = recreate_topics

    async def run(self) -> None:
        """Until cancelled: leads whenever nobody else does."""
        while True:
            try:
                # A crash that loses the checkpoint's last moves costs duplicates; waiting for the disk, time.
                async with connect(self._url, ROLE, synchronous_commit="off") as connection:
                    await _wait_for_lead(connection)
                    await self._lead(connection)
            except (NoLongerLeads, psycopg.OperationalError) as lost:
                logger.warning("the relay stands by: %s", lost)
            finally:
                LEADS.set(0)
            await asyncio.sleep(STANDBY_S)

    async def _lead(self, connection: Connection) -> None:
        logger.info("the relay leads")
        LEADS.set(1)
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
            await asyncio.sleep(pause)

    async def _publish(self, connection: Connection, mark: Mark) -> None:
        """Until something goes wrong."""
        incarnation = await self._reader.incarnation()
        wanted = topics(await self._reader.lanes())
        publisher = Publisher(self._servers, wanted, recreate=self._recreate_topics)
        try:
            await publisher.connect()
            async with (
                aclosing(self._reader.subscribe(mark.position)) as arriving,
                aclosing(_or_nothing(arriving, CHECK_S)) as batches,
            ):
                async for batch in batches:
                    if not batch:
                        await publisher.check()
                        await connection.execute("select 1")  # the session with the lock
                        continue
                    sent = await publisher.publish([message_of(event, incarnation) for event in batch])
                    await reached("after_send_before_checkpoint")
                    mark = await _move(connection, incarnation, mark, batch[:sent])
                    if sent < len(batch):
                        raise KafkaUnavailable(
                            f"{len(batch) - sent} of {len(batch)} messages not acknowledged"
                        )
        finally:
            await publisher.close()

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


async def _wait_for_lead(connection: Connection) -> None:
    while True:
        found = await connection.execute("select pg_try_advisory_lock(%s)", [LEADER_LOCK])
        if await found.fetchone() == (True,):
            return
        await asyncio.sleep(STANDBY_S)


async def _move(connection: Connection, incarnation: str, mark: Mark, sent: Sequence[StoredEvent]) -> Mark:
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
    POSITION.set(after.position)
    return after


async def _or_nothing(
    batches: AsyncIterator[Sequence[StoredEvent]], seconds: float
) -> AsyncGenerator[Sequence[StoredEvent]]:
    """The batches, and an empty one whenever none has come for so long."""
    coming = asyncio.ensure_future(anext(batches))
    try:
        while True:
            if not (await asyncio.wait({coming}, timeout=seconds))[0]:
                yield []
                continue
            yield coming.result()
            coming = asyncio.ensure_future(anext(batches))
    finally:
        await cancel(coming)
