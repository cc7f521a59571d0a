"""What became of an order? One row an order."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import LiteralString, assert_never

from domain import order
from domain.envelope import Recorded
from domain.values import Money
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class DetailLine:
    """`amount_minor` is gross, for all units. A line sold elsewhere has no price of one unit."""

    line_id: str
    product_id: str
    variant_id: str
    sku: str
    title: str | None
    location: str
    qty: int
    amount_minor: int
    unit_price_minor: int | None
    price_event_id: str | None


@record
class OrderDetail:
    """`version` is the order stream's; times are when it happened, also elsewhere.

    An order taken elsewhere has a `source` and its id there, and neither reservation nor `expires_at`.
    """

    order_id: str
    order_no: str
    customer_id: str
    status: order.OrderStatus
    currency: str
    lines: tuple[DetailLine, ...]
    total: Money
    source: str | None
    source_order_id: str | None
    reservation_id: str | None
    placed_at: datetime
    expires_at: datetime | None
    confirmed_at: datetime | None
    cancelled_at: datetime | None
    cancel_reason: str | None
    version: int


@record
class OrderPart:
    placed: order.OrderPlaced | None = None
    imported: order.OrderImported | None = None
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
        case order.OrderImported():
            return replace(before, imported=event, placed_at=recorded.metadata.occurred_at)
        case order.OrderConfirmed():
            return replace(before, confirmed_at=event.confirmed_at)
        case order.OrderCancelled():
            return replace(before, cancelled_at=recorded.metadata.occurred_at, cancel_reason=event.reason)
        case _:
            assert_never(event)


def keys(recorded: Recorded) -> Iterable[str]:
    match recorded.event:
        case (
            order.OrderPlaced()
            | order.OrderImported()
            | order.OrderConfirmed()
            | order.OrderCancelled() as event
        ):
            yield event.order_id
        case _:
            return


def combine(parts: Mapping[str, OrderPart]) -> OrderDetail | None:
    for part in parts.values():
        taken = part.placed or part.imported
        if taken is None or part.placed_at is None:
            continue
        return OrderDetail(
            order_id=taken.order_id,
            order_no=taken.order_no,
            customer_id=taken.customer_id,
            status=_status(part),
            currency=taken.currency,
            lines=tuple(_line(line) for line in taken.lines),
            total=taken.total,
            source=part.imported.source if part.imported else None,
            source_order_id=part.imported.source_order_id if part.imported else None,
            reservation_id=part.placed.reservation_id if part.placed else None,
            placed_at=part.placed_at,
            expires_at=part.placed.expires_at if part.placed else None,
            confirmed_at=part.confirmed_at,
            cancelled_at=part.cancelled_at,
            cancel_reason=part.cancel_reason,
            version=part.version,
        )
    return None


def _line(line: order.OrderLine | order.ImportedLine) -> DetailLine:
    amount: int
    unit_price: int | None = None
    price_event_id: str | None = None
    match line:
        case order.OrderLine():
            unit_price, price_event_id = line.unit_price_minor, line.price_event_id
            amount = unit_price * line.qty
        case order.ImportedLine():
            amount = line.amount_minor
        case _:
            assert_never(line)
    return DetailLine(
        line_id=line.line_id,
        product_id=line.product_id,
        variant_id=line.variant_id,
        sku=line.sku,
        title=line.title,
        location=line.location,
        qty=line.qty,
        amount_minor=amount,
        unit_price_minor=unit_price,
        price_event_id=price_event_id,
    )


def _status(part: OrderPart) -> order.OrderStatus:
    if part.imported is not None:
        return order.OrderStatus.COMPLETED
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
    where: LiteralString = "order_id = %(order_id)s"
    return await rows.select(ORDER_DETAIL, where, {"order_id": order_id}, ask, ever=where)
