"""Keeps the read models up with the log: by Kafka's messages at once, by looking at the log in any case.

The log is the truth. A watchdog compares every checkpoint with the log's heads a few times a second and
catches up what has stayed behind, so a dead relay, a dead broker or a lost message costs milliseconds. Kafka
only makes it faster; nothing waits for it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
from prometheus_client import Counter, Gauge
from psycopg.errors import IdleInTransactionSessionTimeout, UndefinedTable

from domain.envelope import Mark
from projections import READ_MODELS
from runtime.kafka import KafkaUnavailable, Message, NothingAssigned, Subscriber
from runtime.log.reading import LogReader
from runtime.messages import Delivery, ForeignMessage, context_of, delivery_of, topics
from runtime.meters import serve_meters
from runtime.postgres import Pool, open_pool
from runtime.read_models import builds, bulk, lag
from runtime.read_models.builds import BuildGone
from runtime.read_models.folding import Model, contexts_of
from runtime.read_models.lanes import FROM_LOG, FoldedLane, Sources, deliver, require_in_log
from runtime.read_models.tables import Table
from runtime.read_models.waiting import CHANNEL
from runtime.settings import Settings
from runtime.stopping import stop_if_cancelled
from runtime.waking import wake_readers

logger = logging.getLogger(__name__)
T = TypeVar("T")
Heads = Mapping[builds.Lane, Mark]

ROLE: Final = "tallybook_projector"
POOL_SIZE: Final = 4
LONGEST_SILENCE: Final = "500ms"
"""In a transaction: folding takes milliseconds, and who is stopped meanwhile holds up all others."""
WATCH_S: Final = 0.25
REST_S: Final = 0.005
"""After a delivery of few: a transaction has a price, however little arrived for it."""
FEW: Final = 200
"""Events, over all lanes."""
GROUP_DIGITS: Final = 12
BULK_POSITIONS: Final = 10_000
"""How long a log is filled into empty builds in bulk."""
BULK_BYTES: Final = 12 * 2**20
"""Of rows that are in memory, as they are stored."""
AWAY: Final = (psycopg.OperationalError, IdleInTransactionSessionTimeout)
KAFKA_PAUSE_S: Final = 0.5
AWAY_PAUSE_S: Final = 0.25
"""How long a lane rests whose database could not be reached."""
REFUSED_PAUSE_S: Final = 5.0
"""How long a lane rests whose step failed otherwise."""

PARKED = Gauge("tallybook_projector_parked_streams", "Streams that stand still in what is served", ["model"])
REFUSED = Counter("tallybook_projector_refused", "Steps that failed, and will be tried again", ["model"])
STRANGE = Counter("tallybook_projector_strange_messages", "Messages that are none of the relay's", ["topic"])


async def run(settings: Settings) -> None:
    serve_meters(settings)
    async with (
        LogReader.open(settings.database_url, ROLE) as reader,
        rows_pool(settings.read_database_url) as pool,
    ):
        await Projector(reader, pool, settings.kafka_bootstrap_servers).run()


def rows_pool(url: str) -> AbstractAsyncContextManager[Pool]:
    """Connections on which a worker that is stopped in the middle of a step loses its locks."""
    return open_pool(
        url, ROLE, size=POOL_SIZE, autocommit=True, idle_in_transaction_session_timeout=LONGEST_SILENCE
    )


class Projector:
    """Several of them, in one process or many, share the work or repeat it; the rows are the same."""

    def __init__(
        self, reader: LogReader, pool: Pool, servers: str, models: Iterable[Model] = READ_MODELS
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._servers = servers
        self._tables = {table.declaration: table for table in map(Table, models)}
        self._builds: dict[str, _Build] = {}
        self._watch_s = WATCH_S
        self._hears = False
        self._groups_left = 0
        self._rests: dict[FoldedLane, float] = {}
        self._filling: set[str] = set()
        self._bulk = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until cancelled. `AheadOfLog` when the log does not have what a read model has applied."""
        await self._prepare()
        stop_if_cancelled()
        async with self._tasks as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._listen())
            tasks.create_task(self._wake())

    async def _prepare(self) -> None:
        incarnation, lanes = await self._reader.incarnation(), await self._reader.lanes()
        self._sources = Sources(self._reader, self._pool, incarnation)
        async with self._pool.connection() as connection:
            for table in self._tables.values():
                await builds.create(connection, table, lanes, incarnation)
        await self._take(*await self._stored())

    async def _stored(self) -> tuple[Mapping[str, builds.Fed], Mapping[str, bool]]:
        """What is fed, and the first builds that are still empty."""
        async with self._pool.connection() as connection:
            fed = await builds.fed_of(connection, self._tables.values())
            settled = {one.declaration for one in fed.values() if one.served} == self._tables.keys()
            return fed, {} if settled else await builds.unfilled(connection, self._tables.values())

    async def _take(self, fed: Mapping[str, builds.Fed], empty: Mapping[str, bool]) -> None:
        """What is fed by now, and no more what is not; the others' checkpoints as they are by now."""
        for name in self._builds.keys() - fed.keys():
            del self._builds[name]
        if missing := self._tables.keys() - {one.declaration for one in fed.values()} - empty.keys():
            raise BuildGone(f"no build is left of {', '.join(sorted(missing))}")
        for name, one in fed.items():
            if name in self._builds:
                self._builds[name].observe(one)
            else:
                self._builds[name] = await self._adopted(name, one)

    async def _adopted(self, name: str, fed: builds.Fed) -> "_Build":
        table = Table(self._tables[fed.declaration].model, name)
        for lane, mark in fed.marks.items():
            await self._check_against_log(table, lane, mark)
        async with self._pool.connection() as connection:
            await builds.adopt(connection, table, self._sources.incarnation)
        lanes = {lane: FoldedLane(self._sources, table, lane, mark) for lane, mark in fed.marks.items()}
        return _Build(table, lanes, served=fed.served, parked=fed.parked)

    async def _check_against_log(self, table: Table, lane: builds.Lane, mark: Mark) -> None:
        if mark == builds.NOWHERE:
            return
        here = await self._reader.read_lane(*lane, after=mark.position - 1, upto=mark.position, limit=1)
        if not here or here[0].event_id != mark.event_id:
            raise builds.AheadOfLog(table, lane, mark)

    async def _watch(self) -> None:
        """What Kafka has not brought from one look to the next is read from the log; without it, at once."""
        before: Heads = {}
        while True:
            stop_if_cancelled()
            stood = {lane: lane.mark for build in self._builds.values() for lane in build.lanes.values()}
            try:
                heads = await self._reader.heads()
                require_in_log(stood, heads)
                await self._look(before if self._hears and before else heads, heads)
                before = heads
            except AWAY as away:
                logger.warning("the watchdog cannot look: %s", away)
            await asyncio.sleep(self._watch_s)

    async def _wake(self) -> None:
        """Tells the doors that rows have come."""
        await wake_readers(self._pool.url, ROLE, CHANNEL, self._sources.applied)

    async def _look(self, due: Heads, heads: Heads) -> None:
        try:
            fed, empty = await self._stored()
        except AWAY:
            await self._tell(heads)
            raise
        await self._take(fed, empty)
        await self._tell(heads)
        self._fill_in_bulk(empty, heads)
        behind = [
            lane
            for name, build in self._builds.items()
            if name not in self._filling
            for lane in build.behind(due)
        ]
        await asyncio.gather(
            *(self._guarded(lane, lane.catch_up, heads[lane.lane].position) for lane in behind)
        )
        for build in self._builds.values():
            await self._settle(build, due)

    def _fill_in_bulk(self, empty: Mapping[str, bool], heads: Heads) -> None:
        """What is empty while the log is long, and what somebody has begun to fill, and perhaps not ended."""
        for name, begun in empty.items():
            table = self._tables[name]
            contexts = contexts_of(table.model)
            length = max((mark.position for lane, mark in heads.items() if lane[0] in contexts), default=0)
            if (begun or length >= BULK_POSITIONS) and name not in self._filling:
                self._filling.add(name)
                self._tasks.create_task(self._filled(table))

    async def _filled(self, table: Table) -> None:
        """In turn with others of this kind, in this process or another."""
        try:
            async with (
                self._bulk,
                self._pool.connection() as connection,
                builds.alone(connection, table) as nobody_else,
            ):
                if nobody_else:
                    told = FROM_LOG.labels(table.model.name).inc
                    await bulk.fill(connection, self._reader, table, told, memory_bytes=BULK_BYTES)
        except BuildGone as filled:
            logger.info("%s is not filled here: %s", table.build, filled)
        except AWAY as away:
            logger.warning("%s is not filled in bulk, and will be begun again: %s", table.build, away)
        finally:
            self._filling.discard(table.build)

    async def _tell(self, heads: Heads) -> None:
        """Before anything is caught up; of a model with several builds, of the one that is served."""
        in_turn = sorted(self._builds.values(), key=lambda build: build.served)
        told = {build.table.model.name: build for build in in_turn}
        for name, build in told.items():
            PARKED.labels(name).set(build.parked)
        await lag.tell(self._reader, heads, [lane for one in told.values() for lane in one.lanes.values()])

    async def _settle(self, build: "_Build", due: Heads) -> None:
        if not build.caught_up and not build.behind(due):
            try:
                async with self._pool.connection() as connection:
                    await builds.has_caught_up(connection, build.table)
            except UndefinedTable:
                logger.info("%s was dropped meanwhile", build.table.build)
            else:
                build.caught_up = True

    async def _guarded(self, lane: FoldedLane, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        """A lane that fails rests and tries again; the others go on."""
        clock = asyncio.get_running_loop().time
        if self._rests.get(lane, 0.0) > clock():
            return
        try:
            await work(argument)
        except BuildGone:
            async with self._pool.connection() as connection:
                fed = await builds.fed_of(connection, self._tables.values())
            if lane.table.build in fed:
                raise
        except AWAY as away:
            logger.warning("%s, %s: %s", lane.table.build, lane.lane, away)
            self._rests[lane] = clock() + AWAY_PAUSE_S
        except Exception:
            REFUSED.labels(lane.table.model.name).inc()
            logger.exception("%s, %s stands still", lane.table.build, lane.lane)
            self._rests[lane] = clock() + REFUSED_PAUSE_S
        else:
            self._rests.pop(lane, None)

    async def _listen(self) -> None:
        """Whatever Kafka does, it is tried again; meanwhile the watchdog does without."""
        contexts = {context for table in self._tables.values() for context in contexts_of(table.model)}
        wanted = topics(await self._reader.lanes(), contexts)
        level = logging.WARNING
        while True:
            subscriber = Subscriber(self._servers, self._group, wanted)
            try:
                await subscriber.connect()
                while True:
                    arrived = await subscriber.poll()
                    self._hears, level = True, logging.WARNING
                    await self._deliver(arrived)
                    if sum(map(len, arrived.values())) < FEW:
                        await asyncio.sleep(REST_S)
            except NothingAssigned as left_out:
                self._groups_left += 1
                logger.warning("the read models join %s: %s", self._group, left_out)
            except KafkaUnavailable as away:
                logger.log(level, "the read models do without Kafka: %s", away)
                level = logging.DEBUG  # once is enough
            finally:
                self._hears = False
                await subscriber.close()
            await asyncio.sleep(KAFKA_PAUSE_S)

    @property
    def _group(self) -> str:
        """Projectors of the same read models share the partitions among them.

        One that gets none goes to another group: Tansu was seen to forget a group's members for good when it
        came back empty under load. Two groups deliver the same twice, and the compare-and-set arbitrates.
        """
        digest = hashlib.sha256(" ".join(sorted(self._tables)).encode())
        return f"tallybook.projector.{digest.hexdigest()[:GROUP_DIGITS]}.{self._groups_left}"

    async def _deliver(self, arrived: Mapping[tuple[str, int], Sequence[Message]]) -> None:
        """To the builds that have caught up; the others have the log to read first."""
        deliveries = {
            (context_of(topic), partition): _deliveries(messages)
            for (topic, partition), messages in arrived.items()
        }
        await asyncio.gather(
            *(self._deliver_to(build, deliveries) for build in self._builds.values() if build.caught_up)
        )
        if deliveries:
            self._sources.applied.set()  # once for all builds: each time, readers look

    async def _deliver_to(self, build: "_Build", arrived: Mapping[builds.Lane, Sequence[Delivery]]) -> None:
        """Few to its lanes together, many to each by itself, while PostgreSQL is at another one's.

        If they fail together, each is tried by itself: one that fails must not stop others.
        """
        to_lanes = {build.lanes[place]: new for place, new in arrived.items() if place in build.lanes}
        if sum(map(len, to_lanes.values())) < FEW and not self._rests.keys() & to_lanes.keys():
            try:
                await deliver(to_lanes)
            except Exception as failed:  # noqa: BLE001 - what it was is told where it happens again
                logger.info("%s is fed lane by lane: %r", build.table.build, failed)
            else:
                return
        await asyncio.gather(*(self._guarded(lane, deliver, {lane: new}) for lane, new in to_lanes.items()))


@dataclass(slots=True)
class _Build:
    table: Table
    lanes: Mapping[builds.Lane, FoldedLane]
    served: bool
    parked: int
    caught_up: bool = False

    def observe(self, fed: builds.Fed) -> None:
        self.served, self.parked = fed.served, fed.parked
        for place, lane in self.lanes.items():
            lane.observe(fed.marks.get(place, builds.NOWHERE))

    def behind(self, heads: Heads) -> list[FoldedLane]:
        return [lane for lane in self.lanes.values() if lane.is_behind(heads)]


def _deliveries(messages: Sequence[Message]) -> list[Delivery]:
    deliveries = []
    for message in messages:
        try:
            deliveries.append(delivery_of(message))
        except ForeignMessage as strange:
            STRANGE.labels(message.topic).inc()
            logger.warning("dropped a message that is none of the relay's: %s", strange)
    return deliveries
