"""What only the log in PostgreSQL has to do: share calls, and be alone of its generation."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from log_tools import (
    LOCK,
    UNLOCK,
    WAIT_S,
    Appends,
    answers,
    positions,
    stream,
    until,
    until_one_waits,
)
from wire import wire_to

from commands.ports import Appended, LogUnavailable
from runtime.log.postgres import ROLE, PostgresLog
from runtime.log.reading import LogReader
from runtime.log.session import Session
from runtime.migrate import migrate
from runtime.postgres import TIME_OUTS, Connection, connect

pytestmark = pytest.mark.anyio


async def test_callers_at_the_same_time_share_calls(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        await answers(log, [appends.of(stream()) for _ in range(100)])
    found = await owner.execute("select count(*) from log.events group by recorded_at order by recorded_at")
    assert await found.fetchall() == [(50,), (50,)]  # two batches in flight


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


async def _end_generation(owner: Connection) -> None:
    await owner.execute("update log.writers set generation = generation + 1")


async def test_a_generation_that_is_over_writes_nothing_more(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        [(name,)] = await (await owner.execute("select writer::text from log.writers")).fetchall()
        usurper = await Session.begin(log_url, ROLE, name)
        with pytest.raises(LogUnavailable, match="another generation"):
            await log.append(appends.of(stream()))
        assert await positions(owner) == []
        await usurper.close()
        assert isinstance(await log.append(appends.of(stream())), Appended)


async def test_a_generation_begins_after_what_was_under_way(log_url: str, owner: Connection) -> None:
    await owner.execute(LOCK)
    beginning = asyncio.create_task(Session.begin(log_url, ROLE, str(uuid4())))
    await until_one_waits(owner)
    assert not beginning.done()
    await owner.execute(UNLOCK)
    await (await beginning).close()


async def test_a_writer_that_is_cut_off_begins_again_by_itself(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        [(before,)] = await (await owner.execute("select generation from log.writers")).fetchall()
        await _end_generation(owner)
        with pytest.raises(LogUnavailable):
            await log.append(appends.of(stream()))
        await until(owner, f"(select generation from log.writers) = {before + 2}")
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
        await _end_generation(owner)
        with pytest.raises(LogUnavailable):
            await log.append(appends.of(stream()))
        assert isinstance(await log.append(appends.of(stream())), Appended)
        assert log.incarnation == after


async def test_what_a_caller_is_told_is_what_a_reader_finds(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log, LogReader.open(log_url) as reader:
        names = [stream() for _ in range(3)]
        batch = [
            appends.of(names[0], names[1], names[0]),
            appends.of(names[0]),  # a conflict, between two that are not
            appends.of(),
            appends.of(names[2]),
        ]
        told = await answers(log, batch)
        assert [type(verdict).__name__ for verdict in told] == [
            "Appended",
            "Conflict",
            "Appended",
            "Appended",
        ]
        events = tuple(event for verdict in told if isinstance(verdict, Appended) for event in verdict.events)
        assert tuple(reader.decode(event) for event in await reader.read(0)) == events


@pytest.mark.heavy
async def test_a_lock_that_is_not_given_back_is_no_unknown_outcome(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TIME_OUTS, "lock_timeout", "50ms")
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        with pytest.raises(LogUnavailable, match="lock timeout"):
            await log.append(appends.of(stream()))
        await owner.execute(UNLOCK)
        assert await positions(owner) == []
        assert isinstance(await log.append(appends.of(stream())), Appended)


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
        assert log._writer._session is not None
        log._writer._session.lanes = 7
        told = await answers(log, [appends.of(f"location-{n}") for n in range(8)])
        assert ValueError in {type(each) for each in told}


async def test_a_role_that_only_reads_opens_no_log_for_writing(log_url: str) -> None:
    with pytest.raises(LogUnavailable, match="permission denied"):
        async with PostgresLog.open(log_url, "tallybook_reader"):
            pytest.fail("readers do not write")
