"""What holds of every command: repeats, refusals, conflicts, concurrency."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from tests.commands.conftest import T0, House, WatchedLog, once, only, ordered, wants

from commands import _transact
from commands._states import Streams
from commands._transact import transact
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.place_order import place_order
from commands.ports import (
    Append,
    Appended,
    Conflict,
    Contended,
    KeyReused,
    LogFull,
    LogUnavailable,
    OutcomeUnknown,
    Receipt,
    Verdict,
)
from commands.register_location import RegisterLocation, register_location
from commands.set_price import SetPrice, set_price
from commands.shop import Shop
from domain.location import LOCATION
from domain.order import OrderPlaced
from domain.stock import STOCK, InsufficientStock, StockAdjusted, StockReceived
from runtime.ids import FixedClock

pytestmark = pytest.mark.anyio

ONE_MUG = wants(("MUG", 1), total=1990)


async def test_a_refusal_is_never_stale(house: House) -> None:
    await house.sells("MUG")
    shop = house.shop(once(lambda: house.receives("MUG", 1)))
    receipt = await place_order(shop, house.issued(), ONE_MUG)
    assert only(receipt, OrderPlaced).lines[0].qty == 1
    (_, received), (refusal, verdict), (_, placed) = house.log.given[-3:]
    assert isinstance(received, Appended)
    assert (refusal.events, verdict) == ([], Conflict())
    assert placed == Appended(receipt.events)


async def test_a_stale_version_is_never_told_on_stale_knowledge(house: House) -> None:
    await house.sells("MUG", qty=5)
    shop = house.shop(once(lambda: house.receives("MUG", 1)))
    receipt = await adjust_stock(shop, house.issued(if_match=3), AdjustStock("MUG", "MAIN", "found", delta=1))
    assert only(receipt, StockAdjusted).delta == 1


async def test_a_refusal_carries_the_tips_of_all_it_read_and_its_digest(house: House) -> None:
    await house.sells("MUG")
    issued = house.issued()
    with pytest.raises(InsufficientStock):
        await place_order(house.shop(), issued, ONE_MUG)
    append, verdict = house.log.given[-1]
    product_id, variant_id = house.variants["MUG"]
    assert append.tips.keys() == {
        "sku-MUG",
        "location-MAIN",
        f"product-{product_id}",
        f"price-{variant_id}",
        "stock-MUG@MAIN",
    }
    assert (append.digest, append.fingerprint) == (issued.digest, issued.fingerprint)
    assert (append.events, verdict) == ([], Appended(()))


async def test_the_repeat_of_what_succeeded_gets_its_first_answer_for_ever(house: House) -> None:
    await house.sells("MUG", qty=1)
    shop = house.shop()
    first = await place_order(shop, house.issued("key"), ONE_MUG)
    with pytest.raises(InsufficientStock):
        await place_order(house.shop(), house.issued("another"), ONE_MUG)
    for process in (shop, house.shop()):
        assert await place_order(process, house.issued("key"), ONE_MUG) == Receipt(
            first.events, replayed=True
        )
    await house.receives("MUG", 1)
    again = await place_order(house.shop(), house.issued("key"), ONE_MUG)
    assert again == Receipt(first.events, replayed=True)
    assert house.stock("MUG").available == 1


async def test_a_double_click_has_effect_once(house: House) -> None:
    await house.sells("MUG", qty=5)
    one, other = house.shop(), house.shop()
    receipts = await asyncio.gather(
        *(place_order(shop, house.issued("key"), ONE_MUG) for shop in (one, one, other, other))
    )
    assert sorted(receipt.replayed for receipt in receipts) == [False, True, True, True]
    assert len({receipt.events for receipt in receipts}) == 1
    assert house.stock("MUG").available == 4


async def test_a_key_means_one_request_only(house: House) -> None:
    await house.sells("MUG", qty=5)
    await place_order(house.shop(), house.issued("key", body=1), ONE_MUG)
    before = len(house.log.recorded)
    with pytest.raises(KeyReused):
        await place_order(house.shop(), house.issued("key", body=2), ONE_MUG)
    assert len(house.log.recorded) == before


async def test_a_refusal_binds_no_key(house: House) -> None:
    await house.sells("MUG")
    with pytest.raises(InsufficientStock):
        await place_order(house.shop(), house.issued("key"), ONE_MUG)
    await house.receives("MUG", 1)
    receipt = await place_order(house.shop(), house.issued("key"), ONE_MUG)
    assert not receipt.replayed


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_last_unit_goes_to_exactly_one(house: House, processes: int) -> None:
    await house.sells("MUG", qty=1)
    shops = [house.shop() for _ in range(processes)]
    outcomes = await asyncio.gather(
        *(place_order(shops[n % processes], house.issued(), ONE_MUG) for n in range(2)),
        return_exceptions=True,
    )
    assert Counter(map(type, outcomes)) == {Receipt: 1, InsufficientStock: 1}
    assert house.stock("MUG").available == 0


@pytest.mark.parametrize("processes", [1, 2])
async def test_200_buyers_of_50_units(house: House, processes: int) -> None:
    await house.sells("MUG", qty=50)
    shops = [house.shop() for _ in range(processes)]
    outcomes = await asyncio.gather(
        *(place_order(shops[n % processes], house.issued(), ONE_MUG) for n in range(200)),
        return_exceptions=True,
    )
    assert Counter(map(type, outcomes)) == {Receipt: 50, InsufficientStock: 150}
    reserved = [recorded for recorded in house.log.recorded if recorded.type == "stock.reserved.v1"]
    assert len(reserved) == 50
    assert house.stock("MUG").available == 0


async def test_buyers_in_one_process_build_on_each_other_rather_than_conflict(house: House) -> None:
    await house.sells("MUG", qty=50)
    shop = house.shop()
    await asyncio.gather(*(place_order(shop, house.issued(), ONE_MUG) for _ in range(50)))
    conflicts = [append for append, verdict in house.log.given if isinstance(verdict, Conflict)]
    assert conflicts == []


async def test_orders_of_the_same_lines_in_another_order_pass_each_other(house: House) -> None:
    skus = [f"S{number}" for number in range(12)]
    for sku in skus:
        await house.sells(sku, qty=20, price=1)
    shops = [house.shop(), house.shop()]
    forwards, backwards = [(sku, 1) for sku in skus], [(sku, 1) for sku in reversed(skus)]
    receipts = await asyncio.gather(
        *(
            place_order(shops[n % 2], house.issued(), wants(*(forwards if n % 3 else backwards), total=12))
            for n in range(20)
        )
    )
    assert len({receipt.events for receipt in receipts}) == 20
    assert [house.stock(sku).available for sku in skus] == [0] * 12


async def test_a_command_that_always_conflicts_gives_up_in_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transact, "MAX_SECONDS", 0.2)
    await house.sells("MUG", qty=5)

    async def somebody_is_quicker(_point: str) -> None:
        await house.receives("MUG", 1)

    started = asyncio.get_running_loop().time()
    with pytest.raises(Contended):
        await place_order(house.shop(somebody_is_quicker), house.issued(), ONE_MUG)
    assert 0.1 < asyncio.get_running_loop().time() - started < 2
    assert house.stock("MUG").reserved == 0


async def test_a_time_out_of_the_log_is_not_told_as_nothing_done(house: House) -> None:
    await house.sells("MUG", qty=5)
    house.log.answers = False
    with pytest.raises(TimeoutError):
        await place_order(house.shop(), house.issued(), ONE_MUG)
    assert house.stock("MUG").available == 4


async def test_a_decision_overtaken_in_its_own_process_loads_nothing_again(house: House) -> None:
    await house.sells("MUG", qty=5)
    shop = house.shop()
    await ordered(shop, house.issued(), ("MUG", 1), total=1990)
    loaded = len(house.log.read)
    price = SetPrice(*house.variants["MUG"], "EUR", 1990)
    shop.reached = once(lambda: set_price(shop, house.issued(), price))
    await ordered(shop, house.issued(), ("MUG", 1), total=1990)
    assert [type(verdict) for _, verdict in house.log.given[-3:]] == [Appended, Conflict, Appended]
    assert all(version for after in house.log.read[loaded:] for version in after.values())


async def test_no_decision_is_dated_before_what_it_has_read(house: House) -> None:
    await house.sells("MUG", qty=5)
    house.clock.advance(timedelta(hours=1))
    await house.receives("MUG", 1)
    house.clock.advance(timedelta(hours=-1))
    receipt = await place_order(house.shop(), house.issued(), ONE_MUG)
    assert {recorded.metadata.occurred_at for recorded in receipt.events} == {T0 + timedelta(hours=1)}
    assert only(receipt, OrderPlaced).expires_at == T0 + timedelta(hours=1, minutes=10)


async def test_events_say_who_issued_the_command_and_why(house: House) -> None:
    await house.sells("MUG", qty=5)
    issued = house.issued()
    receipt = await place_order(house.shop(), issued, ONE_MUG)
    for recorded in receipt.events:
        assert recorded.metadata.actor == issued.actor
        assert recorded.metadata.command_id == issued.command_id
        assert recorded.metadata.correlation_id == issued.correlation_id
        assert recorded.metadata.causation_id is None


async def test_a_decision_that_never_stops_reading_is_a_defect(house: House) -> None:
    seen: list[str] = []

    def decide(streams: Streams) -> dict[str, list[OrderPlaced]]:
        seen.append("again")
        for number in range(len(seen)):
            streams.read(LOCATION, f"P{number}")
        return {}

    with pytest.raises(AssertionError, match="still finds streams"):
        await transact(house.shop(), house.issued(), decide)


WAIT_S: Final = 5.0
MUG: Final = STOCK.stream("MUG@MAIN")


class HeldLog(WatchedLog):
    """Appends stand in a queue until they are let through, in the order in which they came."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock)
        self.holds = False
        self._queue: list[tuple[Append, asyncio.Future[Exception | None]]] = []

    async def append(self, append: Append) -> Verdict:
        if not self.holds:
            return await super().append(append)
        turn: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._queue.append((append, turn))
        # Whoever asked may be cancelled; what is queued goes its way.
        verdict, failure = await asyncio.shield(asyncio.create_task(self._in_turn(append, turn)))
        if failure is not None:
            raise failure
        assert verdict is not None
        return verdict

    async def _in_turn(
        self, append: Append, turn: asyncio.Future[Exception | None]
    ) -> tuple[Verdict | None, Exception | None]:
        failure = await turn
        if failure is not None and not isinstance(failure, OutcomeUnknown):
            return None, failure
        return await super().append(append), failure

    @property
    def queued(self) -> list[Append]:
        return [append for append, _ in self._queue]

    def let(self, failure: Exception | None = None) -> None:
        """The first one through, or back with a failure; `OutcomeUnknown`: through, and no answer comes."""
        self._queue.pop(0)[1].set_result(failure)

    def open(self) -> None:
        self.holds = False
        while self._queue:
            self.let()


