"""What every log does, whatever it is made of."""

import asyncio
from dataclasses import replace

import pytest
from log_tools import T0, Appends, stream, tip

from commands.ports import Appended, Conflict, Duplicate, Log, Mismatch
from domain.envelope import NO_EVENT, NOTHING, Recorded, Tip
from domain.location import LocationRegistered

pytestmark = pytest.mark.anyio


async def appended(log: Log, appends: Appends, *streams: str, **more: object) -> tuple[Recorded, ...]:
    verdict = await log.append(appends.of(*streams, **more))  # type: ignore[arg-type] # passed on
    assert isinstance(verdict, Appended), verdict
    return verdict.events


async def test_positions_count_from_one_without_a_hole(log: Log, appends: Appends) -> None:
    names = [stream() for _ in range(20)]
    verdicts = await asyncio.gather(*(log.append(appends.of(name)) for name in names))
    positions = [event.position for verdict in verdicts for event in verdict.events]  # type: ignore[union-attr] # all appended
    assert sorted(positions) == list(range(1, 21))
    events = await log.read_positions(1, 100)
    assert [event.position for event in events] == list(range(1, 21))


async def test_what_is_read_is_what_was_appended(log: Log, appends: Appends) -> None:
    one, two = stream(), stream()
    append = appends.of(one, two, one)
    verdict = await log.append(append)
    assert isinstance(verdict, Appended)
    assert [(event.stream, event.version) for event in verdict.events] == [(one, 1), (two, 1), (one, 2)]
    assert [event.event for event in verdict.events] == [new.event for new in append.events]
    assert {event.metadata for event in verdict.events} == {append.metadata}
    assert {event.context for event in verdict.events} == {"inventory"}
    assert tuple(await log.read_positions(1, 3)) == verdict.events
    read = await log.read_streams({one: 0, two: 1})
    assert list(read.get(one, ())) == [verdict.events[0], verdict.events[2]]
    assert not read.get(two)


async def test_a_stream_that_must_not_exist_conflicts_once_it_does(log: Log, appends: Appends) -> None:
    name = stream()
    await appended(log, appends, name)
    assert await log.append(appends.of(name)) == Conflict()


async def test_a_tip_names_the_event_and_not_only_the_version(log: Log, appends: Appends) -> None:
    name = stream()
    await appended(log, appends, name)
    wrong = Tip(1, appends.ids.new())
    assert await log.append(appends.of(name, tips={name: wrong})) == Conflict()


async def test_nothing_may_follow_a_tip(log: Log, appends: Appends) -> None:
    name = stream()
    [first] = await appended(log, appends, name)
    await appended(log, appends, name, tips={name: tip(first)})
    assert await log.append(appends.of(name, tips={name: tip(first)})) == Conflict()


async def test_a_tip_ahead_of_its_stream_conflicts(log: Log, appends: Appends) -> None:
    name = stream()
    [first] = await appended(log, appends, name)
    assert await log.append(appends.of(name, tips={name: Tip(2, first.event_id)})) == Conflict()
    assert await log.append(appends.of(stream(), tips={stream(): Tip(1, NO_EVENT)})) == Conflict()


async def test_a_stream_that_is_only_read_is_checked_too(log: Log, appends: Appends) -> None:
    read, written = stream("R"), stream("W")
    [seen] = await appended(log, appends, read)
    [later] = await appended(log, appends, read, tips={read: tip(seen)})
    assert await log.append(appends.of(written, tips={read: tip(seen)})) == Conflict()
    await appended(log, appends, written, tips={read: tip(later)})


async def test_an_append_that_fails_on_one_stream_writes_to_none_and_spares_the_others(
    log: Log, appends: Appends
) -> None:
    taken = stream("T")
    await appended(log, appends, taken)
    names = [stream() for _ in range(6)]
    batch = [appends.of(names[0], taken), *(appends.of(name) for name in names[1:]), appends.of(names[0])]
    verdicts = await asyncio.gather(*(log.append(append) for append in batch))
    assert verdicts[0] == Conflict()
    assert all(isinstance(verdict, Appended) for verdict in verdicts[1:])
    assert [event.position for event in await log.read_positions(1, 100)] == list(range(1, 8))


