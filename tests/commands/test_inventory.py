"""Stock and its reservations, through their handlers."""

from datetime import timedelta

import pytest
from tests.commands.conftest import DELIVERY, T0, House, only, written

from commands import _reservations
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.ports import StaleVersion
from commands.receive_stock import ReceiveStock, receive_stock
from commands.register_location import RegisterLocation, register_location
from commands.release_reservation import ReleaseReservation, release_reservation
from commands.reserve_stock import ReservedItem, ReserveStock, reserve_stock
from domain.location import UnknownLocation
from domain.sku import UnknownSku
from domain.stock import (
    Holder,
    InsufficientStock,
    Shortage,
    StockAdjusted,
    StockBelowReserved,
    StockReceived,
    StockReserved,
    UnknownReservation,
)
from domain.values import InvalidFields

pytestmark = pytest.mark.anyio

CART = Holder("cart", "c1")
TEN_MINUTES = timedelta(minutes=10)


def wanted(*items: tuple[str, int], ttl: timedelta | None = None) -> ReserveStock:
    return ReserveStock(CART, tuple(ReservedItem(sku, qty) for sku, qty in items), ttl)


async def test_stock_is_of_a_known_sku_at_a_known_place(house: House) -> None:
    await house.sells("MUG")
    before = len(house.log.recorded)
    with pytest.raises(UnknownSku):
        await house.receives("CUP", 1)
    with pytest.raises(UnknownLocation):
        await receive_stock(house.shop(), house.issued(), ReceiveStock("MUG", "MOON", 1, DELIVERY))
    with pytest.raises(UnknownLocation):
        await adjust_stock(house.shop(), house.issued(), AdjustStock("MUG", "MOON", "found", delta=1))
    assert len(house.log.recorded) == before


async def test_stock_events_carry_the_ids_of_the_rows_they_feed(house: House) -> None:
    await house.sells("MUG")
    received = only(await house.receives("MUG", 5), StockReceived)
    assert received == StockReceived("MUG", "MAIN", *house.variants["MUG"], 5, DELIVERY)


async def test_an_adjustment_needs_the_last_version_of_the_item(house: House) -> None:
    await house.sells("MUG", qty=5)
    adjust = AdjustStock("MUG", "MAIN", "damage", delta=-1)
    with pytest.raises(StaleVersion):
        await adjust_stock(house.shop(), house.issued(if_match=1), adjust)
    receipt = await adjust_stock(house.shop(), house.issued(if_match=2), adjust)
    assert only(receipt, StockAdjusted).delta == -1
    with pytest.raises(StockBelowReserved):
        await adjust_stock(house.shop(), house.issued(), AdjustStock("MUG", "MAIN", "damage", delta=-5))


async def test_an_adjustment_expires_the_overdue_in_its_way(house: House) -> None:
    await house.sells("MUG", qty=5)
    await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 5)))
    house.clock.advance(TEN_MINUTES)
    count = AdjustStock("MUG", "MAIN", "count", counted=0)
    receipt = await adjust_stock(house.shop(), house.issued(), count)
    assert written(receipt) == ["reservation.expired.v1", "stock.adjusted.v1"]
    assert house.stock("MUG").available == 0


async def test_more_overdue_than_fit_one_append_are_expired_before_the_adjustment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reservations, "MAX_EXPIRIES", 3)
    await house.sells("MUG", qty=5)
    for _ in range(5):
        await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 1)))
    house.clock.advance(TEN_MINUTES)
    receipt = await adjust_stock(house.shop(), house.issued(), AdjustStock("MUG", "MAIN", "count", counted=0))
    assert [len(append.events) for append, _ in house.log.given[-2:]] == [4, 4]
    assert written(receipt) == ["reservation.expired.v1"] * 2 + ["stock.adjusted.v1", "stock.depleted.v1"]
    assert (house.stock("MUG").available, house.stock("MUG").held) == (0, {})