class Till:
    """A shop of one process on a log that can be held, with five mugs to sell."""

    def __init__(self, house: House, log: HeldLog, shop: Shop) -> None:
        self.house = house
        self.log = log
        self.shop = shop
        self.tasks: list[asyncio.Task[Receipt]] = []

    async def starts(self, *commands: Coroutine[Any, Any, Receipt]) -> list[asyncio.Task[Receipt]]:
        """They stand in the queue, in this order."""
        tasks = []
        for number, command in enumerate(commands, start=len(self.log.queued) + 1):
            task = asyncio.create_task(command)
            tasks.append(task)
            async with asyncio.timeout(WAIT_S):
                while len(self.log.queued) < number and not task.done():
                    await asyncio.sleep(0)
        self.tasks += tasks
        return tasks

    def buys(self, qty: int = 1, key: str | None = None) -> Coroutine[Any, Any, Receipt]:
        return place_order(self.shop, self.house.issued(key), wants(("MUG", qty), total=1990 * qty))

    def adjusts(self, delta: int) -> Coroutine[Any, Any, Receipt]:
        return adjust_stock(self.shop, self.house.issued(), AdjustStock("MUG", "MAIN", "found", delta=delta))

    def counts(self, counted: int) -> Coroutine[Any, Any, Receipt]:
        return adjust_stock(
            self.shop, self.house.issued(), AdjustStock("MUG", "MAIN", "count", counted=counted)
        )

    @property
    def ahead(self) -> int:
        """What the next decision would find on hand."""
        known = self.shop.states.get(MUG)
        assert known is not None
        return int(known.state.on_hand)


