"""Read models under every way in which Kafka, the relay and other projectors can fail them."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest
from broker import OwnBroker, quick_on_the_embedded_one
from fresh_fold import differing_rows
from history import Facts, history, received, stock_of
from parked_side import retried
from poison import poisoned
from prometheus_client import REGISTRY
from psycopg.errors import IdleInTransactionSessionTimeout
from read_side import NO_BROKER, ReadSide, read_side, running

from projections.order_detail import ORDER_DETAIL
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import projector, relay
from runtime.projector import Projector
from runtime.read_models import parked as parking
from runtime.read_models.builds import AheadOfLog
from runtime.read_models.parked import omitted_of
from runtime.read_models.tables import Table

pytestmark = [
    pytest.mark.anyio,
    # kafka-python leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

JOIN_SECONDS = 20.0
RECOVER_SECONDS = 30.0
STOP_SECONDS = 10.0
UNSTUCK_SECONDS = 5.0


@pytest.fixture
def no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first look a new one sleeps through the test: what arrives, Kafka has brought."""
    monkeypatch.setattr(projector, "WATCH_S", 3600.0)


def figure(name: str) -> float:
    """A counter's value over all read models."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == f"tallybook_{name}_total"
    )


def split(facts: list[Facts]) -> tuple[list[Facts], list[Facts]]:
    return facts[: len(facts) // 2], facts[len(facts) // 2 :]


async def until(reached: Callable[[], bool], seconds: float = JOIN_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.02)


async def test_without_kafka_the_watchdog_keeps_every_row_equal_to_a_fresh_fold(
    new_database: Callable[[], str],
) -> None:
    past, future = split(list(history(seed=1, appends=80)))
    async with read_side(new_database, apart=True) as side:
        await side.write(past)
        async with running(side.projector()):
            await side.converge()
            await side.write(future)
            await side.converge()


async def test_a_worker_that_is_stopped_in_the_middle_of_a_step_holds_the_others_up_for_a_second_only(
    new_database: Callable[[], str],
) -> None:
    past, future = split(list(history(seed=3, appends=40)))
    async with read_side(new_database) as side, projector.rows_pool(side.read_url) as stopped:
        await side.write(past)
        async with running(side.projector()):
            await side.converge()
            async with stopped.connection() as connection:
                await connection.execute("begin")
                await connection.execute("update read.checkpoints set position = position")
                await side.write(future)
                async with asyncio.timeout(UNSTUCK_SECONDS):
                    await side.converge()
                with pytest.raises(IdleInTransactionSessionTimeout):
                    await connection.execute("select")


async def test_kafka_alone_brings_every_event_in_the_chains_order(
    side: ReadSide, own_broker: OwnBroker, no_watchdog: None
) -> None:
    past, future = split(list(history(seed=2, appends=60)))
    await side.write(past)
    from_log, gaps = figure("projector_log_events"), figure("projector_gaps")
    async with running(side.projector(own_broker.servers), side.relay(own_broker.servers)):
        await side.converge()
        caught_up = figure("projector_log_events")
        assert caught_up > from_log
        await side.write(future)
        await side.converge()
    assert figure("projector_log_events") == caught_up
    assert figure("projector_gaps") == gaps


async def test_a_relay_stopped_between_sending_and_its_checkpoint_sends_again_what_is_then_ignored(
    side: ReadSide, own_broker: OwnBroker, no_watchdog: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = asyncio.Event()

    async def stop(point: str) -> None:
        assert point == "after_send_before_checkpoint"
        stopped.set()
        await asyncio.sleep(3600)

    async with running(side.projector(own_broker.servers)):
        await side.converge()
        with monkeypatch.context() as patch:
            patch.setattr(relay, "reached", stop)
            async with running(side.relay(own_broker.servers)):
                await side.write(list(history(seed=3, appends=20)))
                await asyncio.wait_for(stopped.wait(), JOIN_SECONDS)
        duplicates = figure("projector_duplicates")
        async with running(side.relay(own_broker.servers)):
            await side.converge()
            await until(lambda: figure("projector_duplicates") > duplicates)
        assert await side.differing() == []


def brought_by_kafka() -> float:
    return figure("projector_applied_events") - figure("projector_log_events")


@quick_on_the_embedded_one
async def test_a_broker_that_came_back_empty_is_used_again(side: ReadSide, own_broker: OwnBroker) -> None:
    first, second = split(list(history(seed=4, appends=60)))
    async with running(side.projector(own_broker.servers), side.relay(own_broker.servers)):
        await side.write(first)
        await side.converge()
        await own_broker.kill()
        await side.write(second)
        await side.converge()
        await own_broker.start()
        await until_kafka_brings(side)
        await side.converge()


@pytest.mark.heavy
async def test_a_broker_that_was_killed_and_came_back_as_it_was_is_used_again(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    first, second = split(list(history(seed=9, appends=60)))
    async with running(side.projector(own_broker.servers), side.relay(own_broker.servers)):
        await side.write(first)
        await side.converge()
        await own_broker.kill()
        await side.write(second)
        await side.converge()
        await own_broker.resume()
        await until_kafka_brings(side)
        await side.converge()


async def until_kafka_brings(side: ReadSide) -> None:
    before = brought_by_kafka()
    async with asyncio.timeout(RECOVER_SECONDS):
        while brought_by_kafka() == before:
            await side.writer.append((stock_of(0), received(0, 1)))
            await asyncio.sleep(0.05)


async def test_a_fold_that_refuses_an_event_stops_one_stream_of_one_read_model(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    past, future = split(list(history(seed=7, appends=40)))
    await side.write(past)
    stock = [event for event in await side.reader.read(0) if event.stream == stock_of(0)]
    refused = {stock[-1].event_id}
    faulty = poisoned(STOCK_AVAILABILITY, refused)

    async def is_all_but_the_parked() -> bool:
        async with side.pool.connection() as connection:
            left_out = await omitted_of(connection, Table(faulty))
            return left_out.parked.keys() == {stock_of(0)} and not [
                *await differing_rows(side.reader, connection, ORDER_DETAIL),
                *await differing_rows(side.reader, connection, STOCK_AVAILABILITY, left_out),
            ]

    projecting = Projector(side.reader, side.pool, own_broker.servers, [ORDER_DETAIL, faulty])
    async with running(projecting, side.relay(own_broker.servers)):
        await until(lambda: gauge("parked_streams") == 1)
        await side.write(future)
        async with asyncio.timeout(JOIN_SECONDS):
            while not await is_all_but_the_parked():
                await asyncio.sleep(0.05)
        refused.clear()
        assert await retried(side, faulty) == [None]
        await until(lambda: gauge("parked_streams") == 0)
    async with running(side.projector()):
        await side.converge()


def gauge(name: str) -> float:
    labels = {"model": STOCK_AVAILABILITY.name}
    return REGISTRY.get_sample_value(f"tallybook_projector_{name}", labels) or 0.0


async def test_a_fold_that_refuses_everything_stands_still_and_goes_on_when_it_is_mended(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "REFUSED_PAUSE_S", 0.1)
    monkeypatch.setattr(parking, "MAX_PARKED", 0)
    await side.write(list(history(seed=7, appends=20)))
    broken = poisoned(STOCK_AVAILABILITY, {event.event_id for event in await side.reader.read(0)})
    refused = figure("projector_refused")
    async with running(Projector(side.reader, side.pool, NO_BROKER, [ORDER_DETAIL, broken])):
        await until(lambda: figure("projector_refused") > refused + 2)
        async with side.pool.connection() as connection:
            assert await differing_rows(side.reader, connection, ORDER_DETAIL) == []
    async with running(side.projector()):
        await side.converge()


async def test_sessions_cut_under_a_projector_cost_nothing_but_time(side: ReadSide) -> None:
    facts = list(history(seed=8, appends=60))
    async with running(side.projector()):
        await side.converge()
        for start in range(0, len(facts), 20):
            await side.write(facts[start : start + 20])
            async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
                await owner.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = %s and datname = current_database()",
                    [projector.ROLE],
                )
        await side.converge()


async def test_two_projectors_share_the_work_and_the_rows_are_right(
    side: ReadSide, own_broker: OwnBroker
) -> None:
    facts = list(history(seed=5, appends=120))
    services = [side.projector(own_broker.servers) for _ in range(2)]
    async with running(*services, side.relay(own_broker.servers)):
        for start in range(0, len(facts), 20):
            await side.write(facts[start : start + 20])
        await side.converge()


async def test_a_read_model_ahead_of_the_log_stops_the_projector_and_says_what_to_do(side: ReadSide) -> None:
    await side.write(list(history(seed=6, appends=5)))
    async with running(side.projector()):
        await side.converge()
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        await owner.execute(
            "update read.checkpoints set event_id = gen_random_uuid() "
            "where position > 0 and context = 'orders'"
        )

    with pytest.raises(AheadOfLog, match=r"which the log does not have.*`tallybook rebuild order_detail`"):
        await asyncio.wait_for(side.projector().run(), STOP_SECONDS)


async def test_a_projector_that_comes_to_be_ahead_of_the_log_stops(side: ReadSide) -> None:
    """As after messages that no relay of this log has sent."""
    await side.write(list(history(seed=6, appends=5)))
    async with running(side.projector()):
        await side.converge()
    service = asyncio.create_task(side.projector().run())
    await asyncio.sleep(2 * projector.WATCH_S)
    assert not service.done()
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        await owner.execute(
            "update read.checkpoints set event_id = gen_random_uuid(), position = position + 1 "
            "where position > 0 and context = 'orders'"
        )
    with pytest.raises(ExceptionGroup) as stopped:
        await asyncio.wait_for(service, STOP_SECONDS)
    assert stopped.group_contains(AheadOfLog, match="which the log does not have")
