"""Where a hazard is played: a database, a gate before commits, wires, and eyes on who waits for what."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from psycopg import sql
from tests.runtime.hazards.recorders import Contender, Draft, Heard, Recorder, Tail, Told
from tests.runtime.hazards.wires import Wire, wire_to

from runtime.postgres import Connection, connect

WAIT_S: Final = 10.0
"""What a test waits for at most before it fails: never reached where all is well."""
NOTICE_S: Final = 5.0
"""How soon a subscriber must hear of what was committed, on a machine that has much else to do."""
ATTEMPTS: Final = 100
PAUSE_S: Final = 0.05

HELD: Final = "held"
"""An event whose word begins so waits at the gate when it is about to be committed."""
DOOMED: Final = "doomed"
"""An event whose word begins so makes its commit fail."""
DROPPED: Final = "dropped"
"""An event whose word begins so is left out by the database, without an error."""

GATE: Final = "locktype = 'advisory' and classid = 47"
_STAGE: Final = """
create schema stage;
create function stage.at_commit() returns trigger language plpgsql security definer as $$
begin
    if position('{held}'::bytea in new.{data}) > 0 then
        perform pg_advisory_xact_lock_shared(47, 1);
    end if;
    if position('{doomed}'::bytea in new.{data}) > 0 then
        raise exception using errcode = '23514', message = 'refused at the last moment';
    end if;
    return null;
end $$;
create function stage.at_insert() returns trigger language plpgsql security definer as $$
begin
    if position('{dropped}'::bytea in new.{data}) > 0 then
        return null;
    end if;
    return new;
end $$;
create constraint trigger at_commit after insert on {events} deferrable initially deferred
    for each row execute function stage.at_commit();
create trigger at_insert before insert on {events} for each row execute function stage.at_insert();
grant usage on schema stage to public;
"""


class Hit(AssertionError):
    """The hazard has struck: what the recorder did wrong."""


def words(*beginnings: str) -> list[str]:
    """Words that were never used before."""
    return [f"{beginning}{next(_numbers)}." for beginning in beginnings]


_numbers = itertools.count(1)


class Stage:
    """`url` is the database's own; `owner` a connection that is no recorder's."""

    def __init__(
        self, contender: Contender, url: str, owner: Connection, stack: AsyncExitStack, notice_s: float
    ) -> None:
        self.contender = contender
        self.notice_s = notice_s
        self.url = url
        self.owner = owner
        self._stack = stack

    async def recorder(self) -> Recorder:
        """A process of its own."""
        return await self._stack.enter_async_context(self.contender.open(self.url))

    async def wired_recorder(self) -> tuple[Wire, Recorder]:
        """A process of its own, all of whose connections go through a wire."""
        wire, url = await self._stack.enter_async_context(wire_to(self.url))
        return wire, await self._stack.enter_async_context(self.contender.open(url))

    async def tail(self, recorder: Recorder, after: int = 0) -> Tail:
        return await self._stack.enter_async_context(recorder.tail(after))

    async def other(self, url: str | None = None) -> Connection:
        """Somebody else's connection."""
        return await self._stack.enter_async_context(connect(url or self.url, "postgres"))

    def start(self, told: Awaitable[Told]) -> asyncio.Task[Told]:
        async def waited() -> Told:
            return await told

        task = asyncio.create_task(waited())
        self._stack.push_async_callback(_ended, task)
        return task

    async def shut_gate(self) -> None:
        await self.owner.execute("select pg_advisory_lock(47, 1)")

    async def open_gate(self) -> None:
        await self.owner.execute("select pg_advisory_unlock(47, 1)")

    async def at_gate(self) -> None:
        """Returns when somebody waits at the gate."""
        await self.until(f"exists (select from pg_locks where {GATE} and not granted)")

    async def stands(self, *said: str) -> None:
        """Returns when the words are there for everybody to see."""
        await self.until_true(lambda: self._has(said))

    async def _has(self, said: Sequence[str]) -> bool:
        return set(said) <= set(await self.recorded())

    async def recorded(self) -> list[str]:
        """What is in the table of events, in any order: the truth."""
        found = await self.owner.execute(
            sql.SQL("select convert_from({}, 'UTF8') from {}").format(
                sql.Identifier(self.contender.data), _table(self.contender.events)
            )
        )
        return [_word_in(text) for (text,) in await found.fetchall()]

    async def done_or_waiting(self, task: asyncio.Task[Told]) -> None:
        """Returns when the task is done, or somebody waits for a lock that is not the gate."""
        await self.until_true(lambda: self._done_or_waiting(task))

    async def _done_or_waiting(self, task: asyncio.Task[Told]) -> bool:
        return task.done() or await self.somebody_waits()

    async def somebody_waits(self) -> bool:
        found = await self.owner.execute(
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            f" and pid not in (select pid from pg_locks where {GATE} and not granted)"
        )
        return bool(await found.fetchall())

    async def until(self, condition: str) -> None:
        async def holds() -> bool:
            return bool(await (await self.owner.execute(f"select 1 where {condition}")).fetchall())

        await self.until_true(holds)

    async def until_true(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not await holds():
                await asyncio.sleep(0.005)


async def insist(recorder: Recorder, draft: Draft) -> Told:
    """As any client: who is told that nobody knows sends the same again."""
    for _ in range(ATTEMPTS):
        told = await recorder.append(draft)
        if told is not Told.UNKNOWN:
            return told
        await asyncio.sleep(PAUSE_S)
    return Told.UNKNOWN


async def must_commit(recorder: Recorder, draft: Draft) -> None:
    """For what leads up to a hazard."""
    told = await recorder.append(draft)
    assert told is Told.COMMITTED, f"{told} before there was any hazard"


async def hears(tail: Tail, wanted: Iterable[str], seconds: float) -> list[Heard]:
    """All that is heard until the wanted words have been; TimeoutError when some are not."""
    missing = set(wanted)
    heard: list[Heard] = []
    async with asyncio.timeout(seconds):
        while missing:
            heard.append(await tail.next())
            missing.discard(heard[-1][1])
    return heard


@asynccontextmanager
async def stage_of(contender: Contender, url: str, notice_s: float = NOTICE_S) -> AsyncIterator[Stage]:
    """On a database that `prepare` has made."""
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(connect(url, "postgres"))
        await owner.execute(f"truncate {contender.tables} restart identity".encode())
        yield Stage(contender, url, owner, stack, notice_s)
        await owner.execute("select pg_advisory_unlock_all()")


async def prepare(contender: Contender, url: str) -> None:
    """An empty database becomes the contender's, with a gate in it."""
    if contender.make is not None:
        await contender.make(url)
    async with contender.open(url), connect(url, "postgres") as owner:
        await owner.execute(
            _STAGE.format(
                events=contender.events, data=contender.data, held=HELD, doomed=DOOMED, dropped=DROPPED
            ).encode()
        )


async def _ended(task: asyncio.Task[Told]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT_S)


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


def _word_in(text: str) -> str:
    """The word in the event's bytes: all of them, or the name in our JSON."""
    return text.partition('"name":"')[2].partition('"')[0] or text
