"""Whoever folds for a read model leaves out what is parked or skipped, and nothing else does."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from history import NOON, history, received, stock_of
from parked_side import UNKNOWN, catch_up, omitted, on_hand, parked, received_by, retried
from poison import poisoned
from psycopg import errors
from read_side import ReadSide

from domain.envelope import Mark, Recorded, Token
from projections.ports import Ask, Omitted, StreamParked
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY, availability_of
from runtime.audit_log.history import History
from runtime.lanes import lane_of
from runtime.postgres import connect
from runtime.read_models import builds, resuming
from runtime.read_models.feeding import Feeder
from runtime.read_models.folding import Model
from runtime.read_models.parked import skips_of
from runtime.read_models.past import PastRows
from runtime.read_models.rebuild import Rebuild, Rebuilt
from runtime.read_models.resuming import NotInLog, NotParked, Skip, TooManySkipped, skip
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table
from runtime.read_models.verify import Verified, verify

pytestmark = pytest.mark.anyio

TABLE = Table(STOCK_AVAILABILITY)


async def serve(side: ReadSide, model: Model) -> None:
    """What one worker has made of the log is served."""
    await catch_up(side, model)
    async with side.pool.connection() as connection:
        await builds.has_caught_up(connection, Table(model))


async def skips(side: ReadSide, event: Recorded, reason: str = "a test") -> None:
    async with side.pool.connection() as connection:
        await skip(connection, side.reader, TABLE, Skip(event.stream, event.event_id, reason, "me"))


async def verified(side: ReadSide, model: Model) -> Verified:
    with History.open(side.log_url) as log:
        return await verify(log, side.read_url, model, lambda _: None)


async def rebuilt(side: ReadSide, model: Model) -> Rebuilt:
    with History.open(side.log_url) as log:
        return await Rebuild(side.read_url, side.reader, log, model, lambda _: None).run(serve=True)


async def test_a_skipped_event_is_left_out_for_ever_and_the_rest_resumes(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    await serve(side, model)

    await skips(side, poison)
    assert await retried(side, model) == [None]

    assert await on_hand(side) == {"SKU0@MAIN": 301}
    assert await omitted(side, model) == Omitted(skipped={poison.event_id: poison.position})
    await received_by(side, 0, 4000)
    await catch_up(side, model)
    for folding in (model, STOCK_AVAILABILITY):  # also by who would not refuse it
        found = await verified(side, folding)
        assert (found.differing, found.parked) == (0, [])
        assert (await rebuilt(side, folding)).differing == 0
        assert await on_hand(side) == {"SKU0@MAIN": 4301}
    async with side.pool.connection() as connection:
        kept = await connection.execute(
            "select declaration, stream, position, reason, skipped_by from read.skipped"
        )
        assert await kept.fetchall() == [
            (TABLE.declaration, stock_of(0), poison.position, "a test", "me"),
        ]
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute("set role tallybook_projector; delete from read.skipped")


async def test_only_the_event_at_which_a_stream_stands_can_be_skipped(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, poison, later = await received_by(side, 0, 1, 20, 300)
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    await serve(side, model)
    for event in (first, later):
        with pytest.raises(NotParked, match=event.event_id):
            await skips(side, event)
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "MAX_SKIPPED", 0)
        with pytest.raises(TooManySkipped):
            await skips(side, poison)
    assert (await omitted(side, model)).skipped == {}
    assert [one.event_id for one in await parked(side)] == [poison.event_id]


async def another_build(side: ReadSide) -> Table:
    async with side.pool.connection() as connection:
        return await builds.create_another(
            connection, TABLE, await side.reader.lanes(), await side.reader.incarnation()
        )


async def fill(side: ReadSide, table: Table) -> None:
    async with side.pool.connection() as connection:
        feeder = Feeder(connection, side.reader, await side.reader.incarnation(), lambda _: None)
        await feeder.catch_up(table)


async def test_what_another_build_has_folded_cannot_be_skipped_any_more(side: ReadSide) -> None:
    _, poison = await received_by(side, 0, 1, 20)
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))
    other = await another_build(side)
    await fill(side, Table(STOCK_AVAILABILITY, other.build))

    with pytest.raises(NotParked, match=f"{other.build} has folded"):
        await skips(side, poison)
    assert (await omitted(side, STOCK_AVAILABILITY)).skipped == {}


@pytest.mark.parametrize("made", ["before", "after"])
async def test_a_build_that_comes_to_a_skipped_event_later_leaves_it_out(side: ReadSide, made: str) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    await serve(side, model)
    other = await another_build(side) if made == "before" else None
    await skips(side, poison)
    other = other or await another_build(side)

    await fill(side, Table(STOCK_AVAILABILITY, other.build))

    async with side.pool.connection() as connection:
        await builds.has_caught_up(connection, other)
        await builds.serve(connection, TABLE, other)
    assert await on_hand(side) == {"SKU0@MAIN": 301}


async def test_a_build_that_is_made_while_an_event_is_skipped_leaves_it_out(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))
    recorded, go_on = asyncio.Event(), asyncio.Event()

    async def waits(point: str) -> None:
        assert point == "before_skip_commits"
        recorded.set()
        await go_on.wait()

    monkeypatch.setattr(resuming, "reached", waits)
    skipping = asyncio.create_task(skips(side, poison))
    await recorded.wait()
    making = asyncio.create_task(another_build(side))
    await asyncio.wait({making}, timeout=0.3)
    go_on.set()
    await skipping
    other = await making

    await fill(side, other)
    async with side.pool.connection() as connection:
        await builds.has_caught_up(connection, other)
        await builds.serve(connection, TABLE, other)
    assert await on_hand(side) == {"SKU0@MAIN": 301}


async def test_what_the_log_does_not_have_is_not_skipped(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))
    async with side.pool.connection() as connection:
        await connection.execute("update read.parked set event_id = %s", [UNKNOWN])
        with pytest.raises(NotInLog, match=UNKNOWN):
            await skip(connection, side.reader, TABLE, Skip(poison.stream, UNKNOWN, "a test", "me"))
        assert not (await skips_of(connection, TABLE)).skipped


SKIPS = """
    import asyncio, sys
    from projections.stock_availability import STOCK_AVAILABILITY
    from runtime.log.reading import LogReader
    from runtime.postgres import connect
    from runtime.projector import ROLE
    from runtime.read_models.resuming import Skip, skip
    from runtime.read_models.tables import Table

    async def main(url, log_url, *event):
        async with connect(url, ROLE) as connection, LogReader.open(log_url, ROLE) as reader:
            await skip(connection, reader, Table(STOCK_AVAILABILITY), Skip(*event, "killed", "me"))

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_skip_that_is_killed_has_not_been(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    await serve(side, model)
    ran = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-c",
            textwrap.dedent(SKIPS),
            side.read_url,
            side.log_url,
            poison.stream,
            poison.event_id,
        ],
        env={**os.environ, "TALLYBOOK_CRASH_AT": "before_skip_commits"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert (await omitted(side, model)).skipped == {}
    await skips(side, poison)
    await skips(side, poison, "again")  # as who has not seen the answer does
    assert await retried(side, model) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 301}


