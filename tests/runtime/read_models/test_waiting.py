"""Who waits for a read model is woken when it has come so far, by few looks for many, and by no luck."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from history import history, received, stock_of
from read_side import ReadSide, running

from domain.envelope import Mark, Recorded, Token
from projections.ports import Ask, NotYetApplied, TooManyWaiting
from projections.stock_availability import availability_of
from runtime import projector
from runtime.read_models import rows as rows_module
from runtime.read_models import waiting
from runtime.read_models.rows import PostgresRows
from runtime.read_models.waiting import Wanted, _Stood

pytestmark = pytest.mark.anyio

FOREVER_S = 3_600.0
WAIT_S = 10.0
MANY = waiting.MAX_WAITING


@pytest.fixture
async def rows(side: ReadSide) -> AsyncIterator[PostgresRows]:
    async with PostgresRows.open(side.read_url) as rows:
        yield rows


@pytest.fixture
async def followed(side: ReadSide) -> AsyncIterator[ReadSide]:
    """A shop with goods in stock, and a projector that follows it."""
    await side.write(list(history(seed=61, appends=0)))
    async with running(side.projector()):
        await side.converge()
        yield side


async def token_of(side: ReadSide, *events: Recorded) -> Token:
    marks = {(event.context, event.lane): Mark(event.position, event.event_id) for event in events}
    return Token(await side.reader.incarnation(), marks)


async def coming(side: ReadSide, rows: PostgresRows) -> list[int]:
    """What is in stock of SKU0, once one more that is received just now can be seen."""
    token = await token_of(side, *await side.writer.append((stock_of(0), received(0, 1))))
    answer = await availability_of(rows, ["SKU0"], Ask(token, WAIT_S))
    return [one.row.on_hand for one in answer.rows]


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a notification, nobody would ever look."""
    monkeypatch.setattr(waiting, "POLL_S", FOREVER_S)


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """No notification arrives."""

    async def silent(*_: object) -> None:
        await asyncio.sleep(FOREVER_S)

    monkeypatch.setattr(projector, "wake_readers", silent)


def seconds_since() -> Callable[[], float]:
    clock = asyncio.get_running_loop().time
    began = clock()
    return lambda: clock() - began


def counting(monkeypatch: pytest.MonkeyPatch, rows: PostgresRows) -> list[str]:
    """The names of the read models that queries ask from now on."""
    asked: list[str] = []
    found = rows._found

    async def counted(model: Any, *more: Any) -> Any:
        asked.append(model.name)
        return await found(model, *more)

    monkeypatch.setattr(rows, "_found", counted)
    return asked


@pytest.mark.usefixtures("unpolled")
async def test_a_notification_ends_the_wait(followed: ReadSide, rows: PostgresRows) -> None:
    taken = seconds_since()
    assert [await coming(followed, rows) for _ in range(4)] == [[1001], [1002], [1003], [1004]]
    assert taken() < WAIT_S


@pytest.mark.usefixtures("unheard")
async def test_a_lost_notification_costs_no_more_than_a_poll(
    monkeypatch: pytest.MonkeyPatch, side: ReadSide, rows: PostgresRows
) -> None:
    monkeypatch.setattr(projector, "WATCH_S", 0.01)
    await side.write(list(history(seed=62, appends=0)))
    async with running(side.projector()):
        await side.converge()
        taken = seconds_since()
        assert await coming(side, rows) == [1001]
        assert taken() < WAIT_S / 2


@pytest.mark.usefixtures("unpolled")
async def test_a_connection_that_is_killed_is_made_again_and_nothing_is_missed_meanwhile(
    followed: ReadSide, rows: PostgresRows
) -> None:
    assert await coming(followed, rows) == [1001]
    async with await psycopg.AsyncConnection.connect(followed.read_url, autocommit=True) as owner:
        killed = await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and query like 'listen%%' and application_name = %s",
            [rows_module.ROLE],
        )
        assert killed.rowcount == 1
    taken = seconds_since()
    assert await coming(followed, rows) == [1002]
    assert taken() < WAIT_S


async def test_many_that_wait_cost_few_looks_and_none_of_their_own(
    monkeypatch: pytest.MonkeyPatch, side: ReadSide, rows: PostgresRows
) -> None:
    await side.write(list(history(seed=64, appends=0)))
    async with running(side.projector()):
        await side.converge()
    asked = counting(monkeypatch, rows)
    ask = Ask(await token_of(side, *await side.writer.append((stock_of(1), received(1, 1)))), 2 * WAIT_S)
    waiters = [asyncio.create_task(availability_of(rows, ["SKU1"], ask)) for _ in range(MANY)]
    async with asyncio.timeout(WAIT_S):
        while len(asked) < MANY or len(rows._arrivals._waiters) < MANY:
            await asyncio.sleep(0.01)
    with pytest.raises(TooManyWaiting):
        await availability_of(rows, ["SKU1"], ask)
    looks, taken = rows._arrivals.looks, seconds_since()
    await asyncio.sleep(1.0)
    assert 0 < rows._arrivals.looks - looks <= taken() / waiting.POLL_S + 1
    assert len(asked) == MANY  # and nobody for who could not wait

    async with running(side.projector()):
        answers = await asyncio.gather(*waiters)
    assert {answer.rows[0].row.on_hand for answer in answers} == {1001}
    assert len(asked) == 2 * MANY
    assert not rows._arrivals._waiters


async def test_only_those_are_woken_whose_positions_are_reached(
    monkeypatch: pytest.MonkeyPatch, followed: ReadSide, rows: PostgresRows
) -> None:
    [event] = await followed.writer.append((stock_of(0), received(0, 1)))
    reached = await token_of(followed, event)
    marks = {lane: Mark(mark.position + 1_000, mark.event_id) for lane, mark in reached.marks.items()}
    asked = counting(monkeypatch, rows)
    with pytest.raises(NotYetApplied):
        await availability_of(rows, ["SKU0"], Ask(Token(reached.incarnation, marks), 0.5))
    assert len(asked) == 2  # at first and at last
    assert await coming(followed, rows) == [1002]


async def test_a_query_waits_for_the_first_build_too(side: ReadSide, rows: PostgresRows) -> None:
    await side.write(list(history(seed=63, appends=0)))
    asking = asyncio.create_task(availability_of(rows, ["SKU0"], Ask(None, WAIT_S)))
    await asyncio.sleep(0.1)
    async with running(side.projector()):
        assert [one.row.on_hand for one in (await asking).rows] == [1000]


@pytest.mark.usefixtures("unpolled")
async def test_nobody_sleeps_who_asked_before_the_look_and_came_after_it(side: ReadSide) -> None:
    """The projector was quicker than the way from the query to the queue."""
    async with PostgresRows.open(side.read_url) as rows:
        arrivals = rows._arrivals
        since = arrivals.looks
        arrivals._stood = {"stock": _Stood("ours", {("inventory", 0): 7})}
        seven, eight = (Wanted("stock", "ours", {("inventory", 0): upto}) for upto in (7, 8))
        assert arrivals.expects(eight)
        assert not arrivals.expects(seven)
        assert not arrivals.expects(replace(eight, incarnation="another")), "the query refuses it"
        assert not arrivals.expects(replace(eight, declaration="never looked at"))
        arrivals.looks += 1
        async with asyncio.timeout(1.0):
            await arrivals.wait(seven, since, FOREVER_S)
        taken = seconds_since()
        await arrivals.wait(seven, arrivals.looks, 0.2)
        await arrivals.wait(eight, since, 0.2)
        assert taken() >= 0.4
