"""The standing verifier: an alarm when a row is not what the log says, and no other; never in the way."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from history import history
from prometheus_client import REGISTRY
from psycopg import sql
from read_side import ReadSide, running

from domain.envelope import Recorded
from projections import READ_MODELS
from projections._stock_part import StockPart
from projections.order_detail import ORDER_DETAIL
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import verifier as verifying
from runtime.audit_log.history import History
from runtime.audit_log.mapper import Historic, Kept
from runtime.read_models import builds
from runtime.read_models import rebuild as rebuilding
from runtime.read_models.folding import Model
from runtime.read_models.rebuild import Rebuild
from runtime.read_models.tables import Table
from runtime.read_models.verify import Verified
from runtime.secrets import ROLES
from runtime.settings import Settings, environment_of
from runtime.verifier import REST, Verifier

pytestmark = pytest.mark.anyio

EVERY_S = 0.05
PASS_SECONDS = 20.0
STOP_SECONDS = 5.0
WORK_S = 0.01
WORKING_S = 0.5
NO_DATABASE = "postgresql://shop@127.0.0.1:1/read"

HARMS = (
    ("a column", "update {table} set on_hand = on_hand + 1 where id = {one}", "on_hand"),
    ("no row at all", "update {table} set sku = null where id = {one}", "sku"),
    (
        "its parts",
        "update {table} set parts = convert_to('{{}}', 'utf8') where id = {one}",
        "its parts, from which it is folded on",
    ),
    ("a row that is gone", "delete from {table} where id = {one}", "is not served"),
    (
        "a row that nobody made",
        (
            "create temporary table made as select * from {table} where id = {one};"
            " update made set id = 'invented'; insert into {table} select * from made"
        ),
        "is served",
    ),
)
REPAIR = "begin; delete from {table}; insert into {table} select * from read.kept; commit"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hardly rests."""
    monkeypatch.setattr(verifying, "REST", 0.2)


def figure(name: str, model: Model = STOCK_AVAILABILITY) -> float | None:
    return REGISTRY.get_sample_value(f"tallybook_verifier_{name}", {"model": model.name})


def count(name: str, model: Model = STOCK_AVAILABILITY) -> float:
    return figure(f"{name}_total", model) or 0.0


@asynccontextmanager
async def served(side: ReadSide, appends: int = 60) -> AsyncIterator[None]:
    """Some history, which every read model has applied; then nobody runs."""
    await side.write(list(history(seed=31, appends=appends)))
    async with running(side.projector()):
        await side.converge()
    yield


@asynccontextmanager
async def standing(
    side: ReadSide, *models: Model, url: str | None = None, past: History | None = None
) -> AsyncIterator[None]:
    """A verifier at work; one that fails fails the test."""
    with History.open(side.log_url) as opened:
        verifier = Verifier(past or opened, url or side.read_url, EVERY_S, models or [STOCK_AVAILABILITY])
        task = asyncio.create_task(verifier.run())
        yield
        assert not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, STOP_SECONDS)


async def until(reached: Callable[[], bool], seconds: float = PASS_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.01)


async def another_pass(model: Model = STOCK_AVAILABILITY) -> None:
    """Until one has ended that began after this was called."""
    begun = count("passes", model)
    await until(lambda: count("passes", model) >= begun + 2)


async def by_hand(side: ReadSide, statement: str, model: Model = STOCK_AVAILABILITY) -> None:
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        table = (await builds.served_of(owner, Table(model)) or Table(model)).identifier
        one = sql.SQL("(select min({}) from {})").format(Table(model).key.identifier, table)
        await owner.execute(sql.SQL(statement).format(table=table, one=one))