async def test_a_batch_of_conflicts_answers_every_caller(log: Log, appends: Appends) -> None:
    taken = stream()
    await appended(log, appends, taken)
    verdicts = await asyncio.gather(*(log.append(appends.of(taken)) for _ in range(10)))
    assert verdicts == [Conflict()] * 10


async def test_of_many_first_events_of_one_stream_one_is_written(log: Log, appends: Appends) -> None:
    name = stream()
    verdicts = await asyncio.gather(*(log.append(appends.of(name)) for _ in range(20)))
    assert sum(isinstance(verdict, Appended) for verdict in verdicts) == 1
    assert len((await log.read_streams({name: 0}))[name]) == 1


async def test_a_repeat_is_told_what_the_first_wrote(log: Log, appends: Appends) -> None:
    one, two = stream(), stream()
    append = appends.of(one, two, digest=b"1" * 16)
    first = await log.append(append)
    assert isinstance(first, Appended)
    assert await log.append(append) == Duplicate(first.events[0].position, 2)
    assert len(await log.read_positions(1, 10)) == 2


async def test_twins_at_the_same_moment_have_one_effect(log: Log, appends: Appends) -> None:
    name = stream()
    append = appends.of(name, digest=b"2" * 16)
    verdicts = await asyncio.gather(*(log.append(append) for _ in range(5)))
    assert sum(isinstance(verdict, Appended) for verdict in verdicts) == 1
    assert [verdict for verdict in verdicts if not isinstance(verdict, Appended)] == [Duplicate(1, 1)] * 4


async def test_a_repeat_that_is_stale_as_well_is_a_repeat(log: Log, appends: Appends) -> None:
    name = stream()
    await appended(log, appends, name, digest=b"3" * 16)
    others = [appends.of(stream()) for _ in range(3)]
    stale = appends.of(name, digest=b"3" * 16)
    verdicts = await asyncio.gather(*(log.append(append) for append in [*others, stale]))
    assert verdicts[-1] == Duplicate(1, 1)


async def test_a_digest_of_another_request_is_a_mismatch(log: Log, appends: Appends) -> None:
    await appended(log, appends, stream(), digest=b"4" * 16)
    other = appends.of(stream(), digest=b"4" * 16, fingerprint=b"g" * 32)
    assert await log.append(other) == Mismatch()
    assert len(await log.read_positions(1, 10)) == 1


async def test_a_refusal_whose_tips_hold_is_answered_and_binds_nothing(log: Log, appends: Appends) -> None:
    name = stream()
    [seen] = await appended(log, appends, name)
    refusal = appends.of(tips={name: tip(seen)}, digest=b"5" * 16)
    assert await log.append(refusal) == Appended(())
    assert await log.append(refusal) == Appended(())
    await appended(log, appends, stream(), digest=b"5" * 16)


async def test_a_refusal_on_stale_knowledge_conflicts(log: Log, appends: Appends) -> None:
    name = stream()
    await appended(log, appends, name)
    assert await log.append(appends.of(tips={name: NOTHING})) == Conflict()


async def test_a_refusal_that_repeats_a_success_is_a_repeat(log: Log, appends: Appends) -> None:
    name = stream()
    await appended(log, appends, name, digest=b"6" * 16)
    stale = appends.of(tips={name: NOTHING}, digest=b"6" * 16)
    assert await log.append(stale) == Duplicate(1, 1)
    assert await log.append(appends.of(digest=b"6" * 16)) == Duplicate(1, 1)
    assert await log.append(appends.of(digest=b"6" * 16, fingerprint=b"g" * 32)) == Mismatch()


async def test_refusals_and_successes_share_a_batch(log: Log, appends: Appends) -> None:
    name = stream()
    [seen] = await appended(log, appends, name)
    batch = [
        appends.of(name, tips={name: tip(seen)}, digest=b"7" * 16),
        appends.of(tips={name: tip(seen)}, digest=b"8" * 16),  # stale by now: the first has written
        appends.of(stream(), digest=b"9" * 16),
    ]
    verdicts = await asyncio.gather(*(log.append(append) for append in batch))
    assert isinstance(verdicts[0], Appended)
    assert verdicts[1] == Conflict()
    assert isinstance(verdicts[2], Appended)