async def test_verify_proves_all_but_what_is_parked_and_says_what_is(side: ReadSide) -> None:
    await side.write(list(history(seed=8, appends=40)))
    stock = [one for one in await side.reader.read(0) if one.stream == stock_of(0)]
    poison = stock[len(stock) // 2]
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    await serve(side, model)

    for folding in (model, STOCK_AVAILABILITY):
        found = await verified(side, folding)
        assert (found.differing, [one.event_id for one in found.parked]) == (0, [poison.event_id])
    async with side.pool.connection() as connection:
        await connection.execute(
            f"update read.{TABLE.build} set on_hand = on_hand + 1 where id <> 'SKU1@MAIN'"
        )
    found = await verified(side, model)
    assert found.differing == found.rows - 1  # the parked stream's row among them
    [of_it] = [one for one in found.told if one.key == "SKU0@MAIN"]
    assert {event.version for event in of_it.events} <= set(range(1, poison.version))


async def test_verify_needs_not_decode_what_is_parked(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    async with connect(side.log_url, "none") as owner:
        await owner.execute("update log.events set data = '{}' where position = %s", [poison.position])
    await serve(side, STOCK_AVAILABILITY)
    found = await verified(side, STOCK_AVAILABILITY)
    assert (found.differing, [one.event_id for one in found.parked]) == (0, [poison.event_id])


async def test_a_rebuild_parks_at_the_same_event_and_heals_after_the_fix(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)
    refused = {poison.event_id}
    model = poisoned(STOCK_AVAILABILITY, refused)
    await serve(side, model)
    [before] = await parked(side)

    again = await rebuilt(side, model)
    assert (again.compared, again.differing) == (True, 0)
    [served, after] = await parked(side)
    assert served == before
    assert (after.event_id, after.build == before.build) == (poison.event_id, False)

    refused.clear()
    healed = await rebuilt(side, model)
    assert [one.key for one in healed.told] == ["SKU0@MAIN"]
    assert [one.build for one in await parked(side)] == [again.build]  # beside what is served
    assert await on_hand(side) == {"SKU0@MAIN": 321, "SKU1@MAIN": 5}


async def test_the_past_and_its_explanation_leave_out_the_same(side: ReadSide) -> None:
    first, poison, last = await received_by(side, 0, 1, 20, 300)
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))

    async def then(position: int) -> list[int]:
        answer = await availability_of(rows, ["SKU0"], Ask(as_of=position))
        return [one.row.on_hand for one in answer.rows]

    async def steps() -> list[str]:
        told, _ = await rows.explain(STOCK_AVAILABILITY, "SKU0@MAIN", "on_hand", Ask())
        return [step.recorded.event_id for step in told]

    async with PostgresRows.open(side.read_url) as present:
        rows = PastRows(present, side.reader)
        assert [await then(event.position) for event in (first, poison, last)] == [[1], [1], [1]]
        assert await steps() == [first.event_id]
        await skips(side, poison)
        await retried(side, STOCK_AVAILABILITY)
        assert [await then(event.position) for event in (first, poison, last)] == [[1], [1], [301]]
        assert await steps() == [first.event_id, last.event_id]


