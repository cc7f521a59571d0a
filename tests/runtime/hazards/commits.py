"""Hazards of commits: what a caller is told is in the log, once, whatever becomes of the connection."""

import asyncio
from typing import Final

from tests.runtime.hazards.recorders import Draft, Recorder, Told
from tests.runtime.hazards.stage import DOOMED, DROPPED, WAIT_S, Hit, Stage, insist, must_commit, words
from tests.runtime.hazards.wires import Line, Wire

NOT_THERE: Final = "success is told, and an event is not there"
TOLD_A_CONFLICT: Final = "a conflict is told for what was committed"


async def success_told_though_commit_failed(stage: Stage) -> None:
    """The caller is told before the commit, or whatever its outcome.

    A deferred constraint refuses the event when it is committed. Success must not be told, nothing be there,
    and the log take the next event.
    """
    recorder = await stage.recorder()
    doomed, next_ = words(DOOMED, "next")
    told = await recorder.append(recorder.draft({doomed: [doomed]}, {}))
    assert await insist(recorder, recorder.draft({next_: [next_]}, {})) is Told.COMMITTED
    if told is Told.COMMITTED:
        raise Hit("success is told for what was rolled back")
    if await stage.recorded() != [next_]:
        raise Hit("what failed is there")


async def success_told_for_a_dropped_event(stage: Stage) -> None:
    """The database leaves an event out without an error (a rule, a trigger, ON CONFLICT): nobody counts.

    A trigger drops the second of two events. A right recorder notices that less was inserted than it gave,
    tells no success, and leaves nothing behind.
    """
    recorder = await stage.recorder()
    kept, dropped = words("kept", DROPPED)
    told = await recorder.append(recorder.draft({kept: [kept], dropped: [dropped]}, {}))
    if told is Told.COMMITTED:
        raise Hit(NOT_THERE)
    if await stage.recorded():
        raise Hit("half of an append is recorded")


async def answer_lost(stage: Stage) -> None:
    """A retry of what was committed is taken for a conflict, or recorded twice.

    The append is committed, its answer is lost, and the connection breaks. However it is found out, by the
    recorder or by sending the same again: the caller must be told of success, and the event be there once.
    """
    wire, recorder, word, draft = await _wired(stage)
    wire.watch(*_commit_of(stage, word), then=Line.turn_deaf)
    telling = stage.start(insist(recorder, draft))
    await stage.stands(word)
    wire.watch()
    wire.caught[0].break_off()
    await _must_be_there_once(stage, await telling, word)


async def first_arrives_meanwhile(stage: Stage) -> None:
    """Between the look whether the first attempt was committed and the second attempt, the first arrives.

    The first attempt is held back on the wire and its connection breaks; the second is held back as well (or
    waits for the first one's locks). The first is let through and answered, then the second.
    """
    wire, recorder, word, draft = await _wired(stage)
    wire.watch(*_commit_of(stage, word), then=Line.hold)
    telling = stage.start(insist(recorder, draft))
    await wire.catches(1)
    first = wire.caught[0]
    first.break_off()

    async def second_is_held() -> bool:
        return len(wire.caught) > 1 or telling.done() or await stage.somebody_waits()

    await stage.until_true(second_is_held)
    wire.watch()
    await _arrives(first)
    for line in wire.caught[1:]:
        line.release()
    await _must_be_there_once(stage, await telling, word)


async def first_arrives_later(stage: Stage) -> None:
    """The first attempt is taken for lost, the second succeeds, and then the first arrives.

    As before, but the second attempt passes; the first is let through when the second has been answered (or
    is seen to wait for the first one's locks).
    """
    wire, recorder, word, draft = await _wired(stage)
    wire.watch(*_commit_of(stage, word), then=Line.hold)
    telling = stage.start(insist(recorder, draft))
    await wire.catches(1)
    wire.watch()
    first = wire.caught[0]
    first.break_off()
    await stage.done_or_waiting(telling)
    await _arrives(first)
    await _must_be_there_once(stage, await telling, word)


async def _wired(stage: Stage) -> tuple[Wire, Recorder, str, Draft]:
    """A recorder that has appended before, and a decision on what it sees."""
    wire, recorder = await stage.wired_recorder()
    name, before, word = words("stream", "before", "word")
    await must_commit(recorder, recorder.draft({name: [before]}, {}))
    return wire, recorder, word, recorder.draft({name: [word]}, await recorder.see(name))


def _commit_of(stage: Stage, word: str) -> tuple[bytes, ...]:
    if stage.contender.commits_with is not None:
        return (stage.contender.commits_with,)
    return word.encode(), word.encode().hex().encode()


async def _arrives(line: Line) -> None:
    line.release()
    async with asyncio.timeout(WAIT_S):
        await line.answered.wait()


async def _must_be_there_once(stage: Stage, told: Told, word: str) -> None:
    times = (await stage.recorded()).count(word)
    if times > 1:
        raise Hit("the event is recorded twice")
    if times == 1 and told is not Told.COMMITTED:
        raise Hit(TOLD_A_CONFLICT if told is Told.CONFLICT else "a failure is told for what was committed")
    if times == 0 and told is Told.COMMITTED:
        raise Hit(NOT_THERE)
    assert (times, told) == (1, Told.COMMITTED), "a connection came back, so it could be recorded"