async def test_recorded_times_grow_with_positions(log: Log, appends: Appends) -> None:
    for _ in range(5):
        await appended(log, appends, stream(), stream())
    events = await log.read_positions(1, 10)
    times = [event.recorded_at for event in events]
    assert times[::2] == times[1::2]
    assert sorted(set(times)) == times[::2]
    assert len(set(times)) == 5


async def test_every_stream_asked_for_is_a_key(log: Log, appends: Appends) -> None:
    known, unknown = stream(), stream()
    events = await appended(log, appends, known)
    assert await log.read_streams({known: 0, unknown: 0}) == {known: list(events), unknown: []}
    assert await log.read_streams({known: 1}) == {known: []}
    assert await log.read_streams({}) == {}


async def test_an_event_id_is_used_once(log: Log, appends: Appends) -> None:
    [event] = await appended(log, appends, stream())
    again = appends.of(stream())
    again = again._replace(events=[again.events[0]._replace(event_id=event.event_id)])
    others = [appends.of(stream()) for _ in range(3)]
    verdicts = await asyncio.gather(
        *(log.append(append) for append in [others[0], again, *others[1:]]), return_exceptions=True
    )
    assert isinstance(verdicts[1], ValueError)
    assert all(isinstance(verdict, Appended) for verdict in [verdicts[0], *verdicts[2:]])
    twice = appends.of(stream(), stream())
    twice = twice._replace(events=[new._replace(event_id=appends.ids.new()) for new in twice.events[:1]] * 2)
    with pytest.raises(ValueError, match="event"):
        await log.append(twice)
    assert [event.position for event in await log.read_positions(1, 10)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "name", ["location-a\0b", "location-\ud800", "location-" + "x" * 112, "strange-1", ""]
)
async def test_a_name_that_cannot_be_stored_hurts_only_its_caller(
    log: Log, appends: Appends, name: str
) -> None:
    good = [appends.of(stream()) for _ in range(2)]
    bad = appends.of(stream(), tips={name: NOTHING})
    verdicts = await asyncio.gather(
        *(log.append(append) for append in [good[0], bad, good[1]]), return_exceptions=True
    )
    assert isinstance(verdicts[1], ValueError)
    assert [type(verdicts[0]), type(verdicts[2])] == [Appended, Appended]


async def test_what_no_log_takes(log: Log, appends: Appends) -> None:
    name = stream()
    good = appends.of(name, digest=b"a" * 16)
    new = good.events[0]
    naive = replace(good.metadata, occurred_at=T0.replace(tzinfo=None))
    for bad in [
        good._replace(tips={name: Tip(-1, NO_EVENT)}),
        good._replace(tips={name: Tip(2**63, NO_EVENT)}),
        good._replace(tips={name: Tip(0, "nil")}),
        good._replace(tips={stream(): NOTHING}),
        good._replace(events=[new._replace(event_id=new.event_id.upper())]),
        good._replace(events=[new._replace(event=LocationRegistered("A", "a\0b", "DE"))]),
        good._replace(digest=b"a"),
        good._replace(fingerprint=None),
        good._replace(metadata=naive),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            await log.append(bad)
    assert await log.read_positions(1, 10) == []
    await appended(log, appends, name)


async def test_the_limits_of_an_append(log: Log, appends: Appends) -> None:
    names = [stream() for _ in range(1_024)]
    first = await appended(log, appends, *names[:1_000], tips=dict.fromkeys(names, NOTHING))
    assert len(first) == 1_000
    with pytest.raises(ValueError, match="1025 streams"):
        await log.append(appends.of(tips=dict.fromkeys([*names, stream()], NOTHING)))
    with pytest.raises(ValueError, match="1001 events"):
        await log.append(appends.of(*[stream()] * 1_001))


async def test_a_caller_that_goes_away_changes_nothing(log: Log, appends: Appends) -> None:
    names = [stream() for _ in range(10)]
    callers = [asyncio.create_task(log.append(appends.of(name))) for name in names]
    await asyncio.sleep(0)
    callers[3].cancel()
    verdicts = await asyncio.gather(*callers, return_exceptions=True)
    assert sum(isinstance(verdict, Appended) for verdict in verdicts) == 9
    await appended(log, appends, stream())
    written = await log.read_positions(1, 100)
    assert [event.position for event in written] == list(range(1, len(written) + 1))
    assert len(written) in {10, 11}
