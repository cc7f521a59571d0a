"""The writer while its connection holds: two batches in flight, faulty ones, a full queue, closing."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from log_tools import (
    LOCK,
    UNLOCK,
    WAIT_S,
    Appends,
    Gate,
    answers,
    cut_who_waits,
    positions,
    queued,
    sent,
    stream,
    tip,
    until_one_waits,
)

from commands.ports import Append, Appended, Conflict, LogFull, LogUnavailable, OutcomeUnknown
from domain.envelope import Recorded, Tip
from runtime.log import queue, writer
from runtime.log.batch import Encoded
from runtime.log.postgres import PostgresLog
from runtime.postgres import Connection

pytestmark = pytest.mark.anyio

MANY_STREAMS, MANY_EVENTS = 60, 50


def kinds(told: list[Any]) -> list[type]:
    return [type(each) for each in told]


def calls() -> float:
    [metric] = writer.BATCHES.collect()
    return sum(sample.value for sample in metric.samples if sample.name.endswith("_count"))


def with_id_of(append: Append, event: Recorded) -> Append:
    """No log takes it: the id is another event's."""
    return append._replace(events=[append.events[0]._replace(event_id=event.event_id)])


async def test_a_second_batch_is_sent_while_the_first_is_in_flight(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        first = await sent(log, appends.of(stream()), flying=1)
        second = await sent(log, appends.of(stream()), flying=2)
        third = await queued(log, *(appends.of(stream()) for _ in range(3)))
        assert len(log._writer._flying) == writer.IN_FLIGHT
        assert len(log._writer._queue) == 3
        await owner.execute(UNLOCK)
        told = [verdict for each in (first, second, third) for verdict in await each]
    assert [verdict.events[0].position for verdict in told if isinstance(verdict, Appended)] == [
        1,
        2,
        3,
        4,
        5,
    ]


async def test_while_another_process_writes_everything_that_waits_goes_in_one_batch(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log, PostgresLog.open(log_url) as other:
        for each in (log, other, log):
            await each.append(appends.of(stream()))
        await owner.execute(LOCK)
        others = await sent(other, appends.of(stream()), flying=1)
        await until_one_waits(owner)
        first = await sent(log, appends.of(stream()), flying=1)
        behind = await queued(
            log, *(appends.of(stream()) for _ in range(writer.IN_FLIGHT * queue.WORTH_HALVING))
        )
        assert len(log._writer._flying) == 1
        before = calls()
        await owner.execute(UNLOCK)
        told = [verdict for each in (others, first, behind) for verdict in await each]
        assert set(kinds(told)) == {Appended}
        assert calls() - before == 3

        await owner.execute(LOCK)
        again = [await sent(log, appends.of(stream()), flying=number) for number in (1, 2)]
        await owner.execute(UNLOCK)
        assert {kind for each in again for kind in kinds(await each)} == {Appended}


async def test_thousands_of_appends_at_once_keep_the_order_of_their_streams(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    chains = [appends.chain(stream(), MANY_EVENTS) for _ in range(MANY_STREAMS)]
    in_turn = [append for generation in zip(*chains, strict=True) for append in generation]
    async with PostgresLog.open(log_url) as log:
        told = await answers(log, in_turn)
        assert set(kinds(told)) == {Appended}
        read = await log.read_streams({chain[0].events[0].stream: 0 for chain in chains})
    assert [verdict.events[0].position for verdict in told if isinstance(verdict, Appended)] == list(
        range(1, len(in_turn) + 1)
    )
    for chain in chains:
        written = read[chain[0].events[0].stream]
        assert [event.event_id for event in written] == [append.events[0].event_id for append in chain]
    assert await positions(owner) == list(range(1, len(in_turn) + 1))


async def test_a_batch_larger_than_what_a_socket_takes_at_once(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    names = [[stream() for _ in range(400)] for _ in range(3)]
    large = [
        append._replace(
            events=[
                new._replace(event=replace(new.event, name="x" * 25_000))  # type: ignore[type-var] # a location
                for new in append.events
            ],
        )
        for append in (appends.of(*of_append) for of_append in names)
    ]
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        batches = [await sent(log, large[0], flying=1), await sent(log, large[1], flying=2)]
        assert log._writer._session is not None
        assert log._writer._session._pipeline._writing
        batches.append(await queued(log, large[2]))
        await owner.execute(UNLOCK)
        async with asyncio.timeout(WAIT_S):
            assert kinds([verdict for told in batches for verdict in await told]) == [Appended] * 3
        read = await log.read_positions(801, 400)
    assert [event.event for event in read] == [new.event for new in large[2].events]
    assert await positions(owner) == list(range(1, 1_201))


async def test_a_faulty_batch_does_not_hurt_the_one_behind_it(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        [written] = await answers(log, [appends.of(stream())])
        assert isinstance(written, Appended)
        bad = with_id_of(appends.of(stream()), written.events[0])
        await owner.execute(LOCK)
        first = await sent(log, bad, flying=1)
        second = await sent(log, appends.of(stream()), appends.of(stream()), flying=2)
        await owner.execute(UNLOCK)
        assert kinds(await first) == [ValueError]
        told = await second
    assert [verdict.events[0].position for verdict in told if isinstance(verdict, Appended)] == [2, 3]
    assert await positions(owner) == [1, 2, 3]


async def test_what_builds_on_a_failed_append_conflicts(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        names = [stream() for _ in range(3)]
        [written] = await answers(log, [appends.of(stream())])
        assert isinstance(written, Appended)
        bad = with_id_of(appends.of(names[0]), written.events[0])
        good = appends.of(names[1])
        on_bad = appends.of(names[2], tips={names[0]: Tip(1, bad.events[0].event_id)})
        on_good = appends.of(names[1], tips={names[1]: Tip(1, good.events[0].event_id)})
        await owner.execute(LOCK)
        first = await sent(log, good, bad, flying=1)
        second = await sent(log, on_bad, on_good, flying=2)
        third = await queued(log, on_good)
        await owner.execute(UNLOCK)
        # The good one is tried again without the bad one, and after those behind it.
        assert kinds(await first) == [Appended, ValueError]
        assert await second == [Conflict(), Conflict()]
        assert kinds(await third) == [Appended]
    assert await positions(owner) == [1, 2, 3]


async def test_an_append_that_cannot_even_be_packed_hurts_nobody_else(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        good = [appends.of(stream()) for _ in range(4)]
        new = appends.of(stream())
        bad = new._replace(events=[new.events[0]._replace(event_id="none")])
        told = [log._writer.put(Encoded.of(append)).verdict for append in [*good[:2], bad, *good[2:]]]
        assert kinds(await asyncio.gather(*told, return_exceptions=True)) == [
            *[Appended] * 2,
            ValueError,
            *[Appended] * 2,
        ]


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


async def test_a_caller_that_goes_away_takes_nobodys_answer(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    async with PostgresLog.open(log_url) as log:
        names = [stream() for _ in range(5)]
        await owner.execute(LOCK)
        first = [asyncio.create_task(log.append(appends.of(name))) for name in names[:3]]
        await asyncio.sleep(0.01)
        first[1].cancel()
        await asyncio.wait({first[1]})
        second = [asyncio.create_task(log.append(appends.of(name))) for name in names[3:]]
        await asyncio.sleep(0.01)
        second[0].cancel()
        await owner.execute(UNLOCK)
        told = await asyncio.gather(*first, *second, return_exceptions=True)
        assert kinds(told) == [Appended, asyncio.CancelledError, Appended, asyncio.CancelledError, Appended]
        read = await log.read_positions(1, 10)
    for verdict in told:
        if isinstance(verdict, Appended):
            assert list(verdict.events) == [read[verdict.events[0].position - 1]]
    assert [event.stream for event in read] == names  # once it is queued, an append is not taken back


async def test_callers_that_went_away_are_settled_too(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    names = [stream() for _ in range(3)]
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        callers = [asyncio.create_task(log.append(appends.of(name))) for name in names]
        await until_one_waits(owner)
        callers[1].cancel()
        await cut_who_waits(owner)
        await owner.execute(UNLOCK)
        verdicts = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(each) for each in verdicts] == [Appended, asyncio.CancelledError, Appended]
        assert [event.stream for event in await log.read_positions(1, 10)] == names


async def test_closing_answers_who_waits_first(log_url: str, owner: Connection, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        told = [asyncio.create_task(log.append(appends.of(stream()))) for _ in range(1_000)]
        await asyncio.sleep(0)
    assert {type(each) for each in await asyncio.gather(*told)} == {Appended}
    assert await positions(owner) == list(range(1, 1_001))


async def test_closing_tells_those_in_flight_that_nobody_knows_and_the_others_that_nothing_was_done(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    async with PostgresLog.open(log_url) as log:
        await owner.execute(LOCK)
        first = await sent(log, appends.of(stream()), flying=1)
        second = await sent(log, appends.of(stream()), appends.of(stream()), flying=2)
        third = await queued(log, *(appends.of(stream()) for _ in range(3)))
    async with asyncio.timeout(WAIT_S):
        assert kinds(await first) == [OutcomeUnknown]
        assert kinds(await second) == [OutcomeUnknown] * 2
        assert kinds(await third) == [LogUnavailable] * 3
        with pytest.raises(LogUnavailable, match=writer.STOPPING):
            await log.append(appends.of(stream()))
    await owner.execute(UNLOCK)


async def test_a_log_that_closes_while_it_tries_one_by_one_answers_everybody(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    async with PostgresLog.open(log_url) as log:
        [written] = await answers(log, [appends.of(stream())])
        assert isinstance(written, Appended)
        good = [appends.of(stream()) for _ in range(3)]
        bad = with_id_of(good[1], written.events[0])
        gate = Gate(monkeypatch, "before_commit", passage=4)  # the batch, the first alone, the bad one alone
        told = await queued(log, good[0], bad, good[2])
        await gate.reached.wait()
        later = await queued(log, appends.of(stream()))
    async with asyncio.timeout(WAIT_S):
        assert kinds(await told) == [Appended, ValueError, LogUnavailable]
        assert kinds(await later) == [LogUnavailable]
    with pytest.raises(LogUnavailable):
        await log.append(appends.of(stream()))
    assert await positions(owner) == [1, 2]


async def test_a_log_that_closes_before_it_has_answered_tells_that_nobody_knows(
    log_url: str, owner: Connection, appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    gate = Gate(monkeypatch, "after_commit_before_answer")
    async with PostgresLog.open(log_url) as log:
        told = await queued(log, appends.of(stream()))
        await gate.reached.wait()
    async with asyncio.timeout(WAIT_S):
        assert kinds(await told) == [OutcomeUnknown]
    assert await positions(owner) == [1]


async def test_what_an_append_was_told_is_enough_to_build_on(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        name = stream()
        [verdict] = await answers(log, [appends.of(name)])
        for _ in range(5):
            assert isinstance(verdict, Appended)
            [verdict] = await answers(log, [appends.of(name, name, tips={name: tip(verdict.events[-1])})])
        assert isinstance(verdict, Appended)
        assert [event.version for event in verdict.events] == [10, 11]
