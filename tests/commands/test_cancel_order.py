from datetime import timedelta

import pytest
from tests.commands.conftest import House, only, ordered, written

from commands.cancel_order import CancelOrder, cancel_order
from commands.confirm_order import ConfirmOrder, confirm_order
from commands.ports import StaleVersion
from domain.order import OrderCancelled, OrderNotOpen, UnknownOrder
from domain.stock import CommitmentReleased, ReservationReleased

pytestmark = pytest.mark.anyio


async def test_cancelling_a_placed_order_releases_every_line(house: House) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), ("CUP", 5), total=13930)
    receipt = await cancel_order(house.shop(), house.issued(if_match=1), CancelOrder(order_id, "customer"))
    assert written(receipt) == [
        "order.cancelled.v1",
        "reservation.released.v1",
        "reservation.released.v1",
        "stock.replenished.v1",
    ]
    assert only(receipt, OrderCancelled) == OrderCancelled(order_id, "customer", "staff:s1")
    assert {r.event.reason for r in receipt.events if isinstance(r.event, ReservationReleased)} == {
        "order_cancelled"
    }
    for sku in ("MUG", "CUP"):
        assert (house.stock(sku).available, house.stock(sku).held) == (5, {})


async def test_cancelling_a_confirmed_order_gives_back_what_was_committed(house: House) -> None:
    await house.sells("MUG", qty=5)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    receipt = await cancel_order(house.shop(), house.issued(), CancelOrder(order_id, "staff"))
    assert written(receipt) == ["order.cancelled.v1", "commitment.released.v1"]
    assert only(receipt, CommitmentReleased).qty == 2
    stock = house.stock("MUG")
    assert (stock.on_hand, stock.committed, stock.available) == (5, 0, 5)


async def test_cancelling_after_a_retaken_reservation_gives_back_all_of_it(house: House) -> None:
    await house.sells("MUG", qty=2)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    house.clock.advance(timedelta(minutes=10))
    other = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    await cancel_order(house.shop(), house.issued(), CancelOrder(other, "customer"))
    await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    assert house.stock("MUG").available == 0
    await cancel_order(house.shop(), house.issued(), CancelOrder(order_id, "customer"))
    stock = house.stock("MUG")
    assert (stock.reserved, stock.committed, stock.available) == (0, 0, 2)


async def test_an_order_whose_stock_has_gone_to_another_gives_back_nothing(house: House) -> None:
    await house.sells("MUG", qty=2)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    house.clock.advance(timedelta(minutes=10))
    await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    receipt = await cancel_order(house.shop(), house.issued(), CancelOrder(order_id, "customer"))
    assert written(receipt) == ["order.cancelled.v1"]
    assert house.stock("MUG").available == 0


async def test_an_order_is_cancelled_once(house: House) -> None:
    await house.sells("MUG", qty=2)
    shop = house.shop()
    order_id = await ordered(shop, house.issued(), ("MUG", 2), total=3980)
    with pytest.raises(UnknownOrder):
        await cancel_order(shop, house.issued(), CancelOrder("o9", "customer"))
    with pytest.raises(StaleVersion):
        await cancel_order(shop, house.issued(if_match=7), CancelOrder(order_id, "customer"))
    await cancel_order(shop, house.issued(), CancelOrder(order_id, "customer"))
    before = len(house.log.recorded)
    with pytest.raises(OrderNotOpen):
        await cancel_order(shop, house.issued(), CancelOrder(order_id, "customer"))
    with pytest.raises(OrderNotOpen):
        await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    assert len(house.log.recorded) == before
