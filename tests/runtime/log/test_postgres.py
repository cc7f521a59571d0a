"""What only the log in PostgreSQL has to do: share calls, lose connections, tell every caller the truth."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import uuid4

import pytest
from log_tools import Appends, stream
from wire import wire_to

from commands.ports import Append, Appended, Duplicate, LogFull, LogUnavailable, OutcomeUnknown, Verdict
from runtime.log import postgres, queue
from runtime.log.postgres import ROLE, PostgresLog
from runtime.log.reading import LogReader
from runtime.log.session import Session
from runtime.migrate import migrate
from runtime.postgres import Connection, connect

pytestmark = pytest.mark.anyio

LOCK: Final = "select pg_advisory_lock(2047, 1)"
UNLOCK: Final = "select pg_advisory_unlock(2047, 1)"
WAIT_S: Final = 10.0


@pytest.fixture
async def owner(log_url: str) -> AsyncIterator[Connection]:
    async with connect(log_url, "postgres") as connection:
        yield connection


async def answers(log: PostgresLog, appends: list[Append]) -> list[Verdict | BaseException]:
    return await asyncio.gather(*(log.append(append) for append in appends), return_exceptions=True)


async def positions(owner: Connection) -> list[int]:
    found = await owner.execute("select position from log.events order by position")
    return [position for (position,) in await found.fetchall()]


async def until(owner: Connection, condition: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not (await (await owner.execute(f"select 1 where {condition}")).fetchall()):
            await asyncio.sleep(0.01)


class Gate:
    """Stands in the writer's way at a named point, from its n-th passage on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, point: str, passage: int = 1) -> None:
        self._at = (point, passage)
        self._passages = 0
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        monkeypatch.setattr(postgres, "reached", self._pass)

    async def _pass(self, point: str) -> None:
        if point == self._at[0]:
            self._passages += 1
            if self._passages >= self._at[1]:
                self.reached.set()
                await self.open.wait()


