"""Hazards of decisions: what is recorded was decided on what is recorded before it, and on nothing else."""

import asyncio
from typing import Final

from tests.runtime.hazards.recorders import Draft, Seen, Told, Words
from tests.runtime.hazards.stage import DOOMED, HELD, Hit, Stage, must_commit, words

ON_WHAT_IS_GONE: Final = "a decision on state that is gone is recorded"
ON_WHAT_NEVER_WAS: Final = "an event is recorded that follows from one that never was"


async def snapshot_older_than_the_lock(stage: Stage) -> None:
    """Who waits for a lock in the statement that checks, checks what was true before it waited.

    Two processes decide on the same state. The first is held before its commit; the second waits for it, or
    does not; then the first commits. The second must be told of a conflict.
    """
    await _second_must_conflict(stage, writes_what_it_saw=True)


async def snapshot_older_where_reads_repeat(stage: Stage) -> None:
    """The same where transactions are REPEATABLE READ by default: one snapshot for all statements.

    It is a setting that any administrator may change, and lies outside the recorder's code.
    """
    database = stage.url.rpartition("/")[2]
    await stage.owner.execute(
        f"alter database {database} set default_transaction_isolation = 'repeatable read'".encode()
    )
    try:
        await _second_must_conflict(stage, writes_what_it_saw=True)
    finally:
        await stage.owner.execute(f"alter database {database} reset default_transaction_isolation".encode())


async def read_stream_moved_on(stage: Stage) -> None:
    """Write skew: a decision reads one stream and writes another, and only what it writes is checked.

    As before, but the second process only reads the stream that the first one writes.
    """
    await _second_must_conflict(stage, writes_what_it_saw=False)


async def _second_must_conflict(stage: Stage, *, writes_what_it_saw: bool) -> None:
    a, b = await stage.recorder(), await stage.recorder()
    name, other, before, slow, late = words("stream", "other", "before", HELD, "late")
    await must_commit(a, a.draft({name: [before], other: [before]}, {}))
    by_a: Seen = await a.see(name)
    by_b: Seen = await b.see(name, other)
    await stage.shut_gate()
    first = stage.start(a.append(a.draft({name: [slow]}, by_a)))
    await stage.at_gate()
    writes: Words = {name if writes_what_it_saw else other: [late]}
    second = stage.start(b.append(b.draft(writes, by_b)))
    await stage.done_or_waiting(second)
    await stage.open_gate()
    assert await first is Told.COMMITTED
    told = await second
    if told is Told.COMMITTED or late in await stage.recorded():
        raise Hit(ON_WHAT_IS_GONE)
    if told is not Told.CONFLICT:
        raise Hit("the loser is told an error that is none of its making")


async def refusal_on_stale_state(stage: Stage) -> None:
    """A customer is told "out of stock" after the delivery was recorded.

    A refusal is decided on a state while another process's event is about to be committed. It must not be
    told before it is checked that nothing followed.
    """
    a, b = await stage.recorder(), await stage.recorder()
    name, before, slow = words("stream", "before", HELD)
    await must_commit(a, a.draft({name: [before]}, {}))
    seen = await b.see(name)
    await stage.shut_gate()
    first = stage.start(a.append(a.draft({name: [slow]}, seen)))
    await stage.at_gate()
    refusal = stage.start(b.append(b.draft({}, seen)))
    await stage.done_or_waiting(refusal)
    await stage.open_gate()
    assert await first is Told.COMMITTED
    if await refusal is not Told.CONFLICT:
        raise Hit("a refusal is told on a state that is gone")
    assert await b.append(b.draft({}, await b.see(name))) is Told.COMMITTED


async def version_decided_on_a_lost_one(stage: Stage) -> None:
    """An event is recorded that follows from one that never was.

    A process decides twice in a row, the second time on what it is about to write. The first append fails at
    its commit. The second must be refused.
    """
    recorder = await stage.recorder()
    name, doomed, late = words("stream", DOOMED, "late")
    first = recorder.draft({name: [doomed]}, {})
    second = recorder.draft({name: [late]}, _ahead(first))
    if await recorder.append(first) is Told.COMMITTED:
        raise Hit("success is told for what was rolled back")
    await _must_be_refused(stage, await recorder.append(second), late)


async def version_decided_on_a_number_of_others(stage: Stage) -> None:
    """The number fits, the history is another: a version does not say whose event it was.

    As before, but the first append is lost because another process has written that very version.
    """
    recorder, other = await stage.recorder(), await stage.recorder()
    name, lost, late, wins = words("stream", "lost", "late", "wins")
    first = recorder.draft({name: [lost]}, {})
    second = recorder.draft({name: [late]}, _ahead(first))
    await must_commit(other, other.draft({name: [wins]}, {}))
    assert await recorder.append(first) is Told.CONFLICT
    await _must_be_refused(stage, await recorder.append(second), late)


async def failed_append_poisons_others(stage: Stage) -> None:
    """One append of a batch fails and takes the others with it, or leaves half of itself behind.

    Sent at once by one process: an append to two streams of which one has moved on, one to the other of the
    two, and some to others. The first must be told of a conflict and leave nothing; the others must be there.
    """
    recorder, other = await stage.recorder(), await stage.recorder()
    x, y, before, moved = words("x", "y", "before", "moved")
    half, other_half, to_y, *to_others = words("half", "other_half", "to_y", *["to_another"] * 6)
    await must_commit(recorder, recorder.draft({x: [before], y: [before]}, {}))
    both = await recorder.see(x, y)
    await must_commit(other, other.draft({x: [moved]}, await other.see(x)))
    on_y = {y: both[y]}
    told = await asyncio.gather(
        recorder.append(recorder.draft({y: [other_half], x: [half]}, both)),
        recorder.append(recorder.draft({y: [to_y]}, on_y)),
        *(recorder.append(recorder.draft({word: [word]}, {})) for word in to_others),
    )
    there = await stage.recorded()
    if half in there or other_half in there:
        raise Hit("half of an append is recorded")
    if told[0] is not Told.CONFLICT or {*told[1:]} != {Told.COMMITTED} or not {to_y, *to_others} <= {*there}:
        raise Hit("an append fails because another did")


def _ahead(draft: Draft) -> Seen:
    assert draft.after is not None
    return draft.after


async def _must_be_refused(stage: Stage, told: Told, late: str) -> None:
    if told is Told.COMMITTED or late in await stage.recorded():
        raise Hit(ON_WHAT_NEVER_WAS)
