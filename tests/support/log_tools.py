"""What is appended to a log to try it, and what stands in a writer's way."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from commands.ports import Append, Condition, Log, NewEvent, Verdict
from domain.envelope import NOTHING, Actor, Metadata, Recorded, Tip
from domain.location import LocationRegistered
from runtime.ids import Uuid7s
from runtime.log import writer
from runtime.log.postgres import PostgresLog
from runtime.postgres import Connection

WAIT_S: Final = 10.0
LOCK: Final = "select pg_advisory_lock(2047, 1)"
"""What every batch must have: while a test has it, nothing is committed."""
UNLOCK: Final = "select pg_advisory_unlock(2047, 1)"
T0 = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
numbers = itertools.count(1)


class Appends:
    """Makes appends. Streams are locations: any name will do for a log."""

    def __init__(self) -> None:
        self.ids = Uuid7s()

    def metadata(self) -> Metadata:
        return Metadata(T0, Actor("staff", "s1"), self.ids.new(), self.ids.new(), None, "ab" * 16)

    def digest(self) -> bytes:
        return UUID(self.ids.new()).bytes

    def of(
        self,
        *streams: str,
        tips: dict[str, Tip] | None = None,
        digest: bytes | None = None,
        fingerprint: bytes | None = None,
        tags: Iterable[str] = (),
        conditions: Sequence[Condition] = (),
    ) -> Append:
        """An event to each of the streams, in order; `tips` (default: none exists), more than those read.

        `tags`: of every event.
        """
        known = dict.fromkeys(streams, NOTHING) | (tips or {})
        events = [
            NewEvent(
                stream,
                self.ids.new(),
                LocationRegistered(stream.partition("-")[2], f"Lager ä {n}", "DE"),
                frozenset(tags),
            )
            for n, stream in enumerate(streams)
        ]
        if digest is not None and fingerprint is None:
            fingerprint = b"f" * 32
        return Append(known, events, self.metadata(), digest, fingerprint, conditions)

    def chain(self, name: str, length: int) -> list[Append]:
        """An event each to one stream, each built on the one before it, whose verdict nobody has seen."""
        known, made = NOTHING, []
        for _ in range(length):
            made.append(self.of(name, tips={name: known}))
            known = Tip(known.version + 1, made[-1].events[0].event_id)
        return made


def stream(name: str = "") -> str:
    return f"location-{name or 'L'}{next(numbers)}"


def tip(recorded: Recorded) -> Tip:
    return Tip(recorded.version, recorded.event_id)


async def answers(log: Log, appends: Iterable[Append]) -> list[Verdict | BaseException]:
    return await asyncio.gather(*(log.append(append) for append in appends), return_exceptions=True)


Answers = asyncio.Task[list[Verdict | BaseException]]


async def sent(log: PostgresLog, *appends: Append, flying: int) -> Answers:
    """Appends as one batch, on its way as the given one of those in flight: something holds them up."""
    told = await queued(log, *appends)
    async with asyncio.timeout(WAIT_S):
        while len(log._writer._flying) < flying:
            await asyncio.sleep(0)
    return told


async def queued(log: PostgresLog, *appends: Append) -> Answers:
    told = asyncio.create_task(answers(log, appends))
    for _ in range(3):  # the task, the appends it gathers, the writer
        await asyncio.sleep(0)
    return told


async def told(*batches: Answers) -> list[Any]:
    """What their callers were told, in order; nobody waits for ever."""
    async with asyncio.timeout(WAIT_S):
        return [verdict for batch in batches for verdict in await batch]


async def positions(owner: Connection) -> list[int]:
    found = await owner.execute("select position from log.events order by position")
    return [position for (position,) in await found.fetchall()]


async def until(owner: Connection, condition: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not (await (await owner.execute(f"select 1 where {condition}".encode())).fetchall()):
            await asyncio.sleep(0.01)


async def until_one_waits(owner: Connection) -> None:
    await until(owner, "exists (select from pg_locks where locktype = 'advisory' and not granted)")


async def cut_who_waits(owner: Connection) -> None:
    await until_one_waits(owner)
    await owner.execute("select pg_terminate_backend(pid) from pg_locks where not granted")


def counted(name: str) -> float:
    """What a counter of the writer says: `unknown` or `settled`."""
    return REGISTRY.get_sample_value(f"tallybook_log_{name}_outcomes_total") or 0.0


class Gate:
    """Stands in the writer's way at a named point, from its n-th passage on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, point: str, passage: int = 1) -> None:
        self._at = (point, passage)
        self._passages = 0
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        monkeypatch.setattr(writer, "reached", self._pass)

    async def _pass(self, point: str) -> None:
        if point == self._at[0]:
            self._passages += 1
            if self._passages >= self._at[1]:
                self.reached.set()
                await self.open.wait()