async def test_what_will_be_refused_all_the_same_expires_nothing_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reservations, "MAX_EXPIRIES", 3)
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=1)
    for _ in range(5):
        await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 1)))
    house.clock.advance(TEN_MINUTES)
    before = len(house.log.recorded)
    with pytest.raises(InsufficientStock):
        await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 5), ("CUP", 2)))
    assert len(house.log.recorded) == before


async def test_several_items_are_reserved_for_as_long_as_asked_or_ten_minutes(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    receipt = await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 2), ("CUP", 5)))
    assert written(receipt) == ["stock.reserved.v1", "stock.reserved.v1", "stock.depleted.v1"]
    mug, cup = (recorded.event for recorded in receipt.events[:2])
    assert isinstance(mug, StockReserved)
    assert isinstance(cup, StockReserved)
    assert mug.reservation_id == cup.reservation_id
    assert (mug.expires_at, mug.available_after, cup.available_after) == (T0 + TEN_MINUTES, 3, 0)
    longer = await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 1), ttl=timedelta(days=1)))
    assert only(longer, StockReserved).expires_at == T0 + timedelta(days=1)


async def test_all_items_are_reserved_or_none_and_every_shortage_is_told(house: House) -> None:
    for sku in ("MUG", "CUP", "JUG"):
        await house.sells(sku, qty=2)
    before = len(house.log.recorded)
    with pytest.raises(InsufficientStock) as short:
        await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 3), ("CUP", 2), ("JUG", 9)))
    assert short.value.shortages == (Shortage("MUG", 3, 2, "MAIN"), Shortage("JUG", 9, 2, "MAIN"))
    assert len(house.log.recorded) == before


async def test_an_item_stands_in_a_reservation_once(house: House) -> None:
    await house.sells("MUG", qty=5)
    with pytest.raises(InvalidFields) as twice:
        await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 1), ("MUG", 1)))
    assert [(error.pointer, error.code) for error in twice.value.errors] == [("/items/1", "duplicate_item")]


async def test_a_process_that_knows_nothing_reserves_many_items_over_many_places(house: House) -> None:
    places = [f"P{number}" for number in range(12)]
    for number, place in enumerate(places):
        await house.sells(f"S{number}")
        await register_location(house.shop(), house.issued(), RegisterLocation(place, place, "DE"))
        await receive_stock(house.shop(), house.issued(), ReceiveStock(f"S{number}", place, 1, DELIVERY))
    items = tuple(ReservedItem(f"S{number}", 1, place) for number, place in enumerate(places))
    receipt = await reserve_stock(house.shop(), house.issued(), ReserveStock(CART, items))
    assert len([recorded for recorded in receipt.events if recorded.type == "stock.reserved.v1"]) == 12


async def test_a_reservation_is_released_by_its_holder_once(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    shop = house.shop()
    reserved = await reserve_stock(shop, house.issued(), wanted(("MUG", 2), ("CUP", 5)))
    first = reserved.events[0].event
    assert isinstance(first, StockReserved)
    items = (("MUG", "MAIN"), ("CUP", "MAIN"))
    stranger = ReleaseReservation(first.reservation_id, Holder("cart", "c2"), items)
    with pytest.raises(UnknownReservation):
        await release_reservation(shop, house.issued(), stranger)
    release = ReleaseReservation(first.reservation_id, CART, items)
    receipt = await release_reservation(house.shop(), house.issued(), release)
    assert written(receipt) == ["reservation.released.v1"] * 2 + ["stock.replenished.v1"]
    with pytest.raises(UnknownReservation):
        await release_reservation(shop, house.issued(), release)
    assert (house.stock("MUG").available, house.stock("CUP").available) == (5, 5)


async def test_a_release_that_names_an_item_it_does_not_hold_releases_nothing(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    reserved = only(await reserve_stock(house.shop(), house.issued(), wanted(("MUG", 2))), StockReserved)
    before = len(house.log.recorded)
    items = (("MUG", "MAIN"), ("CUP", "MAIN"))
    with pytest.raises(UnknownReservation):
        await release_reservation(
            house.shop(), house.issued(), ReleaseReservation(reserved.reservation_id, CART, items)
        )
    assert len(house.log.recorded) == before
