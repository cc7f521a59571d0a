"""A connection that breaks while it commits: what was committed is found, what was not is sent again."""

import asyncio
import time
from typing import Final

import pytest
from log_tools import (
    LOCK,
    UNLOCK,
    WAIT_S,
    Appends,
    answers,
    counted,
    cut_who_waits,
    positions,
    queued,
    sent,
    stream,
    tip,
    told,
    until,
    until_one_waits,
)
from wire import wire_to

from commands.ports import Appended, Conflict, Duplicate, LogUnavailable, OutcomeUnknown
from domain.envelope import NOTHING
from runtime.log import writer
from runtime.log.batch import Encoded
from runtime.log.postgres import POOL_SIZE, PostgresLog
from runtime.log.reading import LogReader
from runtime.postgres import Connection

pytestmark = pytest.mark.anyio

OF_AN_APPEND: Final = b"Lager"
"""Stands in every event, and in nothing else that a writer sends."""
IDLE: Final = "pg_stat_activity where application_name = 'tallybook_writer' and datname = current_database()"


async def open_session(log: PostgresLog, *, broken: bool) -> None:
    async with asyncio.timeout(WAIT_S):
        while log._writer._session is None or log._writer._session.broken != broken:
            await asyncio.sleep(0.01)


async def test_what_was_cut_before_it_was_committed_is_sent_again(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    unknown, settled = counted("unknown"), counted("settled")
    append = appends.of(stream(), digest=appends.digest())
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        waiting = await sent(log, append, flying=1)
        await cut_who_waits(owner)
        await owner.execute(UNLOCK)
        [verdict] = await told(waiting)
        assert isinstance(verdict, Appended)
        assert list(verdict.events) == list(await log.read_positions(1, 10))
        assert await log.append(append) == Duplicate(1, 1)
    assert await positions(owner) == [1]
    assert (counted("unknown") - unknown, counted("settled") - settled) == (1, 0)


async def test_what_was_committed_before_the_answer_was_lost_is_found(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    unknown, settled = counted("unknown"), counted("settled")
    name = stream()
    batch = [appends.of(name, stream(), name, digest=appends.digest()) for _ in range(2)]
    batch[1] = batch[1]._replace(tips=dict.fromkeys(batch[1].tips, NOTHING))  # a conflict
    batch += [appends.of(stream(), stream(), digest=appends.digest()) for _ in range(4)]
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        wire.deaf = True
        waiting = await queued(log, *batch)
        await until(owner, "(select count(*) from log.events) = 11")
        wire.deaf = False
        wire.cut()
        first, conflict, *others = await told(waiting)
        assert conflict == Conflict()
        found = [verdict.events for verdict in [first, *others] if isinstance(verdict, Appended)]
        assert [len(events) for events in found] == [3, 2, 2, 2, 2]
        assert [type(each) for each in await answers(log, batch)] == [Duplicate, Conflict, *[Duplicate] * 4]
        async with LogReader.open(log_url) as reader:
            stored = [reader.decode(event) for event in await reader.read(0)]
    assert [event for events in found for event in events] == stored
    assert await positions(owner) == list(range(1, 12))
    assert (counted("unknown") - unknown, counted("settled") - settled) == (6, 5)


async def test_both_batches_in_flight_are_settled_in_their_order(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    chain = appends.chain(stream(), 5)
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        waiting = [await sent(log, chain[0], flying=1), await sent(log, chain[1], chain[2], flying=2)]
        waiting.append(await queued(log, *chain[3:]))
        await cut_who_waits(owner)
        await owner.execute(UNLOCK)
        verdicts = await told(*waiting)
    assert [type(verdict) for verdict in verdicts] == [Appended] * 5
    assert await positions(owner) == [1, 2, 3, 4, 5]


async def test_the_first_batch_was_committed_and_the_second_never_arrived(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    settled = counted("settled")
    chain = appends.chain(stream(), 5)
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        await owner.execute(LOCK)
        waiting = [await sent(log, chain[0], flying=1)]
        await until_one_waits(owner)
        wire.fatal = (OF_AN_APPEND, 1)
        waiting += [await sent(log, chain[1], chain[2], flying=2), await queued(log, *chain[3:])]
        # The backend has not noticed, and comes before the new generation, which waits for the lock too.
        await until(owner, "(select count(*) from pg_locks where locktype = 'advisory' and not granted) = 2")
        await owner.execute(UNLOCK)
        verdicts = await told(*waiting)
    assert [type(verdict) for verdict in verdicts] == [Appended] * 5
    assert await positions(owner) == [1, 2, 3, 4, 5]
    assert counted("settled") - settled == 1


async def test_a_refusal_is_sent_again_and_holds_only_if_its_tips_still_do(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log, PostgresLog.open(log_url) as other:
        still, stale = stream(), stream()
        await answers(other, [appends.of(still)])
        [seen] = (await other.read_streams({still: 0}))[still]
        refusals = [appends.of(tips={still: tip(seen)}), appends.of(tips={stale: NOTHING})]
        await owner.execute(LOCK)
        theirs = await sent(other, appends.of(stale), flying=1)
        await until_one_waits(owner)
        waiting = await sent(log, *refusals, flying=1)
        await until(owner, "(select count(*) from pg_locks where locktype = 'advisory' and not granted) = 2")
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_locks where not granted order by waitstart desc limit 1"
        )
        await owner.execute(UNLOCK)
        assert await told(waiting) == [Appended(()), Conflict()]
        assert [type(each) for each in await told(theirs)] == [Appended]
    assert await positions(owner) == [1, 2]


async def test_a_repeat_that_is_cut_is_still_a_repeat(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    digest, name = appends.digest(), stream()
    async with PostgresLog.open(log_url) as log:
        await answers(log, [appends.of(stream()), appends.of(name, name, digest=digest)])
        repeats = [appends.of(stream(), digest=digest), appends.of(tips={name: NOTHING}, digest=digest)]
        await owner.execute(LOCK)
        waiting = [await sent(log, repeats[0], flying=1), await sent(log, repeats[1], flying=2)]
        await cut_who_waits(owner)
        await owner.execute(UNLOCK)
        assert await told(*waiting) == [Duplicate(2, 2)] * 2
    assert await positions(owner) == [1, 2, 3]


@pytest.mark.parametrize("more", [0, 1], ids=["alone", "with another"])
async def test_an_id_that_the_log_had_already_is_no_proof_of_a_commit(
    log_url: str, owner: Connection, appends: Appends, more: int
) -> None:
    async with PostgresLog.open(log_url) as log:
        [written] = await answers(log, [appends.of(stream())])
        assert isinstance(written, Appended)
        new = appends.of(stream(), *(stream() for _ in range(more)))
        used = new._replace(
            events=[new.events[0]._replace(event_id=written.events[0].event_id), *new.events[1:]]
        )
        await owner.execute(LOCK)
        waiting = [await sent(log, used, flying=1), await sent(log, appends.of(stream()), flying=2)]
        await cut_who_waits(owner)
        await owner.execute(UNLOCK)
        began = time.monotonic()
        verdicts = [type(verdict) for verdict in await told(*waiting)]
        assert verdicts == [ValueError, Appended]
        assert time.monotonic() - began < writer.AWAY_S / 2
    assert await positions(owner) == [1, 2]


async def test_while_the_log_is_away_for_a_moment_nobody_is_told_anything_but_a_verdict(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    taken = stream()
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        await owner.execute(LOCK)
        waiting = [
            await sent(log, appends.of(stream()), flying=1),
            await sent(log, appends.of(stream()), appends.of(taken), flying=2),
        ]
        await until_one_waits(owner)
        await wire.down()
        waiting.append(await queued(log, *(appends.of(stream()) for _ in range(2_000))))
        await owner.execute(UNLOCK)
        await until(owner, "(select count(*) from log.events) = 3")
        assert not await log.ready()
        waiting.append(await queued(log, appends.of(taken)))
        await asyncio.sleep(0.5)
        assert not any(each.done() for each in waiting)
        await wire.up()
        verdicts = await told(*waiting)
    assert [type(verdict) for verdict in verdicts] == [*[Appended] * 2_003, Conflict]
    assert await positions(owner) == list(range(1, 2_004))


async def test_when_the_log_stays_away_everybody_is_told_what_is_known(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "AWAY_S", 0.3)
    flying = [appends.of(stream(), digest=appends.digest()) for _ in range(2)]
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        await owner.execute(LOCK)
        waiting = [await sent(log, flying[0], flying=1), await sent(log, flying[1], flying=2)]
        await until_one_waits(owner)
        waiting.append(await queued(log, *(appends.of(stream()) for _ in range(100))))
        await wire.down()
        async with asyncio.timeout(WAIT_S / 2):
            kinds = [[type(verdict) for verdict in await told(each)] for each in waiting]
            assert kinds == [[OutcomeUnknown], [OutcomeUnknown], [LogUnavailable] * 100]
            began = time.monotonic()
            later = await answers(log, [appends.of(stream()) for _ in range(100)])
        assert {type(verdict) for verdict in later} == {LogUnavailable}
        assert time.monotonic() - began < writer.LONGEST_PAUSE_S + 1
        assert not await log.ready()
        await owner.execute(UNLOCK)  # the server had both, and commits them
        await until(owner, "(select count(*) from log.events) = 2")
        await wire.up()
        await open_session(log, broken=False)
        assert await log.ready()
        assert await answers(log, flying) == [Duplicate(1, 1), Duplicate(2, 1)]
        [last] = await answers(log, [appends.of(stream())])
        assert isinstance(last, Appended)
    assert await positions(owner) == [1, 2, 3]


async def test_nobody_sends_an_append_more_often_than_that(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with wire_to(log_url) as (wire, url), PostgresLog.open(url) as log:
        wire.fatal = (OF_AN_APPEND, writer.MAX_SENT - 1)
        [verdict] = await answers(log, [appends.of(stream())])
        assert isinstance(verdict, Appended)
        wire.fatal = (OF_AN_APPEND, 100)
        waiting = await queued(log, appends.of(stream()))
        [failure] = await told(waiting)
        assert isinstance(failure, LogUnavailable)
        assert wire.fatal[1] == 100 - writer.MAX_SENT
        wire.fatal = (OF_AN_APPEND, 0)
        [verdict] = await answers(log, [appends.of(stream())])
        assert isinstance(verdict, Appended)
    assert await positions(owner) == [1, 2]


async def test_closing_tells_the_unsettled_that_nobody_knows(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    async with wire_to(log_url) as (wire, url):
        async with PostgresLog.open(url) as log:
            await owner.execute(LOCK)
            first = await sent(log, appends.of(stream()), flying=1)
            second = await sent(log, appends.of(stream()), flying=2)
            third = await queued(log, appends.of(stream()))
            await wire.down()
            async with asyncio.timeout(WAIT_S):
                while len(log._writer._unsettled) < 2:
                    await asyncio.sleep(0.01)
        kinds = [type(verdict) for verdict in await told(first, second, third)]
    assert kinds == [OutcomeUnknown, OutcomeUnknown, LogUnavailable]
    await owner.execute(UNLOCK)


async def test_a_connection_that_breaks_while_it_rests_is_replaced_without_an_unknown_outcome(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    unknown = counted("unknown")
    async with PostgresLog.open(log_url) as log:
        for round_ in range(3):
            await answers(log, [appends.of(stream())])
            await owner.execute(f"select pg_terminate_backend(pid) from {IDLE}".encode())
            await open_session(log, broken=True)
            [verdict] = await answers(log, [appends.of(stream())])
            assert isinstance(verdict, Appended)
            assert verdict.events[0].position == 2 * round_ + 2
    assert counted("unknown") == unknown


async def test_a_connection_that_breaks_just_before_it_is_used_costs_no_answer(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        cuts = 0
        for _ in range(5):
            cutting = asyncio.create_task(
                owner.execute(f"select pg_terminate_backend(pid) from {IDLE}".encode())
            )
            verdicts = await answers(log, [appends.of(stream()) for _ in range(20)])
            assert {type(verdict) for verdict in verdicts} == {Appended}
            cuts += (await cutting).rowcount
    assert cuts
    assert await positions(owner) == list(range(1, 101))


async def test_when_every_connection_breaks_nobody_waits_for_those_that_read(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        async with asyncio.timeout(WAIT_S):
            while (await (await owner.execute(f"select from {IDLE}".encode())).fetchall())[
                POOL_SIZE + 1 :
            ] == []:
                await asyncio.gather(*(log.read_positions(1, 10) for _ in range(40)))
        await owner.execute(LOCK)
        waiting = await sent(log, appends.of(stream()), flying=1)
        await until_one_waits(owner)
        found = await owner.execute(f"select array_agg(pid)::text from {IDLE}".encode())
        [(pids,)] = await found.fetchall()
        await owner.execute(
            f"select pg_terminate_backend(pid) from unnest('{pids}'::int[]) as u (pid)".encode()
        )
        await until(owner, f"not exists (select from pg_stat_activity where pid = any ('{pids}'))")
        await owner.execute(UNLOCK)
        began = time.monotonic()
        [verdict] = await told(waiting)
        assert isinstance(verdict, Appended)
        assert list(await log.read_positions(1, 10)) == list(verdict.events)
        assert time.monotonic() - began < 0.8


def test_every_append_says_what_fatal_wires_look_for(appends: Appends) -> None:
    assert OF_AN_APPEND in Encoded.of(appends.of(stream())).data[0]
