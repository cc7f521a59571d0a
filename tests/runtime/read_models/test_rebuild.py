"""A read model is made anew beside the one that is served, compared with it, and takes its place."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from history import history, received, stock_of
from parked_side import UNKNOWN, catch_up
from psycopg import sql
from read_side import NO_BROKER, ReadSide, running

from domain.envelope import Mark, Token
from projections import READ_MODELS
from projections.ports import Ask
from projections.product_detail import PRODUCT_DETAIL
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY, availability_of
from runtime.audit_log.history import History
from runtime.projector import Projector
from runtime.read_models import builds, bulk, feeding
from runtime.read_models import rebuild as rebuilding
from runtime.read_models.feeding import Outrun
from runtime.read_models.folding import Model
from runtime.read_models.rebuild import NothingBeside, Rebuild, Rebuilding, Rebuilt
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table
from runtime.read_models.verify import verify

pytestmark = pytest.mark.anyio

QUERY_S = 0.005


async def rebuilt(side: ReadSide, model: Model, *, serve: bool = True) -> Rebuilt:
    with History.open(side.log_url) as past:
        return await Rebuild(side.read_url, side.reader, past, model, lambda _: None).run(serve=serve)


async def switched(side: ReadSide, model: Model, *, back: bool) -> tuple[str, str]:
    return await rebuilding.switch(side.read_url, side.reader, model, back=back)


async def differing(side: ReadSide, model: Model) -> int:
    with History.open(side.log_url) as past:
        return (await verify(past, side.read_url, model, lambda _: None)).differing


@asynccontextmanager
async def served(side: ReadSide, appends: int = 60) -> AsyncIterator[None]:
    """Some history, which a projector has applied and goes on applying."""
    await side.write(list(history(seed=5, appends=appends)))
    async with running(side.projector()):
        await side.converge()
        yield


async def builds_of(side: ReadSide, model: Model) -> list[str]:
    """The tables there are."""
    async with side.pool.connection() as connection:
        found = await connection.execute(
            "select relname from pg_class where relnamespace = 'read'::regnamespace and relkind = 'r'"
            " and starts_with(relname, %s) order by relname",
            [Table(model).declaration],
        )
        return [name for (name,) in await found.fetchall()]


async def served_build(side: ReadSide, model: Model) -> str | None:
    async with side.pool.connection() as connection:
        table = await builds.served_of(connection, Table(model))
        return table.build if table else None


async def by_hand(side: ReadSide, model: Model, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        build = await served_build(side, model)
        await owner.execute(sql.SQL(statement).format(sql.Identifier("read", build or "")))


@pytest.mark.parametrize("model", READ_MODELS, ids=lambda model: model.name)
async def test_what_is_made_anew_is_what_was_served(side: ReadSide, model: Model) -> None:
    async with served(side):
        first = await served_build(side, model)
        found = await rebuilt(side, model)
        assert (found.compared, found.differing, found.told) == (True, 0, [])
        assert await builds_of(side, model) == sorted([str(first), found.build])
        assert await served_build(side, model) == found.build != first
        assert await differing(side, model) == 0


async def test_it_is_fed_from_then_on_and_can_be_made_anew_again(side: ReadSide) -> None:
    async with served(side):
        for _ in range(3):
            before = await served_build(side, STOCK_AVAILABILITY)
            found = await rebuilt(side, STOCK_AVAILABILITY)
            assert await builds_of(side, STOCK_AVAILABILITY) == sorted([str(before), found.build])
            events = await side.writer.append((stock_of(0), received(0, 7)))
            await seen(side, events[-1])
        there = await builds_of(side, STOCK_AVAILABILITY)
    async with running(side.projector()):  # one that begins anew makes no first build again
        events = await side.writer.append((stock_of(0), received(0, 7)))
        await seen(side, events[-1])
        assert await builds_of(side, STOCK_AVAILABILITY) == there


async def seen(side: ReadSide, event: object) -> None:
    heads = await side.reader.heads()
    async with PostgresRows.open(side.read_url) as rows:
        await availability_of(rows, ["SKU0"], Ask(Token(await side.reader.incarnation(), heads), wait_s=5.0))


async def test_rows_that_are_not_what_the_log_says_are_told_and_mended(side: ReadSide) -> None:
    async with served(side):
        await by_hand(side, STOCK_AVAILABILITY, "update {} set on_hand = on_hand + 1 where id = 'SKU0@MAIN'")
        await by_hand(side, STOCK_AVAILABILITY, "delete from {} where id = 'SKU1@MAIN'")
        await by_hand(
            side,
            STOCK_AVAILABILITY,
            "insert into {} (id, parts, shown, revision) values ('invented', '{{}}', false, 0)",
        )
        found = await rebuilt(side, STOCK_AVAILABILITY)
        assert (found.differing, [one.key for one in found.told]) == (
            3,
            ["SKU0@MAIN", "SKU1@MAIN", "invented"],
        )
        changed, gone, invented = found.told
        [(name, (stored, expected))] = changed.fields().items()
        assert (name, stored) == ("on_hand", expected + 1)
        assert {event.stream for event in changed.events} == {"stock-SKU0@MAIN"}
        assert (gone.stored, invented.events) == (None, [])
        assert await differing(side, STOCK_AVAILABILITY) == 0


@pytest.mark.parametrize("further", [0, 1], ids=["another event there", "beyond the end"])
@pytest.mark.parametrize("serve", [True, False])
async def test_what_has_applied_what_the_log_does_not_have_is_replaced(
    side: ReadSide, further: int, *, serve: bool
) -> None:
    """As after messages that no relay of this log has sent."""
    async with served(side):
        pass
    [event] = await side.writer.append((stock_of(0), received(0, 7)))
    await catch_up(side, STOCK_AVAILABILITY)
    lane = (event.context, event.lane)
    first = await served_build(side, STOCK_AVAILABILITY)
    async with side.pool.connection() as connection:
        await connection.execute(
            "update read.checkpoints set position = position + %s, event_id = %s where build = %s"
            " and (context, lane) = (%s, %s)",
            [further, UNKNOWN, first, *lane],
        )
    await by_hand(side, STOCK_AVAILABILITY, "update {} set on_hand = on_hand + 1 where id = 'SKU0@MAIN'")

    found = await rebuilt(side, STOCK_AVAILABILITY, serve=serve)
    assert found.strayed == {lane: Mark(event.position + further, UNKNOWN)}
    assert (found.compared, [one.key for one in found.told]) == (True, ["SKU0@MAIN"])
    if not serve:
        assert await switched(side, STOCK_AVAILABILITY, back=False) == (first, found.build)
    assert await served_build(side, STOCK_AVAILABILITY) == found.build
    assert await differing(side, STOCK_AVAILABILITY) == 0
    with pytest.raises(builds.AheadOfLog):
        await side.projector().run()
    assert await rebuilding.drop(side.read_url, STOCK_AVAILABILITY) == [first]
    async with running(side.projector()):
        await side.converge()


async def test_what_only_the_parts_hide_is_found_too(side: ReadSide) -> None:
    """The next event would show it."""
    async with served(side):
        await by_hand(side, SALES_DAILY, "update {} set parts = convert_to('{{}}', 'UTF8')")
        assert (await rebuilt(side, SALES_DAILY)).differing > 0


async def test_without_a_projector_it_does_all_itself(side: ReadSide) -> None:
    await side.write(list(history(seed=5, appends=60)))
    found = await rebuilt(side, PRODUCT_DETAIL)
    assert (found.compared, found.differing) == (False, 0)
    assert found.rows > 1
    await side.write(list(history(seed=6, appends=60)))
    found = await rebuilt(side, PRODUCT_DETAIL)  # what is served is far behind by now
    assert (found.compared, found.differing) == (True, 0)
    assert await differing(side, PRODUCT_DETAIL) == 0


async def test_traffic_goes_on_and_every_answer_is_one_build_s(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query sees a version not older than the last, and the vector of that very version.

    Builds are made, compared, switched and switched back meanwhile; 200 queries a second, none fails.
    """
    monkeypatch.setattr(bulk, "NEAR_POSITIONS", 50)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await side.writer.append((stock_of(0), received(0, 1)))
            await asyncio.sleep(0)

    async with served(side, appends=10), asking(side) as answers:
        writing = asyncio.create_task(write())
        seen_builds = set()
        for _ in range(3):
            found = await rebuilt(side, STOCK_AVAILABILITY, serve=False)
            assert found.differing == 0, found.told
            for back in (False, True, False):
                before, now = await switched(side, STOCK_AVAILABILITY, back=back)
                assert await served_build(side, STOCK_AVAILABILITY) == now != before
                seen_builds |= {before, now}
        stop.set()
        await writing
    assert len(seen_builds) == 4
    events = await side.reader.read_stream("stock-SKU0@MAIN", limit=1_000_000)
    lane = events[0].context, events[0].lane
    versions = [version for version, _ in answers]
    assert versions == sorted(versions)
    assert len(set(versions)) > 10
    for version, at in answers:
        assert version == sum(1 for event in events if event.position <= at.marks[lane].position)