async def test_a_counters_past_leaves_out_what_is_parked(side: ReadSide) -> None:
    await side.write(list(history(seed=9, appends=30)))
    placed = [one for one in await side.reader.read(0) if one.type == "order.placed.v1"]
    model = poisoned(SALES_DAILY, {placed[0].event_id, placed[3].event_id})
    await serve(side, model)
    async with PostgresRows.open(side.read_url) as present:
        rows = PastRows(present, side.reader)
        head = (await side.reader.head()).position
        now, then = [await rows.select(SALES_DAILY, "true", {}, ask) for ask in (Ask(), Ask(as_of=head))]
        told, _ = await rows.explain(SALES_DAILY, f"{NOON.date()}/EUR/MAIN", "orders", Ask())
    assert [one.row for one in now.rows] == [one.row for one in then.rows]
    assert now.rows[0].row.orders == len(told) == len(placed) - 2


async def written(side: ReadSide, event: Recorded) -> Token:
    """What a command answers whose last event is this one."""
    marks = {(event.context, event.lane): Mark(event.position, event.event_id)}
    return Token(await side.reader.incarnation(), marks)


async def test_a_token_of_a_parked_stream_is_told_so_and_no_other(side: ReadSide) -> None:
    before, poison, after = await received_by(side, 0, 1, 20, 300)
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))

    async with PostgresRows.open(side.read_url) as present:
        rows = PastRows(present, side.reader)
        answer = await availability_of(rows, ["SKU0"], Ask(await written(side, before)))
        assert [one.row.on_hand for one in answer.rows] == [1]
        for event in (poison, after):
            with pytest.raises(StreamParked) as refused:
                await availability_of(rows, ["SKU0"], Ask(await written(side, event), wait_s=20))
            assert refused.value.stream == stock_of(0)
            with pytest.raises(StreamParked):
                await rows.explain(STOCK_AVAILABILITY, "SKU0@MAIN", None, Ask(await written(side, event)))
        assert answer.at.marks.items() >= (await written(side, after)).marks.items()
        await availability_of(rows, ["SKU0"], Ask(answer.at))  # who only read it goes on reading
        await retried(side, STOCK_AVAILABILITY)
        await availability_of(rows, ["SKU0"], Ask(await written(side, after)))


async def test_an_append_is_told_by_any_of_its_events_and_none_of_the_one_before(side: ReadSide) -> None:
    """The token names the last event of a lane, which may be of a stream that goes on."""
    lanes = await side.reader.lanes()
    near = next(n for n in range(1, 1000) if lane_of(stock_of(n), lanes) == lane_of(stock_of(0), lanes))
    near_stock = stock_of(near)
    before = await side.writer.append((near_stock, received(near, 1)))
    poison, last = await side.writer.append((stock_of(0), received(0, 1)), (near_stock, received(near, 2)))
    after = await side.writer.append((near_stock, received(near, 4)))
    await serve(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))

    async with PostgresRows.open(side.read_url) as present:
        rows = PastRows(present, side.reader)
        for fine in (before[-1], after[-1]):
            answer = await availability_of(rows, [f"SKU{near}"], Ask(await written(side, fine)))
            assert [one.row.on_hand for one in answer.rows] == [7]
        with pytest.raises(StreamParked):
            await availability_of(rows, [f"SKU{near}"], Ask(await written(side, last)))
