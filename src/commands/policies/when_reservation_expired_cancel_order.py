"""When the reservation of an order that is still only placed has expired, cancel the order."""

from collections.abc import Awaitable
from typing import Final

from commands._states import Streams
from commands._transact import Writes, transact
from commands.cancel_order import cancellation
from commands.policies.policy import Policy
from commands.requests import step
from commands.shop import Shop
from domain import lapse
from domain.envelope import Recorded
from domain.lapse import LAPSE
from domain.order import ORDER, OrderStatus
from domain.stock import Holder, ReservationExpired

NAME: Final = "when_reservation_expired_cancel_order"


def react(shop: Shop, recorded: Recorded) -> Awaitable[object] | None:
    match recorded.event:
        case ReservationExpired(holder=Holder(type="order", id=order_id)) as event:
            return _cancel(shop, recorded, event.reservation_id, order_id)
        case _:
            return None


async def _cancel(shop: Shop, recorded: Recorded, reservation_id: str, order_id: str) -> None:
    def decide(streams: Streams) -> Writes:
        state = streams.read(LAPSE, reservation_id)
        placed = streams.read(ORDER, order_id).status is OrderStatus.PLACED
        settled = lapse.settle(
            state,
            order_id=order_id,
            reservation_id=reservation_id,
            outcome="order_cancelled" if placed else "order_kept",
        )
        if not (settled and placed):
            return {LAPSE.stream(reservation_id): settled}
        cancelled = cancellation(streams, order_id, reason="reservation_expired", by=f"service:{NAME}")
        return {LAPSE.stream(reservation_id): settled, **cancelled}

    await transact(shop, step(shop.digest_key, NAME, "cancel", recorded), decide)


POLICY: Final = Policy(NAME, react)
