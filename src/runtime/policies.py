"""Runs the policies: follows the log by position, issues their commands, fires their timers.

A policy's checkpoint and its timers move in one transaction, after the commands of the events before it; a
command issued again after a crash is a repeat. Any number of processes may run: one wins the compare-and-set.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from prometheus_client import Gauge
from psycopg import OperationalError

from commands.policies import POLICIES
from commands.policies.policy import Policy
from commands.ports import Contended, LogFull, LogUnavailable, OutcomeUnknown
from commands.shop import Shop
from domain.envelope import Recorded
from runtime import lag
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.log.snapshots import SnapshotStore
from runtime.meters import serve_meters
from runtime.policy_store import Checkpoint, PolicyStore
from runtime.postgres import open_pool
from runtime.settings import Settings
from runtime.shop import shop_on

logger = logging.getLogger(__name__)

ROLE: Final = "tallybook_policies"
POOL_SIZE: Final = 4
REST_S: Final = 0.1
"""Between looks at the log: nobody waits for what a policy does as for an answer."""
IN_FLIGHT: Final = 128
"""How many commands of one policy are under way at once."""
TICK_SECONDS: Final = 0.1
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.25
"""However long a database was away, it is in use within two seconds; a try costs a connection."""
TRANSIENT: Final = (Contended, LogFull, LogUnavailable, OutcomeUnknown, OperationalError)

LAG_POSITIONS = Gauge("tallybook_policies_lag_positions", "Events not yet reacted to", ["policy"])
LAG_SECONDS = Gauge(
    "tallybook_policies_lag_seconds", "Since the oldest event not yet reacted to was recorded", ["policy"]
)


async def run(settings: Settings) -> None:
    serve_meters(settings)
    async with (
        PostgresLog.open(settings.database_url, ROLE) as log,
        SnapshotStore.open(settings.database_url, ROLE) as snapshots,
        LogReader.open(settings.database_url, ROLE) as reader,
        lag.watched(partial(reader.lags_of_all, lag.POLICIES), LAG_POSITIONS, LAG_SECONDS),
        open_pool(settings.database_url, ROLE, size=POOL_SIZE) as pool,
        asyncio.TaskGroup() as tasks,
    ):
        store = PolicyStore(pool, log.incarnation)
        shop = shop_on(log, snapshots, settings)  # of all: none conflicts with what another has under way
        for policy in POLICIES:
            runner = PolicyRunner(policy, shop, reader, store)
            tasks.create_task(runner.follow(), name=f"{policy.name} follows")
            tasks.create_task(runner.keep_time(), name=f"{policy.name} keeps time")


class PolicyRunner:
    """One policy: its reactions and its timers."""

    def __init__(self, policy: Policy, shop: Shop, reader: LogReader, store: PolicyStore) -> None:
        self._policy = policy
        self._shop = shop
        self._reader = reader
        self._store = store

    async def follow(self) -> None:
        """React to every event from the checkpoint on, for ever."""
        await _for_ever(self._policy.name, self._follow_until_overtaken)

    async def keep_time(self) -> None:
        """Fire every timer once it is due, for ever."""
        await _for_ever(self._policy.name, self._fire_due)

    async def _follow_until_overtaken(self) -> None:
        at = await self._store.checkpoint(self._policy.name)
        async for batch in self._reader.subscribe(at.position, rest_s=REST_S):
            events = [self._reader.decode(stored) for stored in batch]
            await self._react(events)
            timers = [(timer, event.event_id) for event in events if (timer := self._policy.timer(event))]
            reached = Checkpoint(at.incarnation, events[-1].position, events[-1].event_id)
            if not await self._store.advance(self._policy.name, at, reached, timers):
                logger.info("%s: another process is ahead", self._policy.name)
                return
            at = reached

    async def _react(self, events: Sequence[Recorded]) -> None:
        started = (self._policy.react(self._shop, event) for event in events)
        commands = [command for command in started if command is not None]
        in_flight = asyncio.Semaphore(IN_FLIGHT)

        async def issue(command: Awaitable[object]) -> None:
            async with in_flight:
                await command

        async with asyncio.TaskGroup() as group:
            for command in commands:
                group.create_task(issue(command))

    async def _fire_due(self) -> None:
        while due := await self._store.due(self._policy.name, self._shop.clock.now(), IN_FLIGHT):
            fired = await asyncio.gather(*(self._fire(*timer) for timer in due), return_exceptions=True)
            if failures := [failure for failure in fired if isinstance(failure, Exception)]:
                raise ExceptionGroup("timers that could not be fired", failures)
            if not any(fired):
                break
        await asyncio.sleep(TICK_SECONDS)

    async def _fire(self, stream: str, event_id: str) -> bool:
        scheduled = await self._reader.event(event_id)
        if scheduled is None:
            raise LookupError(f"the log has no event {event_id}, which set the timer of {stream}")
        fired = await self._policy.fire(self._shop, self._reader.decode(scheduled))
        if fired:
            await self._store.done(self._policy.name, stream)
        return fired


async def _for_ever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Again and again; after a failure later and later, up to a ceiling, and never silently."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            await work()
        except* TRANSIENT as passing:
            logger.warning("%s tries again in %.2f s: %s", name, pause, passing.exceptions)
        except* Exception:
            logger.exception("%s stands still; it tries again in %.2f s", name, pause)
        else:
            pause = FIRST_PAUSE_S
            continue
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
