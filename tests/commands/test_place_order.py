from dataclasses import replace
from datetime import timedelta

import pytest
from tests.commands.conftest import T0, House, once, only, ordered, wants, written

from commands.place_order import WantedLine, place_order
from commands.reserve_stock import ReservedItem, ReserveStock, reserve_stock
from domain.location import UnknownLocation
from domain.order import CurrentPrice, OrderPlaced, PriceChanged, order_no
from domain.price import NoPrice
from domain.product import NotPublished
from domain.sku import UnknownSku
from domain.stock import Holder, InsufficientStock, Shortage, StockReserved
from domain.values import InvalidFields, Money

pytestmark = pytest.mark.anyio

TEN_MINUTES = timedelta(minutes=10)


async def test_an_order_is_priced_from_the_price_streams_and_reserved_in_one_append(house: House) -> None:
    await house.sells("MUG", qty=5, price=1990)
    await house.sells("CUP", qty=2, price=750)
    price = await house.prices("MUG", 1790)
    receipt = await place_order(house.shop(), house.issued(), wants(("MUG", 3), ("CUP", 2), total=6870))
    assert written(receipt) == [
        "order.placed.v1",
        "stock.reserved.v1",
        "stock.reserved.v1",
        "stock.depleted.v1",
    ]
    placed = only(receipt, OrderPlaced)
    assert placed.total == Money(6870, "EUR")
    assert placed.expires_at == T0 + TEN_MINUTES
    assert placed.order_no == order_no(placed.order_id)
    mug, cup = placed.lines
    assert (mug.sku, mug.title, mug.location, mug.qty) == ("MUG", "Mug", "MAIN", 3)
    assert (mug.unit_price_minor, mug.price_event_id) == (1790, price.events[0].event_id)
    assert (mug.product_id, mug.variant_id) == house.variants["MUG"]
    assert (cup.unit_price_minor, cup.qty) == (750, 2)
    assert len({mug.line_id, cup.line_id, placed.order_id, placed.reservation_id}) == 4
    for recorded in receipt.events[1:3]:
        assert isinstance(recorded.event, StockReserved)
        assert recorded.event.holder == Holder("order", placed.order_id)
        assert recorded.event.reservation_id == placed.reservation_id
        assert recorded.event.expires_at == placed.expires_at
    first = receipt.events[0].position
    assert [recorded.position for recorded in receipt.events] == [first, first + 1, first + 2, first + 3]


async def test_the_append_names_the_tip_of_every_stream_the_order_depends_on(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 1), ("CUP", 1), total=3980)
    append, _ = house.log.given[-1]
    (mug, mug_v), (cup, cup_v) = house.variants["MUG"], house.variants["CUP"]
    versions = {stream: tip.version for stream, tip in append.tips.items()}
    assert versions == {
        f"order-{order_id}": 0,
        "sku-MUG": 1,
        "sku-CUP": 1,
        "location-MAIN": 1,
        f"product-{mug}": 3,
        f"product-{cup}": 3,
        f"price-{mug_v}": 1,
        f"price-{cup_v}": 1,
        "stock-MUG@MAIN": 2,
        "stock-CUP@MAIN": 2,
    }
    last = {recorded.stream: recorded.event_id for recorded in house.log.recorded[: -len(append.events)]}
    assert all(tip.event_id == last[stream] for stream, tip in append.tips.items() if tip.version)


async def test_all_lines_are_reserved_or_none_and_every_shortage_is_told(house: House) -> None:
    for sku in ("MUG", "CUP", "JUG"):
        await house.sells(sku, qty=2, price=100)
    before = len(house.log.recorded)
    with pytest.raises(InsufficientStock) as short:
        await place_order(house.shop(), house.issued(), wants(("MUG", 3), ("CUP", 1), ("JUG", 4), total=800))
    assert short.value.shortages == (Shortage("MUG", 3, 2, "MAIN"), Shortage("JUG", 4, 2, "MAIN"))
    assert len(house.log.recorded) == before
    assert [house.stock(sku).available for sku in ("MUG", "CUP", "JUG")] == [2, 2, 2]