@asynccontextmanager
async def asking(side: ReadSide) -> AsyncIterator[list[tuple[int, Token]]]:
    """The version of a row and where it holds, of one query after the other, 200 of them a second."""
    answers: list[tuple[int, Token]] = []
    async with PostgresRows.open(side.read_url) as rows:

        async def ask() -> None:
            while True:
                answer = await availability_of(rows, ["SKU0"], Ask())
                [one] = answer.rows
                answers.append((one.row.version, answer.at))
                await asyncio.sleep(QUERY_S)

        asks = asyncio.create_task(ask())
        try:
            yield answers
        finally:
            asks.cancel()
            with suppress(asyncio.CancelledError):
                await asks


async def test_what_was_served_is_fed_on_and_takes_its_place_back(side: ReadSide) -> None:
    async with served(side):
        first = await served_build(side, STOCK_AVAILABILITY)
        with pytest.raises(NothingBeside, match="`tallybook rebuild` makes one"):
            await switched(side, STOCK_AVAILABILITY, back=False)
        made = (await rebuilt(side, STOCK_AVAILABILITY, serve=False)).build
        assert await served_build(side, STOCK_AVAILABILITY) == first
        with pytest.raises(NothingBeside, match="served before"):
            await switched(side, STOCK_AVAILABILITY, back=True)
        assert await switched(side, STOCK_AVAILABILITY, back=False) == (first, made)
        assert await view_of(side, STOCK_AVAILABILITY) == made
        events = await side.writer.append((stock_of(0), received(0, 7)))
        assert await switched(side, STOCK_AVAILABILITY, back=True) == (made, first)
        await seen(side, events[-1])
        assert await view_of(side, STOCK_AVAILABILITY) == first
        assert await differing(side, STOCK_AVAILABILITY) == 0


