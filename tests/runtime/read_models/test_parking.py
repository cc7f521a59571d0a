"""An event that a fold refuses parks its stream and nothing else; once mended, it resumes in order."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from history import history, stock_of
from hypothesis import given, settings
from hypothesis import strategies as st
from parked_side import (
    UNKNOWN,
    catch_up,
    deliver,
    differing,
    lanes_of,
    omitted,
    on_hand,
    parked,
    received_by,
    retried,
)
from poison import Poison, poisoned
from prometheus_client import REGISTRY
from psycopg import OperationalError, sql
from read_side import ReadSide, read_side

from domain.envelope import Recorded
from projections import READ_MODELS
from projections.order_detail import ORDER_DETAIL
from projections.ports import Omitted
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.log.reading import StoredEvent
from runtime.read_models import apply as applying
from runtime.read_models import builds, lanes, resuming
from runtime.read_models import parked as parking
from runtime.read_models.folding import Model, contexts_of, keys_of
from runtime.read_models.parked import TooManyParked
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio


def figure(name: str) -> float:
    labels = {"model": STOCK_AVAILABILITY.name}
    return REGISTRY.get_sample_value(f"tallybook_projector_{name}_total", labels) or 0.0


async def test_its_stream_stands_still_before_it_and_all_others_go_on(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)
    model, before = poisoned(STOCK_AVAILABILITY, {poison.event_id}), figure("parkings")

    await catch_up(side, model)
    await received_by(side, 0, 4000)
    await received_by(side, 1, 6)
    await catch_up(side, model)

    assert await on_hand(side) == {"SKU0@MAIN": 1, "SKU1@MAIN": 11}
    [one] = await parked(side)
    assert (one.stream, one.event_id, one.position, one.version) == (
        stock_of(0),
        poison.event_id,
        poison.position,
        poison.version,
    )
    assert (one.type, one.error, one.tries) == (poison.type, f"Poison: {poison.event_id}", 1)
    assert figure("parkings") == before + 1
    [told] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert stock_of(0) in told.getMessage()
    assert poison.event_id in told.getMessage()
    heads = await side.reader.heads()
    async with side.pool.connection() as connection:
        marks = await builds.marks_of(connection, Table(model).build)
    assert {lane: mark for lane, mark in marks.items() if mark.position} == {
        lane: mark for lane, mark in heads.items() if lane[0] == "inventory"
    }


async def test_after_the_fix_it_resumes_in_order_and_is_fed_as_before(side: ReadSide) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    refused = {poison.event_id}
    model = poisoned(STOCK_AVAILABILITY, refused)
    await catch_up(side, model)
    await received_by(side, 0, 4000)
    await catch_up(side, model)

    refused.clear()
    assert await retried(side, model) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 4321}
    assert await parked(side) == []
    async with side.pool.connection() as connection:
        [fed] = (await builds.fed_of(connection, [Table(model)])).values()
    assert fed.parked == 0

    await received_by(side, 0, 50_000)
    await catch_up(side, model)
    assert await on_hand(side) == {"SKU0@MAIN": 54321}
    assert await differing(side, model) == []


async def test_what_is_refused_again_stays_parked_there(side: ReadSide) -> None:
    _, first, _, second, _ = await received_by(side, 0, 1, 20, 300, 4000, 50_000)
    refused = {first.event_id, second.event_id}
    model = poisoned(STOCK_AVAILABILITY, refused)
    await catch_up(side, model)
    [before] = await parked(side)

    [still] = await retried(side, model)
    assert still == replace(before, tries=2)
    assert await parked(side) == [still]

    refused.remove(first.event_id)
    [further] = await retried(side, model)
    assert further
    assert (further.event_id, further.tries, further.parked_at) == (second.event_id, 1, before.parked_at)
    assert await parked(side) == [further]
    assert await on_hand(side) == {"SKU0@MAIN": 321}

    refused.clear()
    assert await retried(side, model) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 54321}


def refusing_in(place: str, event: Recorded) -> Model:
    """The model whose keys, or whose rows, instead of its fold, will not do with the event."""
    model = STOCK_AVAILABILITY

    def keys(recorded: Recorded) -> Any:
        yield from model.keys(recorded)
        if recorded.event_id == event.event_id:
            raise Poison(place)

    def combine(parts: Any) -> Any:
        if event.stream in parts and parts[event.stream].version >= event.version:
            raise Poison(place)
        return model.combine(parts)

    return replace(model, keys=keys) if place == "keys" else replace(model, combine=combine)


@pytest.mark.parametrize("place", ["keys", "combine"])
async def test_it_may_be_refused_where_keys_or_rows_are_made(side: ReadSide, place: str) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)

    await catch_up(side, refusing_in(place, poison))

    assert [one.event_id for one in await parked(side)] == [poison.event_id]
    assert await on_hand(side) == {"SKU0@MAIN": 1, "SKU1@MAIN": 5}
    assert await retried(side, STOCK_AVAILABILITY) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 321, "SKU1@MAIN": 5}


async def becomes(side: ReadSide, event: Recorded, type_: str) -> None:
    """Its stored name is another from now on."""
    async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as owner:
        changed = await owner.execute(
            "update log.events set type = %s where position = %s", [type_, event.position]
        )
        assert changed.rowcount == 1


@pytest.mark.parametrize("by_kafka", [False, True])
async def test_what_cannot_be_decoded_parks_its_stream_where_that_matters(
    side: ReadSide, by_kafka: bool
) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)
    await becomes(side, poison, "stock.lost.v9")
    for model in (STOCK_AVAILABILITY, ORDER_DETAIL):
        if by_kafka:
            await deliver(side, model)
        else:
            await catch_up(side, model)

    [one] = await parked(side)
    assert (one.build, one.event_id, one.type) == (
        Table(STOCK_AVAILABILITY).build,
        poison.event_id,
        "stock.lost.v9",
    )
    assert one.error.startswith("UnknownEvent: ")
    assert await on_hand(side) == {"SKU0@MAIN": 1, "SKU1@MAIN": 5}

    await becomes(side, poison, poison.type)
    assert await retried(side, STOCK_AVAILABILITY) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 321, "SKU1@MAIN": 5}


async def test_kafka_delivers_twice_what_is_refused_once(side: ReadSide) -> None:
    await side.write(list(history(seed=3, appends=40)))
    refused = {(await of_stock(side))[20].event_id}
    model = poisoned(STOCK_AVAILABILITY, refused)

    await deliver(side, model, copies=2)
    await deliver(side, model)

    assert [one.event_id for one in await parked(side)] == [*refused]
    assert await differing(side, STOCK_AVAILABILITY) == []
    assert await differing(side, STOCK_AVAILABILITY, Omitted()) != []
    refused.clear()
    assert await retried(side, model) == [None]
    assert await differing(side, STOCK_AVAILABILITY, Omitted()) == []


async def of_stock(side: ReadSide) -> list[StoredEvent]:
    return [event for event in await side.reader.read(0) if event.stream.startswith("stock-")]


async def fails(_point: str, *, at: str) -> None:
    if _point == at:
        raise ConnectionAbortedError(at)


async def test_a_crash_before_the_commit_leaves_neither_rows_nor_parking_nor_checkpoint(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, poison = await received_by(side, 0, 1, 20)
    model = poisoned(STOCK_AVAILABILITY, {poison.event_id})
    with monkeypatch.context() as patch:
        patch.setattr(applying, "reached", partial(fails, at="after_rows_before_commit"))
        with pytest.raises(ConnectionAbortedError):
            await catch_up(side, model)
    assert (await parked(side), await on_hand(side)) == ([], {})
    assert {lane.mark for lane in (await lanes_of(side, model)).values()} == {builds.NOWHERE}

    await catch_up(side, model)
    assert len(await parked(side)) == 1
    assert await on_hand(side) == {"SKU0@MAIN": 1}


async def test_a_fault_of_the_database_or_of_memory_parks_nothing(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    await received_by(side, 0, 1)

    async def away(*_: object) -> None:
        raise OperationalError("away")

    def no_memory(_: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(applying, "_insert", away)
        with pytest.raises(OperationalError):
            await catch_up(side, STOCK_AVAILABILITY)
    with pytest.raises(MemoryError):
        await catch_up(side, replace(STOCK_AVAILABILITY, combine=no_memory))
    assert await parked(side) == []
    assert {lane.mark for lane in (await lanes_of(side, STOCK_AVAILABILITY)).values()} == {builds.NOWHERE}
    await catch_up(side, STOCK_AVAILABILITY)
    assert await on_hand(side) == {"SKU0@MAIN": 1}


@pytest.mark.parametrize("value", [2**63, "\0"])
async def test_a_value_that_postgresql_cannot_store_parks_its_stream_too(
    side: ReadSide, value: object
) -> None:
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)

    def combine(parts: Any) -> Any:
        row = STOCK_AVAILABILITY.combine(parts)
        refused = row and row.id == "SKU0@MAIN" and row.version >= poison.version
        changed: dict[str, Any] = {"on_hand" if isinstance(value, int) else "product_id": value}
        return replace(row, **changed) if row and refused else row

    faulty = replace(STOCK_AVAILABILITY, combine=combine)
    await catch_up(side, faulty)

    [one] = await parked(side)
    assert one.event_id == poison.event_id
    assert await on_hand(side) == {"SKU0@MAIN": 1, "SKU1@MAIN": 5}
    assert await retried(side, faulty) == [replace(one, tries=2)]
    assert await retried(side, STOCK_AVAILABILITY) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 321, "SKU1@MAIN": 5}


async def test_a_fold_that_refuses_too_much_stands_still_with_its_lane(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED", 2)
    await side.write(list(history(seed=4, appends=20)))
    stock = await of_stock(side)
    assert len({event.stream for event in stock}) > 2
    model = poisoned(STOCK_AVAILABILITY, {event.event_id for event in stock})

    with pytest.raises(TooManyParked):
        await catch_up(side, model)

    assert len(await parked(side)) <= 2
    await catch_up(side, STOCK_AVAILABILITY)
    await retried(side, STOCK_AVAILABILITY)
    assert await differing(side, STOCK_AVAILABILITY, Omitted()) == []


async def test_a_message_of_any_length_and_kind_can_be_told(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking.logger, "disabled", True)  # pytest-xdist cannot carry half a pair
    [poison] = await received_by(side, 0, 1)

    def combine(_: object) -> Any:
        raise Poison("\0\ud800" + "long" * 1000)

    await catch_up(side, replace(STOCK_AVAILABILITY, combine=combine))
    [one] = await parked(side)
    assert (one.event_id, one.error[:16]) == (poison.event_id, r"Poison: \0\ud800")
    assert len(one.error) < 1100


async def forget_builds(side: ReadSide) -> None:
    async with side.pool.connection() as connection:
        found = await connection.execute("delete from read.builds returning build")
        for (build,) in await found.fetchall():
            await connection.execute(sql.SQL("drop table {}").format(sql.Identifier("read", build)))


async def races(side: ReadSide, model: Model, chance: random.Random) -> None:
    """Some events are refused, then mended one by one, while two workers and two operators race."""
    await forget_builds(side)
    feeding = [
        event
        for event in await side.reader.read(0)
        if event.context in contexts_of(model) and keys_of(model, side.reader.decode(event))
    ]
    refused = {event.event_id for event in chance.sample(feeding, chance.randint(1, 5))}
    first: dict[str, int] = {}
    for event in feeding:
        if event.event_id in refused:
            first.setdefault(event.stream, event.position)
    faulty = poisoned(model, refused)

    await asyncio.gather(catch_up(side, faulty), deliver(side, faulty))
    assert (await omitted(side, model)).parked == first
    assert await differing(side, model) == []
    for event_id in chance.sample(sorted(refused), len(refused)):
        refused.remove(event_id)
        await asyncio.gather(retried(side, faulty), retried(side, faulty), deliver(side, faulty))
        assert await differing(side, model) == []
    assert await omitted(side, model) == Omitted()
    assert await differing(side, model) == []


def test_the_rest_is_always_the_fold_of_the_log_and_after_the_fix_all_of_it(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "STEP_EVENTS", 7)
    monkeypatch.setattr(resuming, "STEP_EVENTS", 3)
    with asyncio.Runner() as runner:
        opened = read_side(new_database)
        side = runner.run(opened.__aenter__())
        runner.run(side.write(list(history(seed=31, appends=25))))

        @settings(max_examples=10, deadline=None, database=None, derandomize=True)
        @given(model=st.sampled_from(READ_MODELS), chance=st.randoms(use_true_random=False))
        def any_race(model: Model, chance: random.Random) -> None:
            runner.run(races(side, model, chance))

        any_race()
        runner.run(opened.__aexit__(None, None, None))


async def test_a_worker_that_waited_for_a_retry_leaves_nothing_out(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for the checkpoint while the stream is parked, and gets it when the stream is not any more."""
    _, poison = await received_by(side, 0, 1, 20)
    refused = {poison.event_id}
    model = poisoned(STOCK_AVAILABILITY, refused)
    await catch_up(side, model)
    await received_by(side, 0, 300)
    refused.clear()
    folded, go_on = asyncio.Event(), asyncio.Event()

    async def waits(point: str) -> None:
        if point == "after_rows_before_resumed":
            folded.set()
            await go_on.wait()

    monkeypatch.setattr(resuming, "reached", waits)
    retrying = asyncio.create_task(retried(side, model))
    await folded.wait()
    working = asyncio.create_task(catch_up(side, model))
    await until_somebody_waits_for_a_lock(side)
    go_on.set()
    assert await retrying == [None]
    await working
    assert await on_hand(side) == {"SKU0@MAIN": 321}


