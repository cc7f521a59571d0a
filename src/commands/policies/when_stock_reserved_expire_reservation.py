"""When stock is reserved, wait until the reservation is overdue, then record that it has expired.

It only makes visible earlier what every decision about that stock would find: nothing depends on it.
"""

from collections.abc import Awaitable
from typing import Final

from commands._states import Streams
from commands._stock_items import stock_of, stock_stream
from commands._transact import Writes, transact
from commands.policies.policy import Policy, Timer
from commands.requests import step
from commands.shop import Shop
from domain import expiry, stock
from domain.envelope import Recorded
from domain.expiry import EXPIRY, ExpiryScheduled, ExpirySettled
from domain.stock import StockReserved

NAME: Final = "when_stock_reserved_expire_reservation"


def react(shop: Shop, recorded: Recorded) -> Awaitable[object] | None:
    match recorded.event:
        case StockReserved() as event:
            return _schedule(shop, recorded, event)
        case _:
            return None


async def _schedule(shop: Shop, recorded: Recorded, event: StockReserved) -> None:
    def decide(streams: Streams) -> Writes:
        return {
            EXPIRY.stream(recorded.event_id): expiry.schedule(
                streams.read(EXPIRY, recorded.event_id),
                reservation_id=event.reservation_id,
                sku=event.sku,
                location=event.location,
                due_at=event.expires_at,
            )
        }

    await transact(shop, step(shop.digest_key, NAME, "schedule", recorded), decide)


def timer(recorded: Recorded) -> Timer | None:
    match recorded.event:
        case ExpiryScheduled(due_at=due_at):
            return Timer(recorded.stream, due_at)
        case ExpirySettled():
            return Timer(recorded.stream, None)
        case _:
            return None


async def fire(shop: Shop, scheduled: Recorded) -> bool:
    """Expire the reservation if it is still held; either way the wait is over, unless it is not due yet."""
    event = scheduled.event
    if not isinstance(event, ExpiryScheduled):
        raise TypeError(f"{scheduled.type} sets no timer of {NAME}")
    waiting = scheduled.stream.removeprefix(EXPIRY.stream(""))

    def decide(streams: Streams) -> Writes:
        state = streams.read(EXPIRY, waiting)
        on_shelf = stock_of(streams, event.sku, event.location)
        expired = stock.expire(on_shelf, reservation_id=event.reservation_id, at=streams.at)
        if not expired and event.reservation_id in on_shelf.held:
            return {}
        return {
            stock_stream(event.sku, event.location): expired,
            EXPIRY.stream(waiting): expiry.settle(state, outcome="expired" if expired else "ended_before"),
        }

    receipt = await transact(shop, step(shop.digest_key, NAME, "fire", scheduled), decide)
    return bool(receipt.events)


POLICY: Final = Policy(NAME, react, timer, fire)