@pytest.mark.usefixtures("hurried")
async def test_what_a_projector_keeps_raises_no_alarm_and_the_figures_say_so(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(side), standing(side, *READ_MODELS):
        for model in READ_MODELS:
            await another_pass(model)
    head = (await side.reader.head()).position
    for model in READ_MODELS:
        assert figure("differing_rows", model) == 0
        assert (figure("rows", model) or 0) > 0
        assert 0 < (figure("position", model) or 0) <= head
        assert 0 < (figure("pass_seconds", model) or 0) < PASS_SECONDS
        assert abs(time.time() - (figure("passed_at_seconds", model) or 0)) < PASS_SECONDS
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.usefixtures("hurried")
async def test_a_row_changed_by_hand_is_an_alarm_until_a_pass_finds_it_repaired(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(side), standing(side):
        await by_hand(side, "create table read.kept as select * from {table}")
        for what, harm, word in HARMS:
            await another_pass()
            assert figure("differing_rows") == 0, what
            caplog.clear()
            await by_hand(side, harm)
            await another_pass()
            assert figure("differing_rows") == 1, what
            await another_pass()
            assert figure("differing_rows") == 1, f"{what}: nobody repaired it"
            alarm = next(record for record in caplog.records if record.levelno == logging.ERROR)
            assert "DRIFT: 1 of stock_availability" in alarm.message
            assert word in alarm.message, what
            await by_hand(side, REPAIR)
        await another_pass()
        assert figure("differing_rows") == 0


@pytest.mark.heavy
@pytest.mark.usefixtures("hurried")
async def test_drift_is_found_under_traffic_and_traffic_is_no_drift(side: ReadSide) -> None:
    facts = list(history(seed=32, appends=160))
    await side.write(facts[:100])
    async with running(side.projector()):
        await side.converge()
        async with standing(side, *READ_MODELS):
            for number, part in enumerate(facts[start : start + 20] for start in range(100, len(facts), 20)):
                writing = asyncio.create_task(side.write(part))
                await another_pass(READ_MODELS[number % len(READ_MODELS)])
                await writing
                assert [figure("differing_rows", model) for model in READ_MODELS] == [0] * len(READ_MODELS)
            # Of an order that nothing follows: an event would write the column anew.
            await by_hand(side, "update {table} set order_no = 'x' where order_id = {one}", ORDER_DETAIL)
            writing = asyncio.create_task(side.write(facts[-10:]))
            await another_pass(ORDER_DETAIL)
            await writing
            assert figure("differing_rows", ORDER_DETAIL) == 1
            assert figure("differing_rows") == 0


class Held(History):
    """Waits behind its first event, until it is let go."""

    reading = threading.Event()
    let_go = threading.Event()

    def events(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        types: Sequence[str] = (),
        wanted: Callable[[Kept], bool] | None = None,
    ) -> Iterator[Historic]:
        for historic in super().events(after=after, upto=upto, types=types, wanted=wanted):
            yield historic
            self.reading.set()
            assert self.let_go.wait(PASS_SECONDS)


@pytest.fixture
def held(side: ReadSide) -> Iterator[Held]:
    Held.reading.clear()
    Held.let_go.clear()
    with Held.open(side.log_url) as history:
        assert isinstance(history, Held)
        yield history
        Held.let_go.set()


@pytest.mark.usefixtures("hurried")
async def test_another_build_that_takes_the_place_during_a_pass_is_no_alarm(
    side: ReadSide, held: Held, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "DROP_TRIES", 1)  # the pass uses it
    await side.write(list(history(seed=33, appends=40)))
    async with running(side.projector()):
        await side.converge()
        passes, failed = count("passes"), count("failed_passes")
        async with standing(side, past=held):
            await until(Held.reading.is_set)
            with History.open(side.log_url) as past:
                made = Rebuild(side.read_url, side.reader, past, STOCK_AVAILABILITY, lambda _: None)
                assert (await made.run(serve=True)).differing == 0
            Held.let_go.set()
            await until(lambda: count("passes") >= passes + 3)
    assert figure("differing_rows") == 0
    assert count("failed_passes") == failed
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_it_stops_in_the_middle_of_a_pass(side: ReadSide, held: Held) -> None:
    async with served(side):
        passed_at = figure("passed_at_seconds")
        async with standing(side, past=held):
            await until(Held.reading.is_set)
            began = time.monotonic()
        assert time.monotonic() - began < 1.0
        assert figure("passed_at_seconds") == passed_at


@pytest.mark.usefixtures("hurried")
async def test_a_database_that_is_away_costs_passes_and_no_alarm(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(side):
        async with standing(side):
            await another_pass()
        passed_at, failed = figure("passed_at_seconds"), count("failed_passes")
        async with standing(side, url=NO_DATABASE):
            await another_pass()
        assert count("failed_passes") > failed
        assert figure("passed_at_seconds") == passed_at
        assert "stock_availability cannot be verified now" in caplog.text
        async with standing(side):
            await another_pass()
            assert figure("passed_at_seconds") != passed_at


@pytest.mark.usefixtures("hurried")
async def test_a_fold_that_refuses_fails_its_pass_and_the_other_models_have_theirs(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_part: StockPart | None, _recorded: Recorded) -> StockPart:
        raise ValueError("poison")

    async with served(side):
        failed, passed_at = count("failed_passes"), figure("passed_at_seconds", ORDER_DETAIL)
        async with standing(side, replace(STOCK_AVAILABILITY, folds={"stock": refuse}), ORDER_DETAIL):
            await another_pass(ORDER_DETAIL)
        assert count("failed_passes") > failed
        assert figure("passed_at_seconds", ORDER_DETAIL) != passed_at
    assert "stock_availability cannot be verified" in caplog.text
    assert "poison" in caplog.text


async def test_what_is_not_served_yet_is_neither_drift_nor_a_failure(
    side: ReadSide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failed, passed_at = count("failed_passes"), figure("passed_at_seconds")
    async with standing(side):
        await another_pass()
    assert (count("failed_passes"), figure("passed_at_seconds")) == (failed, passed_at)
    assert "no projector of this release has caught up with the log" in caplog.text


async def test_it_rests_nine_times_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = 0.0

    async def works(*_: object) -> Verified:
        nonlocal worked
        worked += WORK_S
        await asyncio.sleep(WORK_S)
        return Verified("stock_availability", rows=0, head=0, parked=[], differing=0, told=[])

    monkeypatch.setattr(verifying, "verify", works)
    with History.open(NO_DATABASE) as past:
        task = asyncio.create_task(Verifier(past, NO_DATABASE, 0.0, [STOCK_AVAILABILITY]).run())
        await asyncio.sleep(WORKING_S)
        task.cancel()
        await asyncio.wait({task})
    assert 2 * WORK_S < worked <= WORKING_S / (1 + REST) + WORK_S


async def told_by(client: httpx.AsyncClient, name: str) -> float | None:
    """A figure of a process about stock_availability; None while it has not told it."""
    with suppress(httpx.TransportError):
        wanted = f'tallybook_verifier_{name}{{model="{STOCK_AVAILABILITY.name}"}} '
        for line in (await client.get("/metrics")).text.splitlines():
            if line.startswith(wanted):
                return float(line.removeprefix(wanted))
    return None


def session_niceness(pid: int) -> int | None:
    """None where the kernel does not share the processor among sessions."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


@pytest.mark.heavy  # a process of its own, whose rounds are a second apart
async def test_the_process_gives_way_tells_its_figures_and_stops_when_it_is_told(
    side: ReadSide, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    settings = Settings(
        home=tmp_path,
        database_url=side.log_url,
        read_database_url=side.read_url,
        kafka_bootstrap_servers="127.0.0.1:1",
        digest_key=bytes(32),
        tokens={role: role for role in ROLES},
        metrics_port=port,
        verify_every_s=1.0,
    )
    async with served(side):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.cli", "verifier"],
            env=os.environ | environment_of(settings),
            start_new_session=True,  # it makes its session less urgent
        )
        try:
            async with (
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
                asyncio.timeout(2 * PASS_SECONDS),
            ):
                while await told_by(client, "differing_rows") != 0:
                    await asyncio.sleep(0.05)
                await by_hand(side, HARMS[0][1])
                while await told_by(client, "differing_rows") != 1:
                    await asyncio.sleep(0.05)
            assert psutil.Process(process.pid).nice() == verifying.LEAST
            assert session_niceness(process.pid) in (None, verifying.LEAST)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, STOP_SECONDS) == 0
        finally:
            process.kill()
            process.wait()
