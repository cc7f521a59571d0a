from datetime import timedelta

import pytest
from tests.commands.conftest import T0, House, only, ordered, written

from commands.confirm_order import ConfirmOrder, confirm_order
from commands.ports import MAX_EVENTS_PER_APPEND, Appended, StaleVersion
from commands.reserve_stock import ReservedItem, ReserveStock, reserve_stock
from domain.order import OrderConfirmed, OrderNotOpen, OrderPlaced, UnknownOrder
from domain.stock import Holder, InsufficientStock, ReservationCommitted, Shortage, StockReserved
from domain.values import MAX_ORDER_LINES

pytestmark = pytest.mark.anyio

TEN_MINUTES = timedelta(minutes=10)


async def test_confirming_commits_every_line_in_the_same_append(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), ("CUP", 5), total=13930)
    house.clock.advance(timedelta(minutes=1))
    receipt = await confirm_order(house.shop(), house.issued(if_match=1), ConfirmOrder(order_id))
    assert written(receipt) == ["order.confirmed.v1"] + ["reservation.committed.v1"] * 2
    assert only(receipt, OrderConfirmed) == OrderConfirmed(order_id, T0 + timedelta(minutes=1))
    mug = house.stock("MUG")
    assert (mug.on_hand, mug.reserved, mug.committed, mug.available) == (5, 0, 2, 3)
    lines = [recorded.event for recorded in house.log.recorded if isinstance(recorded.event, OrderPlaced)]
    assert {line for _, line in mug.commitments} == {lines[0].lines[0].line_id}


async def test_who_may_not_confirm(house: House) -> None:
    await house.sells("MUG", qty=5)
    shop = house.shop()
    order_id = await ordered(shop, house.issued(), ("MUG", 2), total=3980)
    with pytest.raises(UnknownOrder):
        await confirm_order(shop, house.issued(), ConfirmOrder("o9"))
    with pytest.raises(StaleVersion):
        await confirm_order(shop, house.issued(if_match=2), ConfirmOrder(order_id))
    await confirm_order(shop, house.issued(), ConfirmOrder(order_id))
    with pytest.raises(OrderNotOpen):
        await confirm_order(shop, house.issued(), ConfirmOrder(order_id))


async def test_an_overdue_reservation_that_nobody_needed_is_still_the_orders(house: House) -> None:
    await house.sells("MUG", qty=2)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    house.clock.advance(TEN_MINUTES)
    receipt = await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    assert written(receipt) == ["order.confirmed.v1", "reservation.committed.v1"]


async def test_what_expired_is_taken_again_under_another_reservation(house: House) -> None:
    await house.sells("MUG", qty=2)
    await house.sells("CUP", qty=2)
    placed_id = await ordered(house.shop(), house.issued(), ("MUG", 2), ("CUP", 1), total=5970)
    house.clock.advance(TEN_MINUTES)
    await ordered(house.shop(), house.issued(), ("MUG", 1), total=1990)
    await house.receives("MUG", 1)
    receipt = await confirm_order(house.shop(), house.issued(), ConfirmOrder(placed_id))
    assert written(receipt) == [
        "order.confirmed.v1",
        "stock.reserved.v1",
        "stock.depleted.v1",
        "reservation.committed.v1",
        "reservation.committed.v1",
    ]
    again = only(receipt, StockReserved)
    first = next(r.event for r in house.log.recorded if isinstance(r.event, StockReserved))
    assert again.reservation_id != first.reservation_id
    assert (again.holder, again.qty, again.available_after) == (first.holder, 2, 0)
    committed = [r.event for r in receipt.events if isinstance(r.event, ReservationCommitted)]
    assert [event.reservation_id for event in committed] == [again.reservation_id, first.reservation_id]


async def test_what_expired_and_is_sold_is_refused_with_every_shortage(house: House) -> None:
    for sku in ("MUG", "CUP"):
        await house.sells(sku, qty=2)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), ("CUP", 2), total=7960)
    house.clock.advance(TEN_MINUTES)
    await ordered(house.shop(), house.issued(), ("MUG", 1), ("CUP", 2), total=5970)
    before = len(house.log.recorded)
    with pytest.raises(InsufficientStock) as short:
        await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    assert short.value.shortages == (Shortage("MUG", 2, 1, "MAIN"), Shortage("CUP", 2, 0, "MAIN"))
    assert len(house.log.recorded) == before


async def test_the_longest_order_is_confirmed_however_much_is_in_its_way(house: House) -> None:
    shop = house.shop()
    skus = [f"S{number}" for number in range(MAX_ORDER_LINES)]
    for sku in skus:
        await house.sells(sku, qty=3, price=1)
    lines = [(sku, 2) for sku in skus]
    order_id = await ordered(shop, house.issued(), *lines, total=2 * MAX_ORDER_LINES)
    house.clock.advance(TEN_MINUTES)
    # Two carts in the way of every line; with both gone, one unit is left over.
    for qty in (1, 2):
        items = tuple(ReservedItem(sku, qty) for sku in skus)
        await reserve_stock(shop, house.issued(), ReserveStock(Holder("cart", f"c{qty}"), items))
        house.clock.advance(timedelta(seconds=1))
    house.clock.advance(TEN_MINUTES)
    given = len(house.log.given)
    receipt = await confirm_order(shop, house.issued(), ConfirmOrder(order_id))
    assert written(receipt).count("reservation.committed.v1") == MAX_ORDER_LINES
    assert [type(verdict) for _, verdict in house.log.given[given:]] == [Appended, Appended]
    assert all(len(append.events) <= MAX_EVENTS_PER_APPEND for append, _ in house.log.given[given:])
    assert {house.stock(sku).available for sku in skus} == {1}