async def test_the_other_is_brought_to_where_the_served_one_is_before_it_is_served(side: ReadSide) -> None:
    """Nobody feeds it any more; and yet no consistency token is further than what is served."""
    async with served(side):
        await rebuilt(side, STOCK_AVAILABILITY)
    events = await side.writer.append((stock_of(0), received(0, 7)))
    async with running(Projector(side.reader, side.pool, NO_BROKER, [STOCK_AVAILABILITY])):
        await seen(side, events[-1])
    await switched(side, STOCK_AVAILABILITY, back=True)
    await seen(side, events[-1])
    assert await differing(side, STOCK_AVAILABILITY) == 0


async def test_what_is_not_served_is_dropped_and_fed_no_more(side: ReadSide) -> None:
    async with served(side):
        first = await served_build(side, STOCK_AVAILABILITY)
        made = (await rebuilt(side, STOCK_AVAILABILITY)).build
        assert await rebuilding.drop(side.read_url, STOCK_AVAILABILITY) == [first]
        assert await builds_of(side, STOCK_AVAILABILITY) == [made]
        events = await side.writer.append((stock_of(0), received(0, 7)))
        await seen(side, events[-1])
        assert await rebuilding.drop(side.read_url, STOCK_AVAILABILITY) == []


async def test_a_build_that_is_dropped_while_a_projector_looks_ends_nothing_else(side: ReadSide) -> None:
    async with served(side):
        projecting = side.projector()
        await projecting._prepare()
        await rebuilt(side, STOCK_AVAILABILITY)
        [dropped] = await rebuilding.drop(side.read_url, STOCK_AVAILABILITY)
        build = projecting._builds[dropped]  # it does not know of it yet
        await projecting._settle(build, {})
        assert not build.caught_up