async def test_what_an_order_may_not_say(house: House) -> None:
    await house.sells("MUG", qty=5)
    shop, before = house.shop(), len(house.log.recorded)
    with pytest.raises(UnknownSku):
        await place_order(shop, house.issued(), wants(("CUP", 1), total=1990))
    elsewhere = replace(wants(total=1990), lines=(WantedLine("MUG", 1, "MOON"),))
    with pytest.raises(UnknownLocation) as unknown:
        await place_order(shop, house.issued(), elsewhere)
    assert unknown.value.location == "MOON"
    with pytest.raises(NoPrice):
        await place_order(shop, house.issued(), wants(("MUG", 1), total=1990, currency="USD"))
    with pytest.raises(InvalidFields) as twice:
        await place_order(shop, house.issued(), wants(("MUG", 1), ("MUG", 2), total=5970))
    assert twice.value.errors[0].pointer == "/lines/1"
    mixed = replace(wants(("MUG", 1), total=1990), expected_total=Money(1990, "USD"))
    with pytest.raises(InvalidFields) as wrong:
        await place_order(shop, house.issued(), mixed)
    assert wrong.value.errors[0].pointer == "/expected_total/currency"
    assert len(house.log.recorded) == before


async def test_only_what_is_published_is_sold(house: House) -> None:
    await house.sells("MUG", qty=5, published=False)
    with pytest.raises(NotPublished):
        await place_order(house.shop(), house.issued(), wants(("MUG", 1), total=1990))


async def test_an_order_at_a_price_that_is_gone_is_told_todays(house: House) -> None:
    await house.sells("MUG", qty=5, price=1990)
    shop = house.shop(once(lambda: house.prices("MUG", 2190)))
    with pytest.raises(PriceChanged) as changed:
        await place_order(shop, house.issued(), wants(("MUG", 2), total=3980))
    assert changed.value.current_total == Money(4380, "EUR")
    assert changed.value.lines == (CurrentPrice("MUG", 2, 2190),)
    assert house.stock("MUG").available == 5


async def test_the_next_order_expires_what_is_overdue_and_in_its_way(house: House) -> None:
    await house.sells("MUG", qty=2)
    await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    with pytest.raises(InsufficientStock):
        await place_order(house.shop(), house.issued(), wants(("MUG", 1), total=1990))
    house.clock.advance(TEN_MINUTES)
    receipt = await place_order(house.shop(), house.issued(), wants(("MUG", 1), total=1990))
    assert written(receipt) == [
        "order.placed.v1",
        "reservation.expired.v1",
        "stock.reserved.v1",
        "stock.replenished.v1",
    ]
    assert house.stock("MUG").available == 1


async def test_more_overdue_reservations_than_fit_one_append_go_in_appends_before(house: House) -> None:
    await house.sells("MUG", qty=900)
    shop = house.shop()
    for number in range(900):
        one = ReserveStock(Holder("cart", f"c{number}"), (ReservedItem("MUG", 1),))
        await reserve_stock(shop, house.issued(), one)
    assert house.log.recorded[-1].type == "stock.depleted.v1"
    house.clock.advance(TEN_MINUTES)
    given = len(house.log.given)
    receipt = await place_order(house.shop(), house.issued(), wants(("MUG", 900), total=1990 * 900))
    sizes = [len(append.events) for append, _ in house.log.given[given:]]
    assert all(size <= 1_000 for size in sizes)
    assert len(sizes) > 1
    assert {append.digest is None for append, _ in house.log.given[given:-1]} == {True}
    assert only(receipt, StockReserved).available_after == 0
    edges = [r.type for r in house.log.recorded if r.type in ("stock.depleted.v1", "stock.replenished.v1")]
    assert edges == ["stock.replenished.v1", "stock.depleted.v1"] * 2
    assert (house.stock("MUG").available, len(house.stock("MUG").held)) == (0, 1)
