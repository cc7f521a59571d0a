"""What holds of every command: repeats, refusals, conflicts, concurrency."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from tests.commands.conftest import T0, House, once, only, ordered, wants

from commands import _transact
from commands._states import Streams
from commands._transact import transact
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.place_order import place_order
from commands.ports import (
    Appended,
    Conflict,
    Contended,
    KeyReused,
    Receipt,
)
from commands.set_price import SetPrice, set_price
from domain.location import LOCATION
from domain.order import OrderPlaced
from domain.stock import InsufficientStock, StockAdjusted

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
