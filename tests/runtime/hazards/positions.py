"""Hazards of positions: what a reader that goes on from the last position it saw may never see."""

import asyncio
from typing import Final

from tests.runtime.hazards.recorders import Told
from tests.runtime.hazards.stage import HELD, WAIT_S, Hit, Stage, hears, insist, must_commit, words

NEVER_SEEN: Final = "a reader never sees an event"
NOT_HEARD: Final = "a subscriber never hears of an event"
A_HOLE: Final = "a hole, which no reader can tell from a late commit"


async def drawn_in_one_order_committed_in_another(stage: Stage) -> None:
    """A reader passes over an event for ever.

    A draws its position and is held just before its commit; B begins, and is done or waits. A reader reads
    all there is and remembers the last position. Then A commits. A right recorder lets nobody draw a later
    position while an earlier one may still come; so the reader finds everything after what it remembers.
    """
    a, b, reader = [await stage.recorder() for _ in range(3)]
    slow, quick = words(HELD, "quick")
    await stage.shut_gate()
    slowly = stage.start(a.append(a.draft({slow: [slow]}, {})))
    await stage.at_gate()
    quickly = stage.start(b.append(b.draft({quick: [quick]}, {})))
    await stage.done_or_waiting(quickly)
    seen = list(await reader.read(0))
    await stage.open_gate()
    assert {await slowly, await quickly} == {Told.COMMITTED}
    seen += await reader.read(seen[-1][0] if seen else 0)
    if {word for _, word in seen} != {slow, quick}:
        raise Hit(NEVER_SEEN)


async def late_commit_skipped_after_a_gap(stage: Stage) -> None:
    """A subscriber sees a gap, waits a while, takes it for a rollback, and goes on: a late commit is lost.

    A is held before its commit for as long as the subscriber takes to hear of B, or until B is seen to wait:
    then no gap can be there, however long it takes. However it is done, both must be heard in the end.
    """
    a, b, reader = [await stage.recorder() for _ in range(3)]
    tail = await stage.tail(reader)
    slow, quick = words(HELD, "quick")
    await stage.shut_gate()
    slowly = stage.start(a.append(a.draft({slow: [slow]}, {})))
    await stage.at_gate()
    quickly = stage.start(b.append(b.draft({quick: [quick]}, {})))
    await stage.done_or_waiting(quickly)
    heard = set()
    if quickly.done():
        heard |= {word for _, word in await hears(tail, [quick], WAIT_S)}
    await stage.open_gate()
    assert {await slowly, await quickly} == {Told.COMMITTED}
    try:
        await hears(tail, {slow, quick} - heard, stage.notice_s)
    except TimeoutError:
        raise Hit(NOT_HEARD) from None


async def conflict_leaves_a_hole(stage: Stage) -> None:
    """Nobody can tell an event that never was from one that is still to come, or that somebody took out.

    Two decisions on the same state; one is refused. The positions of what is committed before and after must
    be 1, 2, 3.
    """
    recorder = await stage.recorder()
    [name] = words("stream")
    first, wins, loses, last = words("a", "b", "c", "d")
    await must_commit(recorder, recorder.draft({name: [first]}, {}))
    seen = await recorder.see(name)
    await must_commit(recorder, recorder.draft({name: [wins]}, seen))
    assert await recorder.append(recorder.draft({name: [loses]}, seen)) is not Told.COMMITTED
    await must_commit(recorder, recorder.draft({name: [last]}, await recorder.see(name)))
    if await recorder.read(0) != [(1, first), (2, wins), (3, last)]:
        raise Hit(A_HOLE)


async def long_transaction_stalls_readers(stage: Stage) -> None:
    """Readers that wait for the oldest transaction of the cluster wait for a stranger's backup, or a report.

    A transaction that writes elsewhere, in the same database and in another, is left open. What is appended
    meanwhile must be heard of at once.
    """
    recorder = await stage.recorder()
    tail = await stage.tail(recorder)
    elsewhere = [
        await stage.other(),
        await stage.other(stage.url.rpartition("/")[0] + "/postgres"),
    ]
    for stranger in elsewhere:
        await stranger.execute("begin")
        await stranger.execute("create temporary table report (line text) on commit drop")
        await stranger.execute("insert into report select pg_current_xact_id()::text")
    said = words("said")
    assert await insist(recorder, recorder.draft({"stream": said}, {})) is Told.COMMITTED
    try:
        await hears(tail, said, stage.notice_s)
    except TimeoutError:
        raise Hit("readers wait for a stranger's transaction") from None
    await asyncio.gather(*(stranger.execute("rollback") for stranger in elsewhere))
