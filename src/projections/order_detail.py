"""What became of an order? One row an order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from domain import order
from domain.envelope import Recorded
from domain.values import Money
from projections.ports import Answer, Ask, ReadModel, Rows


@dataclass(frozen=True, slots=True)
class OrderDetail:
    """`version` is the order stream's; times are when it happened."""

    order_id: str
    order_no: str
    customer_id: str
    status: order.OrderStatus
    currency: str
    lines: tuple[order.OrderLine, ...]
    total: Money
    reservation_id: str
    placed_at: datetime
    expires_at: datetime
    confirmed_at: datetime | None
    cancelled_at: datetime | None
    cancel_reason: str | None
    version: int


@dataclass(frozen=True, slots=True)
class OrderPart:
    placed: order.OrderPlaced | None = None
    placed_at: datetime | None = None
    confirmed_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_reason: str | None = None
    version: int = 0


def evolve(part: OrderPart | None, recorded: Recorded) -> OrderPart:
    event = recorded.event
    before = replace(part or OrderPart(), version=recorded.version)
    if not isinstance(event, order.OrderEvent):
        raise TypeError(f"{recorded.type} is no event of an order")
    match event:
        case order.OrderPlaced():
            return replace(before, placed=event, placed_at=recorded.metadata.occurred_at)
        case order.OrderConfirmed():
            return replace(before, confirmed_at=event.confirmed_at)
        case order.OrderCancelled():
            return replace(before, cancelled_at=recorded.metadata.occurred_at, cancel_reason=event.reason)
        case _:
            assert_never(event)


def keys(recorded: Recorded) -> Iterable[str]:
    match recorded.event:
        case order.OrderPlaced() | order.OrderConfirmed() | order.OrderCancelled() as event:
            yield event.order_id
        case _:
            return


def combine(parts: Mapping[str, OrderPart]) -> OrderDetail | None:
    for part in parts.values():
        if part.placed is None or part.placed_at is None:
            continue
        placed = part.placed
        return OrderDetail(
            order_id=placed.order_id,
            order_no=placed.order_no,
            customer_id=placed.customer_id,
            status=_status(part),
            currency=placed.currency,
            lines=placed.lines,
            total=placed.total,
            reservation_id=placed.reservation_id,
            placed_at=part.placed_at,
            expires_at=placed.expires_at,
            confirmed_at=part.confirmed_at,
            cancelled_at=part.cancelled_at,
            cancel_reason=part.cancel_reason,
            version=part.version,
        )
    return None


def _status(part: OrderPart) -> order.OrderStatus:
    if part.cancelled_at is not None:
        return order.OrderStatus.CANCELLED
    if part.confirmed_at is not None:
        return order.OrderStatus.CONFIRMED
    return order.OrderStatus.PLACED


ORDER_DETAIL = ReadModel(
    name="order_detail",
    row=OrderDetail,
    folds={order.ORDER.category: evolve},
    keys=keys,
    combine=combine,
)


async def order_of(rows: Rows, order_id: str, ask: Ask) -> Answer[OrderDetail]:
    """The order, or no row."""
    return await rows.select(ORDER_DETAIL, "order_id = %(order_id)s", {"order_id": order_id}, ask)