@pytest.fixture
async def till(house: House) -> AsyncIterator[Till]:
    log = house.log = HeldLog(house.clock)
    await house.sells("MUG", qty=5)
    shop = house.shop()
    await ordered(shop, house.issued(), ("MUG", 1), total=1990)
    await house.receives("MUG", 1)
    await shop.states.load({MUG: STOCK})
    log.holds = True
    till = Till(house, log, shop)
    yield till
    log.open()
    await ends(*till.tasks)
    assert not shop.states._ahead, "nothing is in flight any more"


async def ends(*tasks: asyncio.Task[Receipt]) -> list[Receipt | BaseException]:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_answers_leave_only_after_the_commit(till: Till) -> None:
    first, second = await till.starts(till.adjusts(1), till.adjusts(2))
    assert till.ahead == 6 + 1 + 2
    assert till.house.stock("MUG").on_hand == 6
    await asyncio.sleep(0.01)
    assert not first.done()
    assert not second.done()
    till.log.let()
    await ends(first)
    assert not second.done()
    assert till.house.stock("MUG").on_hand == 7
    till.log.let()
    assert [type(end) for end in await ends(first, second)] == [Receipt, Receipt]
    assert till.house.stock("MUG").on_hand == till.ahead == 9


async def test_a_decision_on_what_is_in_flight_says_so_with_its_tips(till: Till) -> None:
    await till.starts(till.adjusts(1), till.adjusts(2))
    first, second = till.log.queued
    assert second.tips[MUG].event_id == first.events[-1].event_id
    assert second.tips[MUG].version == first.tips[MUG].version + 1