async def test_a_name_is_never_given_again(side: ReadSide) -> None:
    """A projector that has not yet noticed that a build was dropped would take another for it."""
    async with served(side):
        names = []
        for _ in range(3):
            names.append((await rebuilt(side, STOCK_AVAILABILITY, serve=False)).build)
            assert await rebuilding.drop(side.read_url, STOCK_AVAILABILITY) == names[-1:]
        assert len(set(names)) == 3


async def view_of(side: ReadSide, model: Model) -> str:
    """The build that has the plain name."""
    async with side.pool.connection() as connection:
        found = await connection.execute("select obj_description(%s::regclass)", [f"read.{model.name}"])
        [(build,)] = await found.fetchall()
        return str(build)


async def test_two_at_once_are_refused(side: ReadSide) -> None:
    async with served(side):
        done = await asyncio.gather(
            *(rebuilt(side, STOCK_AVAILABILITY) for _ in range(2)), return_exceptions=True
        )
        assert {type(one) for one in done} == {Rebuilt, Rebuilding}


async def test_a_log_that_outruns_it_leaves_what_is_served(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "MAX_ROUNDS", 0)
    async with served(side):
        before = await builds_of(side, STOCK_AVAILABILITY)
        with pytest.raises(Outrun):
            await rebuilt(side, STOCK_AVAILABILITY)
        assert await builds_of(side, STOCK_AVAILABILITY) == before
        assert await differing(side, STOCK_AVAILABILITY) == 0


async def test_what_somebody_reads_is_dropped_by_the_next(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "DROP_TRIES", 1)
    async with served(side):
        first = await served_build(side, STOCK_AVAILABILITY)
        async with await psycopg.AsyncConnection.connect(side.read_url) as reading:
            await reading.execute(sql.SQL("select from {}").format(sql.Identifier("read", first or "")))
            await rebuilt(side, STOCK_AVAILABILITY)
            await rebuilt(side, STOCK_AVAILABILITY)
            assert len(await builds_of(side, STOCK_AVAILABILITY)) == 3
            await side.converge()
        await rebuilt(side, STOCK_AVAILABILITY)
        assert first not in await builds_of(side, STOCK_AVAILABILITY)


KILLED = """
    import asyncio, sys
    from projections.stock_availability import STOCK_AVAILABILITY
    from runtime.audit_log.history import History
    from runtime.log.reading import LogReader
    from runtime.read_models.rebuild import ROLE, Rebuild

    async def main(log, read):
        with History.open(log) as past:
            async with LogReader.open(log, ROLE) as reader:
                await Rebuild(read, reader, past, STOCK_AVAILABILITY, lambda _: None).run(serve=True)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("point", ["before_filled", "before_caught_up", "before_served"])
async def test_killed_at_any_point_it_leaves_what_is_served(side: ReadSide, point: str) -> None:
    async with served(side):
        before = await served_build(side, STOCK_AVAILABILITY)
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", textwrap.dedent(KILLED), side.log_url, side.read_url],
            env={**os.environ, "TALLYBOOK_CRASH_AT": point},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        assert await served_build(side, STOCK_AVAILABILITY) == before
        events = await side.writer.append((stock_of(0), received(0, 7)))
        await seen(side, events[-1])
        assert await differing(side, STOCK_AVAILABILITY) == 0
        await _until_nobody_holds_the_lock(side)
        found = await rebuilt(side, STOCK_AVAILABILITY)
        assert found.differing == 0
        assert await builds_of(side, STOCK_AVAILABILITY) == sorted([str(before), found.build])


async def _until_nobody_holds_the_lock(side: ReadSide) -> None:
    """A killed process's session ends when PostgreSQL notices."""
    async with asyncio.timeout(10), side.pool.connection() as connection:
        while True:
            held = await connection.execute(
                "select from pg_locks where locktype = 'advisory' and classid = %s", [builds._ALONE]
            )
            if held.rowcount == 0:
                return
            await asyncio.sleep(0.05)
