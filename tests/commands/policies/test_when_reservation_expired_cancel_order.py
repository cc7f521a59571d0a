"""An order whose reservation has expired is cancelled, unless it went on before."""

from datetime import timedelta
from typing import Any

import pytest

from commands.confirm_order import ConfirmOrder, confirm_order
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.policies.when_reservation_expired_cancel_order import react
from domain.envelope import Recorded
from domain.lapse import LapseSettled
from domain.order import OrderCancelled
from domain.stock import ReservationExpired, ReservationReleased
from domain.values import Money

pytestmark = pytest.mark.anyio

TTL = timedelta(minutes=10)


async def order(house: Any, *lines: tuple[str, int]) -> str:
    wanted = tuple(WantedLine(sku, qty) for sku, qty in lines)
    total = Money(sum(1990 * qty for _, qty in lines), "EUR")
    receipt = await place_order(house.shop(), house.issued(), PlaceOrder("c1", wanted, "EUR", total))
    return receipt.events[0].stream.removeprefix("order-")


def recorded(house: Any, kind: type) -> list[Recorded]:
    return [event for event in house.log.recorded if isinstance(event.event, kind)]


async def see(house: Any) -> None:
    for event in recorded(house, ReservationExpired):
        command = react(house.shop(), event)
        assert command is not None
        await command


async def test_the_order_is_cancelled_and_what_it_still_holds_is_released(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    first = await order(house, ("MUG", 5), ("CUP", 2))
    house.clock.advance(TTL)
    await order(house, ("MUG", 1))  # needs the mugs: their reservation is expired on the way
    [expired] = recorded(house, ReservationExpired)
    await see(house)
    [cancelled] = recorded(house, OrderCancelled)
    assert cancelled.stream == f"order-{first}"
    assert (cancelled.event.reason, cancelled.event.by) == (  # type: ignore[attr-defined] # of this kind
        "reservation_expired",
        "service:when_reservation_expired_cancel_order",
    )
    assert cancelled.metadata.causation_id == expired.event_id
    [released] = recorded(house, ReservationReleased)
    assert released.event.sku == "CUP"  # type: ignore[attr-defined] # of this kind
    assert house.stock("CUP").available == 5
    assert house.stock("MUG").available == 4


async def test_seen_twice_it_reacts_once(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await order(house, ("MUG", 5))
    house.clock.advance(TTL)
    await order(house, ("MUG", 1))
    await see(house)
    await see(house)
    assert len(recorded(house, OrderCancelled)) == 1
    assert len(recorded(house, LapseSettled)) == 1


async def test_two_lines_that_expire_cancel_one_order_once(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    await order(house, ("MUG", 5), ("CUP", 5))
    house.clock.advance(TTL)
    await order(house, ("MUG", 1), ("CUP", 1))
    assert len(recorded(house, ReservationExpired)) == 2
    await see(house)
    assert len(recorded(house, OrderCancelled)) == 1
    assert len(recorded(house, LapseSettled)) == 1


async def test_an_order_confirmed_in_time_is_kept(house: Any) -> None:
    await house.sells("MUG", qty=5)
    first = await order(house, ("MUG", 3))
    house.clock.advance(TTL)
    await order(house, ("MUG", 3))
    await house.receives("MUG", 5)
    await confirm_order(house.shop(), house.issued(), ConfirmOrder(first))
    await see(house)
    assert not recorded(house, OrderCancelled)
    [settled] = recorded(house, LapseSettled)
    assert settled.event.outcome == "order_kept"  # type: ignore[attr-defined] # of this kind
