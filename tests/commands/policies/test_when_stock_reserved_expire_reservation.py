"""A reservation that is overdue is recorded as expired, once, and only if it is still held."""

from datetime import timedelta
from typing import Any

import pytest

from commands.cancel_order import CancelOrder, cancel_order
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.policies.when_stock_reserved_expire_reservation import fire, react, timer
from domain.envelope import Recorded
from domain.expiry import ExpiryScheduled, ExpirySettled
from domain.stock import ReservationExpired, StockReserved
from domain.values import Money

pytestmark = pytest.mark.anyio

TTL = timedelta(minutes=10)


async def order(house: Any, *skus: str) -> str:
    lines = tuple(WantedLine(sku, 1) for sku in skus)
    command = PlaceOrder("c1", lines, "EUR", Money(1990 * len(skus), "EUR"))
    receipt = await place_order(house.shop(), house.issued(), command)
    return receipt.events[0].stream.removeprefix("order-")


def recorded(house: Any, kind: type) -> list[Recorded]:
    return [event for event in house.log.recorded if isinstance(event.event, kind)]


async def scheduled(house: Any) -> list[Recorded]:
    for event in recorded(house, StockReserved):
        command = react(house.shop(), event)
        assert command is not None
        await command
    return recorded(house, ExpiryScheduled)


async def test_every_reserved_item_sets_a_timer_for_when_it_expires(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await house.sells("CUP", qty=5)
    await order(house, "MUG", "CUP")
    events = await scheduled(house)
    reserved = recorded(house, StockReserved)
    assert [event.event.due_at for event in events] == [event.event.expires_at for event in reserved]  # type: ignore[attr-defined] # of these kinds
    assert [event.metadata.causation_id for event in events] == [event.event_id for event in reserved]
    timers = [timer(event) for event in events]
    assert [found and (found.stream, found.due_at) for found in timers] == [
        (event.stream, event.event.due_at)  # type: ignore[attr-defined] # of this kind
        for event in events
    ]


async def test_seen_again_the_event_sets_no_second_timer(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await order(house, "MUG")
    assert len(await scheduled(house)) == len(await scheduled(house)) == 1


async def test_other_events_concern_it_not(house: Any) -> None:
    await house.sells("MUG", qty=5)
    assert all(react(house.shop(), event) is None for event in house.log.recorded)
    assert all(timer(event) is None for event in house.log.recorded)


async def test_fired_when_due_the_reservation_expires_once(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await order(house, "MUG")
    [event] = await scheduled(house)
    house.clock.advance(TTL)
    assert await fire(house.shop(), event)
    assert await fire(house.shop(), event)
    [expired] = recorded(house, ReservationExpired)
    [settled] = recorded(house, ExpirySettled)
    assert settled.event.outcome == "expired"  # type: ignore[attr-defined] # of this kind
    assert expired.metadata.causation_id == event.event_id
    found = timer(settled)
    assert found is not None
    assert found.due_at is None
    assert house.stock("MUG").available == 5


async def test_fired_too_early_it_stands(house: Any) -> None:
    await house.sells("MUG", qty=5)
    await order(house, "MUG")
    [event] = await scheduled(house)
    house.clock.advance(TTL - timedelta(microseconds=1))
    assert not await fire(house.shop(), event)
    assert not recorded(house, ReservationExpired)
    house.clock.advance(timedelta(microseconds=1))
    assert await fire(house.shop(), event)


async def test_a_reservation_that_ended_before_is_left_alone(house: Any) -> None:
    await house.sells("MUG", qty=5)
    placed = await order(house, "MUG")
    [event] = await scheduled(house)
    await cancel_order(house.shop(), house.issued(), CancelOrder(placed, "customer"))
    house.clock.advance(TTL)
    assert await fire(house.shop(), event)
    [settled] = recorded(house, ExpirySettled)
    assert settled.event.outcome == "ended_before"  # type: ignore[attr-defined] # of this kind
    assert not recorded(house, ReservationExpired)