@pytest.mark.parametrize(
    "failure", [LogFull(), LogUnavailable("away"), OutcomeUnknown("cut"), ValueError("x")]
)
async def test_what_builds_on_a_failed_append_is_decided_again(till: Till, failure: Exception) -> None:
    """The count is right whether what it had built on came to be (of an unknown outcome it has) or not."""
    lost, count, more = await till.starts(till.adjusts(1), till.counts(20), till.adjusts(-1))
    till.log.let(failure)
    assert await ends(lost) == [failure]
    assert till.ahead == 6, "nothing is built on it any more"
    till.log.open()
    assert [type(end) for end in await ends(count, more)] == [Receipt, Receipt]
    on_hand = 0
    for recorded in till.log.recorded:
        if isinstance(recorded.event, StockReceived):
            on_hand += recorded.event.qty
        if isinstance(recorded.event, StockAdjusted):
            on_hand += recorded.event.delta
            assert recorded.event.counted_on_hand in (None, on_hand)
    deltas = [r.event.delta for r in till.log.recorded if isinstance(r.event, StockAdjusted)]
    assert (1 in deltas) == isinstance(failure, OutcomeUnknown)


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_builds_on_a_cancelled_command_is_true_all_the_same(till: Till, arrives: bool) -> None:
    gone, count = await till.starts(till.adjusts(1), till.counts(20))
    gone.cancel()
    assert isinstance((await ends(gone))[0], asyncio.CancelledError)
    assert till.ahead == 6
    till.log.let(None if arrives else LogUnavailable("away"))
    till.log.open()
    assert [type(end) for end in await ends(count)] == [Receipt]
    deltas = [r.event.delta for r in till.log.recorded if isinstance(r.event, StockAdjusted)]
    assert deltas == ([1, 13] if arrives else [14])


async def test_a_refusal_on_what_never_came_is_decided_again(till: Till) -> None:
    await nobody_is_refused_on_what_never_came(till)