async def test_callers_at_the_same_time_share_calls(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        await answers(log, [appends.of(stream()) for _ in range(100)])
    found = await owner.execute("select count(distinct recorded_at) from log.events")
    assert await found.fetchall() == [(1,)]


async def test_two_writers_leave_no_hole(log_url: str, owner: Connection, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as one, PostgresLog.open(log_url) as two:

        async def write(log: PostgresLog) -> list[int]:
            verdict = await log.append(appends.of(stream(), stream()))
            assert isinstance(verdict, Appended)
            await asyncio.sleep(0)
            verdict_too = await log.append(appends.of(stream()))
            assert isinstance(verdict_too, Appended)
            return [event.position for event in verdict.events + verdict_too.events]

        told = await asyncio.gather(*(write(log) for log in (one, two) for _ in range(40)))
    assert sorted(position for some in told for position in some) == list(range(1, 241))
    assert await positions(owner) == list(range(1, 241))


async def test_a_connection_cut_while_it_waits_leaves_one_effect(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    append = appends.of(stream(), digest=b"1" * 16)
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        told = asyncio.create_task(log.append(append))
        await until(owner, "exists (select from pg_locks where locktype = 'advisory' and not granted)")
        await owner.execute("select pg_terminate_backend(pid) from pg_locks where not granted")
        with pytest.raises(OutcomeUnknown):
            await told
        await owner.execute(UNLOCK)
        again = await log.append(append)
        assert isinstance(again, Appended)
        assert await log.append(append) == Duplicate(again.events[0].position, 1)
    assert await positions(owner) == [1]


async def test_an_answer_lost_on_its_way_leaves_one_effect(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    batch = [appends.of(stream(), digest=bytes([n]) * 16) for n in range(5)]
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        await log.append(appends.of(stream()))  # prepares the statement, which asks for an answer of its own
        wire.deaf = True
        told = asyncio.create_task(answers(log, batch))
        await until(owner, "(select count(*) from log.events) = 6")
        wire.deaf = False
        wire.cut()
        assert [type(each) for each in await told] == [OutcomeUnknown] * 5
        assert await answers(log, batch) == [Duplicate(n, 1) for n in range(2, 7)]
    assert await positions(owner) == [1, 2, 3, 4, 5, 6]


async def test_a_generation_that_is_over_writes_nothing_more(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        usurper = await Session.begin(log_url, ROLE, log._writer)
        with pytest.raises(LogUnavailable, match="another generation"):
            await log.append(appends.of(stream()))
        assert await positions(owner) == []
        await usurper.close()
        assert isinstance(await log.append(appends.of(stream())), Appended)


async def test_a_generation_begins_after_what_was_under_way(log_url: str, owner: Connection) -> None:
    await owner.execute(LOCK)
    beginning = asyncio.create_task(Session.begin(log_url, ROLE, str(uuid4())))
    await until(owner, "exists (select from pg_locks where locktype = 'advisory' and not granted)")
    assert not beginning.done()
    await owner.execute(UNLOCK)
    await (await beginning).close()


async def test_a_writer_that_is_cut_off_begins_again_by_itself(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        [before] = await (await owner.execute("select generation from log.writers")).fetchall()
        await owner.execute("update log.writers set generation = generation + 1")
        with pytest.raises(LogUnavailable):
            await log.append(appends.of(stream()))
        await until(owner, f"(select generation from log.writers) = {before[0] + 2}")
        async with asyncio.timeout(WAIT_S):
            while not await log.ready():
                await asyncio.sleep(0.01)


async def test_a_writer_that_begins_again_learns_the_incarnation(
    new_database: Callable[[], str], appends: Appends
) -> None:
    url = new_database()
    await migrate(url, "log")
    async with PostgresLog.open(url) as log, connect(url, "postgres") as owner:
        before = log.incarnation
        found = await owner.execute("update log.incarnations set id = gen_random_uuid() returning id::text")
        [(after,)] = await found.fetchall()
        assert log.incarnation == before
        await owner.execute("update log.writers set generation = generation + 1")
        with pytest.raises(LogUnavailable):
            await log.append(appends.of(stream()))
        assert isinstance(await log.append(appends.of(stream())), Appended)
        assert log.incarnation == after


async def test_while_the_log_is_down_everybody_is_told_so_at_once(log_url: str, appends: Appends) -> None:
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        await wire.down()
        began = time.monotonic()
        told = await answers(log, [appends.of(stream()) for _ in range(3_000)])
        assert {type(each) for each in told} == {OutcomeUnknown, LogUnavailable}
        told = await answers(log, [appends.of(stream()) for _ in range(3_000)])
        assert {type(each) for each in told} == {LogUnavailable}
        assert time.monotonic() - began < WAIT_S / 2
        assert not await log.ready()
        await wire.up()
        async with asyncio.timeout(WAIT_S):
            while not await log.ready():
                await asyncio.sleep(0.05)
        assert isinstance(await log.append(appends.of(stream())), Appended)


async def test_a_full_queue_refuses_before_anything_is_done(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING", 10)
    gate = Gate(monkeypatch, "before_commit")
    async with PostgresLog.open(log_url) as log:
        first = asyncio.create_task(log.append(appends.of(stream())))
        await gate.reached.wait()
        others = [asyncio.create_task(log.append(appends.of(stream()))) for _ in range(10)]
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(LogFull):
                await log.append(appends.of(stream()))
        gate.open.set()
        assert {type(each) for each in await asyncio.gather(first, *others)} == {Appended}
    assert await positions(owner) == list(range(1, 12))


async def test_a_log_that_closes_while_it_tries_one_by_one_answers_everybody(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CLOSE_S", 0.1)
    async with PostgresLog.open(log_url) as log:
        written = await log.append(appends.of(stream()))
        assert isinstance(written, Appended)
        good = [appends.of(stream()) for _ in range(3)]
        new = replace(good[1].events[0], event_id=written.events[0].event_id)
        gate = Gate(monkeypatch, "before_commit", passage=4)  # the batch, the first alone, the bad one alone
        told = asyncio.create_task(answers(log, [good[0], replace(good[1], events=[new]), good[2]]))
        await gate.reached.wait()
        later = asyncio.create_task(answers(log, [appends.of(stream())]))
        await asyncio.sleep(0.01)
    async with asyncio.timeout(WAIT_S):
        assert [type(each) for each in await told] == [Appended, ValueError, OutcomeUnknown]
        assert [type(each) for each in await later] == [LogUnavailable]
    with pytest.raises(LogUnavailable):
        await log.append(appends.of(stream()))
    assert await positions(owner) == [1, 2]


async def test_closing_answers_who_waits_first(log_url: str, owner: Connection, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        told = [asyncio.create_task(log.append(appends.of(stream()))) for _ in range(1_000)]
        await asyncio.sleep(0)
    assert {type(each) for each in await asyncio.gather(*told)} == {Appended}
    assert await positions(owner) == list(range(1, 1_001))


async def test_what_a_caller_is_told_is_what_a_reader_finds(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log, LogReader.open(log_url) as reader:
        verdict = await log.append(appends.of(stream(), stream()))
        assert isinstance(verdict, Appended)
        assert tuple(reader.decode(event) for event in await reader.read(0)) == verdict.events


async def test_a_lock_that_is_not_given_back_is_no_unknown_outcome(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        assert log._session is not None
        await log._session._connection.execute("set lock_timeout = '50ms'")
        await owner.execute(LOCK)
        with pytest.raises(LogUnavailable, match="lock timeout"):
            await log.append(appends.of(stream()))
        await owner.execute(UNLOCK)
    assert await positions(owner) == []


async def test_time_goes_on_where_the_clock_goes_back(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        await log.append(appends.of(stream()))
        ahead = await owner.execute(
            "update log.events set recorded_at = recorded_at + interval '1 hour' returning recorded_at"
        )
        [(last,)] = await ahead.fetchall()
        verdict = await log.append(appends.of(stream(), stream()))
        assert isinstance(verdict, Appended)
        assert {event.recorded_at for event in verdict.events} == {last + timedelta(microseconds=1)}


async def test_no_connection_no_log(log_url: str) -> None:
    async with wire_to(log_url) as (wire, url):
        await wire.down()
        with pytest.raises(LogUnavailable):
            async with PostgresLog.open(url):
                pytest.fail("it has no connection")


async def test_nobody_to_wake_the_readers_is_no_concern_of_writers(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        await log.append(appends.of(stream()))
        notifying = "pg_stat_activity where query like '%pg_notify%' and pid <> pg_backend_pid()"
        await until(owner, f"exists (select from {notifying})")
        await owner.execute(f"select pg_terminate_backend(pid) from {notifying}")
        told = await answers(log, [appends.of(stream()) for _ in range(10)])
        assert {type(each) for each in told} == {Appended}


async def test_a_wrong_lane_is_refused_by_the_database(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        assert log._session is not None
        log._session.lanes = 7
        told = await answers(log, [appends.of(f"location-{n}") for n in range(8)])
        assert ValueError in {type(each) for each in told}


async def test_a_role_that_only_reads_opens_no_log_for_writing(log_url: str) -> None:
    with pytest.raises(LogUnavailable, match="permission denied"):
        async with PostgresLog.open(log_url, "tallybook_reader"):
            pytest.fail("readers do not write")
