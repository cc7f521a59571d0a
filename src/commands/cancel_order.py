from dataclasses import dataclass

from commands._reservations import expect_stock
from commands._states import Streams
from commands._stock_items import stock_of, stock_stream
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import order, stock
from domain.order import ORDER, CancelReason
from domain.values import Event


@dataclass(frozen=True, slots=True)
class CancelOrder:
    order_id: str
    reason: CancelReason


async def cancel_order(shop: Shop, issued: Issued, command: CancelOrder) -> Receipt:
    def decide(streams: Streams) -> Writes:
        state = streams.read(ORDER, command.order_id)
        order.must_exist(state, order_id=command.order_id)
        streams.must_match(ORDER, command.order_id)
        by = f"{issued.actor.type}:{issued.actor.id}"
        return cancellation(streams, command.order_id, reason=command.reason, by=by)

    return await transact(shop, issued, decide)


def cancellation(streams: Streams, order_id: str, *, reason: CancelReason, by: str) -> Writes:
    """The order's cancellation, and the release of all that is still held or committed for it."""
    state = streams.read(ORDER, order_id)
    cancelled = order.cancel(state, order_id=order_id, reason=reason, by=by)
    expect_stock(streams, [(line.sku, line.location) for line in state.lines])
    writes: dict[str, list[Event]] = {ORDER.stream(order_id): [*cancelled]}
    for line in state.lines:
        freed = stock.free(
            stock_of(streams, line.sku, line.location),
            reservation_id=state.reservation_id,
            order_id=order_id,
            line_id=line.line_id,
        )
        writes[stock_stream(line.sku, line.location)] = [*freed]
    return writes