async def test_a_refusal_that_is_told_unchecked_is_noticed(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = _transact._append

    async def append(shop: Shop, issued: Any, plan: Any, at: datetime) -> Verdict:
        return Appended(()) if plan.refusal else await checked(shop, issued, plan, at)

    monkeypatch.setattr(_transact, "_append", append)
    with pytest.raises(AssertionError, match="InsufficientStock"):
        await nobody_is_refused_on_what_never_came(till)


async def nobody_is_refused_on_what_never_came(till: Till) -> None:
    """The last units are sold to somebody whose order never comes to be."""
    lost, order = await till.starts(till.buys(5), till.buys(1))
    till.log.let(LogUnavailable("away"))
    till.log.open()
    told_lost, told = await ends(lost, order)
    assert isinstance(told_lost, LogUnavailable)
    assert isinstance(told, Receipt), repr(told)
    assert till.house.stock("MUG").available == 4


async def test_a_refusal_on_what_is_in_flight_waits_for_it(till: Till) -> None:
    _, refused = await till.starts(till.buys(5), till.buys(1))
    order, refusal = till.log.queued
    assert refusal.events == []
    assert refusal.tips[MUG].event_id in {new.event_id for new in order.events}
    await asyncio.sleep(0.01)
    assert not refused.done()


async def test_a_refusal_on_what_came_is_told(till: Till) -> None:
    order, refused = await till.starts(till.buys(5), till.buys(1))
    till.log.open()
    assert [type(end) for end in await ends(order, refused)] == [Receipt, InsufficientStock]


async def test_a_double_click_in_flight_has_effect_once(till: Till) -> None:
    """The second of each pair waits for the first: on what that will leave there may not be enough."""
    firsts = await till.starts(till.buys(1, key="a"), till.buys(3, key="b"))
    seconds = [asyncio.create_task(till.buys(qty, key=key)) for qty, key in ((1, "a"), (3, "b"))]
    await asyncio.sleep(0)
    till.log.open()
    ended = await ends(*firsts, *seconds)
    for pair in (ended[::2], ended[1::2]):
        first, second = (end for end in pair if isinstance(end, Receipt))
        assert first.events == second.events
        assert {first.replayed, second.replayed} == {False, True}
    assert till.house.stock("MUG").available == 1


async def test_only_what_follows_a_failed_append_is_decided_again(till: Till) -> None:
    await till.shop.states.load({"location-L1": LOCATION})
    lost, follows, apart = await till.starts(
        till.adjusts(1),
        till.adjusts(2),
        register_location(till.shop, till.house.issued(), RegisterLocation("L1", "Lager", "DE")),
    )
    till.log.let(LogFull())
    await ends(lost)
    assert till.shop.states.speculates(["location-L1"])
    assert not till.shop.states.speculates([MUG])
    given = len(till.log.given)
    till.log.open()
    assert [type(end) for end in await ends(follows, apart)] == [Receipt, Receipt]
    verdicts = [(len(append.events), type(verdict)) for append, verdict in till.log.given[given:]]
    assert verdicts == [(1, Conflict), (1, Appended), (1, Appended)]


async def test_decisions_in_a_row_that_another_process_overtook_are_decided_again_once(till: Till) -> None:
    commands = await till.starts(till.adjusts(1), till.counts(20), till.adjusts(-1))
    till.log.holds = False
    await till.house.receives("MUG", 1)
    given = len(till.log.given)
    till.log.open()
    assert [type(end) for end in await ends(*commands)] == [Receipt] * 3
    verdicts = [type(verdict) for _, verdict in till.log.given[given:]]
    assert verdicts == [Conflict] * 3 + [Appended] * 3


async def test_two_processes_that_storm_one_stream_are_all_answered(house: House) -> None:
    await house.sells("MUG", qty=5)
    shops = [house.shop(), house.shop()]
    ended = await asyncio.gather(
        *(
            adjust_stock(shops[n % 2], house.issued(), AdjustStock("MUG", "MAIN", "found", delta=1))
            for n in range(200)
        )
    )
    assert {receipt.replayed for receipt in ended} == {False}
    assert house.stock("MUG").on_hand == 205
    assert any(isinstance(verdict, Conflict) for _, verdict in house.log.given), (
        "they did get in each other's way"
    )
    assert [shop.states._ahead for shop in shops] == [{}, {}]


async def test_many_copies_of_requests_for_one_thing_make_nobody_conflict(house: House) -> None:
    await house.sells("MUG", qty=100)
    shop = house.shop()
    receipts = await asyncio.gather(
        *(place_order(shop, house.issued(f"key-{key}"), ONE_MUG) for key in range(20) for _ in range(8))
    )
    assert Counter(receipt.replayed for receipt in receipts) == {True: 140, False: 20}
    assert not [verdict for _, verdict in house.log.given if isinstance(verdict, Conflict)]
    assert house.stock("MUG").available == 80
    assert not shop.under_way


async def test_a_copy_that_waits_in_vain_is_not_told_that_nothing_was_done(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await till.starts(till.buys(1, key="a"), till.adjusts(1))
    monkeypatch.setattr(_transact, "MAX_SECONDS", 0.1)
    with pytest.raises(OutcomeUnknown):
        await till.buys(1, key="a")
    assert not first.done()
    till.log.open()
    assert [type(end) for end in await ends(first, second)] == [Receipt, Receipt]


async def test_a_copy_of_what_came_to_nothing_is_tried_by_itself(house: House) -> None:
    await house.sells("MUG")
    shop = house.shop()
    outcomes = await asyncio.gather(
        *(place_order(shop, house.issued("key"), ONE_MUG) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [InsufficientStock] * 3


async def test_a_copy_that_says_something_else_is_told_so(house: House) -> None:
    await house.sells("MUG", qty=5)
    shop = house.shop()
    outcomes = await asyncio.gather(
        place_order(shop, house.issued("key", body=1), ONE_MUG),
        place_order(shop, house.issued("key", body=2), ONE_MUG),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Receipt, KeyReused]
