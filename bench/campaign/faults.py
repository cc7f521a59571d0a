"""How each fault is done to a house, and from when its recovery counts.

From the blow itself, the supervisor's restart included, with three exceptions: a PostgreSQL counts from when
it takes connections again, a process without a twin that was stopped from when it goes on, and an operator's
deed from the end of it.
"""

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Final

import psycopg
from kafka.errors import KafkaError  # type: ignore[import-untyped]  # ships no types

from bench.campaign import operators, sockets, topics
from bench.campaign.client import Client
from bench.campaign.house import House, figure_of
from bench.campaign.probe import NotRecovered
from bench.campaign.schedule import BROKER, POSTGRES, RELAY, TWICE, Deed, Fault
from bench.campaign.traffic import Traffic
from runtime.embedded.postgres import SERVICE, accepts
from runtime.log.reading import LogReader

logger = logging.getLogger(__name__)

RESTART_S: Final = 60.0
CRASH_S: Final = 75.0
"""A policy acts when a reservation has expired, which takes a minute."""
AWAY_S: Final = 0.01
GONE_S: Final = 1.0
"""Until a PostgreSQL that was killed is noticed to be gone; it may be back before."""


class NotStruck(Exception):
    """A fault could not be brought about, or a process was not where it was to die."""


class Faults:
    """`points`: by process and point, how often it died there."""

    def __init__(self, house: House, traffic: Traffic, chance: random.Random) -> None:
        self._house = house
        self._traffic = traffic
        self._client: Client = traffic.client
        self._chance = chance
        self.points: dict[tuple[str, str], int] = {}
        self._deeds: Mapping[Deed, Callable[[Fault], Awaitable[float]]] = {
            "kill": self._kill,
            "crash": self._crash,
            "cut sessions": lambda _: self._cut_sessions(),
            "cut connections": self._cut_connections,
            "kill a backend of": lambda _: self._kill_backend(),
            "forget": self._forget,
            "delete topics of": lambda _: self._topics(topics.delete),
            "empty topics of": lambda _: self._empty(),
            "repartition topics of": lambda _: self._repartition(),
            "repeat messages of": lambda _: self._messages(list),
            "shuffle messages of": lambda _: self._messages(topics.shuffled(chance)),
            "forge messages of": lambda _: self._messages(topics.forged),
            "poison": lambda _: self._poison(),
            "rebuild": lambda _: self._rebuild(),
        }

    @asynccontextmanager
    async def struck(self, fault: Fault) -> AsyncIterator[float]:
        """From when its recovery counts; on leaving, what was stopped goes on.

        Raises NotStruck, and NotRecovered where what was struck does not come back.
        """
        if fault.deed != "stop":
            try:
                began = await self._deeds[fault.deed](fault)
            except (KafkaError, psycopg.OperationalError, LookupError) as failed:
                raise NotStruck(f"{fault.kind}: {failed!r}") from failed
            except TimeoutError as failed:
                raise NotRecovered(f"{fault.kind}: what was struck is not back") from failed
            yield began
            return
        victim = self._house.process(await self._one_of(fault.victim))
        victim.suspend()
        began = monotonic()
        try:
            if fault.victim not in TWICE:
                await asyncio.sleep(fault.seconds)
                victim.resume()
                yield monotonic()
            else:
                yield began
                await asyncio.sleep(max(0.0, began + fault.seconds - monotonic()))
        finally:
            victim.resume()

    async def _one_of(self, victim: str) -> str:
        """The relay that leads; of other twins either."""
        if victim == RELAY:
            for name in (RELAY, f"{RELAY} 2"):
                if figure_of(await self._client.told_by(name), "tallybook_relay_leads"):
                    return name
        return self._chance.choice((victim, f"{victim} 2")) if victim in TWICE else victim

    async def _kill(self, fault: Fault) -> float:
        name = await self._one_of(fault.victim)
        killed = self._house.process(name)
        killed.kill()
        began = monotonic()
        if name == POSTGRES:
            return await self._until_postgres_answers(began)
        await self._house.until_other(name, killed.pid, RESTART_S)
        return began

    async def _until_postgres_answers(self, gone: float) -> float:
        """It takes connections as before for a moment."""
        url = self._house.settings.migration_database_url
        while await accepts(url) and monotonic() < gone + GONE_S:  # noqa: ASYNC110 - a server sets no event
            await asyncio.sleep(AWAY_S)
        async with asyncio.timeout(RESTART_S):
            while not await accepts(url):  # noqa: ASYNC110 - a server sets no event
                await asyncio.sleep(AWAY_S)
        return monotonic()

    async def _kill_backend(self) -> float:
        """Of a session of ours: the server starts all of them anew, and recovers."""
        with await self._owner() as owner:
            found = owner.execute(
                "select pid from pg_stat_activity where usename = %s order by random() limit 1", [SERVICE]
            ).fetchall()
        [(pid,)] = found
        began = monotonic()
        os.kill(pid, signal.SIGKILL)
        return await self._until_postgres_answers(began)

    async def _cut_sessions(self) -> float:
        with await self._owner() as owner:
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [SERVICE]
            )
        return monotonic()

    async def _owner(self) -> psycopg.Connection:
        return await asyncio.to_thread(
            psycopg.connect, self._house.settings.migration_database_url, autocommit=True
        )

    async def _cut_connections(self, fault: Fault) -> float:
        """All that our processes have to the service, at whatever moment. LookupError if there is none."""
        ports = self._house.ports
        port = {POSTGRES: ports.postgres, BROKER: ports.broker}[fault.victim]
        count = 0
        for name in self._house.environments:
            with suppress(LookupError):
                count += sockets.cut(self._house.process(name), port)
        if not count:
            raise LookupError(f"nobody has a connection to {fault.victim} that could be cut")
        return monotonic()

    async def _forget(self, fault: Fault) -> float:
        self._house.forgets = True
        return await self._kill(fault)

    async def _empty(self) -> float:
        return await self._topics(partial(topics.make_again, partitions=await self._lanes()))

    async def _repartition(self) -> float:
        return await self._topics(partial(topics.make_again, partitions=topics.PARTITIONS))

    async def _topics(self, deed: Callable[[str, int], object]) -> float:
        await self._broker_answers()
        began = monotonic()
        await asyncio.to_thread(deed, self._house.settings.kafka_bootstrap_servers, await self._lanes())
        return began

    async def _messages(self, change: topics.Change) -> float:
        """Of the last ones, sent again as `change` has them; it begins when they have been read."""
        servers, lanes = self._house.settings.kafka_bootstrap_servers, await self._lanes()
        await self._broker_answers()
        found = await asyncio.to_thread(topics.last, servers, lanes)
        if not found:
            raise RuntimeError("there are no messages to send again")
        began = monotonic()
        await asyncio.to_thread(topics.send, servers, change(found))
        return began

    async def _broker_answers(self) -> None:
        """The read models have recovered without it, and sooner. TimeoutError."""
        ready = self._house.specs[BROKER].ready
        async with asyncio.timeout(RESTART_S):
            while ready and not await ready():  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(AWAY_S)

    async def _lanes(self) -> int:
        async with LogReader.open(self._house.settings.database_url) as reader:
            return await reader.lanes()

    async def _crash(self, fault: Fault) -> float:
        """Started again so that it dies at the point; of twins the standby, while the leader is suspended.

        Killed, the leader would soon have a successor, which might lead before the standby does.
        """
        leader = await self._one_of(RELAY) if fault.victim == RELAY else None
        name = ({RELAY, f"{RELAY} 2"} - {leader}).pop() if leader else fault.victim
        self._house.crash_at(name, fault.point)
        killed = self._house.process(name)
        killed.kill()
        prepared = await self._house.until_other(name, killed.pid, RESTART_S)
        self._house.crash_nowhere(name)  # it has it, the next one has not
        with self._suspended(leader):
            died = await self._dies(name, prepared)
            began = monotonic()
        if not died:
            self._house.process(name).kill()  # it would still die there, sooner or later
            raise NotStruck(f"{fault.victim} did not come to {fault.point}")
        self._hit(fault.victim, fault.point)
        await self._house.until_other(name, prepared, RESTART_S)
        return began

    @contextmanager
    def _suspended(self, name: str | None) -> Iterator[None]:
        process = self._house.process(name) if name else None
        if process:
            process.suspend()
        try:
            yield
        finally:
            if process:
                process.resume()

    async def _dies(self, name: str, pid: int) -> bool:
        until = monotonic() + CRASH_S
        while monotonic() < until:
            record = self._house.record(name)
            if record is None or record.pid != pid:
                return True
            await asyncio.sleep(AWAY_S)
        return False

    def _hit(self, process: str, point: str) -> None:
        self.points[process, point] = self.points.get((process, point), 0) + 1

    async def _poison(self) -> float:
        await operators.poison_and_skip(self._house, self._traffic, self._hit)
        return monotonic()

    async def _rebuild(self) -> float:
        await operators.rebuild(self._house, self._hit)
        return monotonic()