async def until_somebody_waits_for_a_lock(side: ReadSide) -> None:
    async with asyncio.timeout(10), side.pool.connection() as connection:
        while True:
            waiting = await connection.execute("select from pg_locks where not granted")
            if waiting.rowcount:
                return
            await asyncio.sleep(0.02)


RETRIES = """
    import asyncio, sys
    from projections.stock_availability import STOCK_AVAILABILITY
    from runtime.log.reading import LogReader
    from runtime.postgres import connect
    from runtime.projector import ROLE
    from runtime.read_models import resuming
    from runtime.read_models.tables import Table

    async def main(url):
        resuming.STEP_EVENTS = 2
        table = Table(STOCK_AVAILABILITY)
        async with connect(url, ROLE) as connection, LogReader.open(url, ROLE) as reader:
            for one in await resuming.parked_in(connection, table):
                assert await resuming.resume(connection, reader, table, one) is None

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("point", "stands_at"),
    [("after_rows_before_resumed:1", 2), ("after_rows_before_resumed:2", 4), ("after_resumed_step:1", 4)],
)
async def test_a_retry_that_is_killed_is_gone_on_with_by_the_next(
    side: ReadSide, point: str, stands_at: int
) -> None:
    events = await received_by(side, 0, 1, 20, 300, 4000, 50_000)
    refused = {events[1].event_id}
    await catch_up(side, poisoned(STOCK_AVAILABILITY, refused))

    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", textwrap.dedent(RETRIES), side.read_url],
        env={**os.environ, "TALLYBOOK_CRASH_AT": point},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == -signal.SIGKILL, ran.stderr
    [one] = await parked(side)
    assert (one.version, one.event_id) == (stands_at, events[stands_at - 1].event_id)
    assert await on_hand(side) == {"SKU0@MAIN": 1 if stands_at == 2 else 321}
    assert await retried(side, STOCK_AVAILABILITY) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 54321}


async def test_a_long_stream_resumes_in_steps_and_a_retry_ends(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "STEP_EVENTS", 1)
    monkeypatch.setattr(resuming, "MAX_STEPS", 2)
    events = await received_by(side, 0, 1, 20, 300, 4000)
    await catch_up(side, poisoned(STOCK_AVAILABILITY, {events[0].event_id}))

    [further] = await retried(side, STOCK_AVAILABILITY)
    assert further
    assert (further.event_id, further.tries, further.error) == (events[2].event_id, 0, resuming.NOT_TRIED)
    assert await on_hand(side) == {"SKU0@MAIN": 21}
    assert await retried(side, STOCK_AVAILABILITY) == [None]
    assert await on_hand(side) == {"SKU0@MAIN": 4321}


async def test_what_the_log_does_not_have_is_not_resumed_from(side: ReadSide) -> None:
    [poison] = await received_by(side, 0, 1)
    await catch_up(side, poisoned(STOCK_AVAILABILITY, {poison.event_id}))
    async with side.pool.connection() as connection:
        await connection.execute("update read.parked set event_id = %s", [UNKNOWN])
    with pytest.raises(resuming.NotInLog, match=UNKNOWN):
        await retried(side, STOCK_AVAILABILITY)
    assert len(await parked(side)) == 1
