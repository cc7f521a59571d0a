"""An order. Stream `order-{id}`; `placed → {confirmed, cancelled}`, `confirmed → cancelled`.

An order taken elsewhere is imported as it was sold: it is `completed`, and reserves nothing.

Payment, fulfilment and return status are projections. Prices never change after `OrderPlaced` or
`OrderImported`.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Literal, assert_never

from domain.values import (
    MAX_AMOUNT_MINOR,
    Aggregate,
    FieldError,
    InvalidFields,
    Money,
    NotFound,
    Rejected,
)

CancelReason = Literal["customer", "staff", "fraud", "reservation_expired"]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class OrderLine:
    """`unit_price_minor` is gross; `price_event_id` is the event that set it."""

    line_id: str
    product_id: str
    variant_id: str
    sku: str
    title: str
    location: str
    qty: int
    unit_price_minor: int
    price_event_id: str


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    TYPE: ClassVar[str] = "order.placed.v1"

    order_id: str
    order_no: str
    customer_id: str
    currency: str
    lines: tuple[OrderLine, ...]
    total: Money
    reservation_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """A line as it was sold elsewhere: `amount_minor`, gross, is for all `qty` units, which may be none."""

    line_id: str
    product_id: str
    variant_id: str
    sku: str
    title: str | None
    location: str
    qty: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class OrderImported:
    """It occurred when it was sold. `source` names where, `source_order_id` the order there."""

    TYPE: ClassVar[str] = "order.imported.v1"

    order_id: str
    order_no: str
    customer_id: str
    currency: str
    lines: tuple[ImportedLine, ...]
    total: Money
    source: str
    source_order_id: str


@dataclass(frozen=True, slots=True)
class OrderConfirmed:
    TYPE: ClassVar[str] = "order.confirmed.v1"

    order_id: str
    confirmed_at: datetime


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """`by` names who cancelled, as the envelope's actor does: `type:id`."""

    TYPE: ClassVar[str] = "order.cancelled.v1"

    order_id: str
    reason: CancelReason
    by: str


OrderEvent = OrderPlaced | OrderImported | OrderConfirmed | OrderCancelled


class OrderStatus(StrEnum):
    NONE = "none"
    PLACED = "placed"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Order:
    status: OrderStatus = OrderStatus.NONE
    lines: tuple[OrderLine, ...] = ()
    reservation_id: str = ""


def evolve(state: Order, event: OrderEvent) -> Order:
    match event:
        case OrderPlaced():
            return Order(OrderStatus.PLACED, event.lines, event.reservation_id)
        case OrderImported():
            return Order(OrderStatus.COMPLETED)
        case OrderConfirmed():
            return replace(state, status=OrderStatus.CONFIRMED)
        case OrderCancelled():
            return replace(state, status=OrderStatus.CANCELLED)
        case _:
            assert_never(event)


ORDER = Aggregate("order", Order(), evolve)


@dataclass(eq=False)
class UnknownOrder(NotFound):
    """There is no such order."""

    order_id: str


@dataclass(eq=False)
class OrderAlreadyImported(Rejected):
    """This order of this source, sold at this time, has been imported."""

    order_id: str


@dataclass(eq=False)
class OrderNotOpen(Rejected):
    """The order's state does not allow this."""

    order_status: OrderStatus


@dataclass(frozen=True, slots=True)
class CurrentPrice:
    sku: str
    qty: int
    unit_price_minor: int


@dataclass(eq=False)
class PriceChanged(Rejected):
    """The total expected is not the total at the prices in force."""

    expected_total: Money
    current_total: Money
    lines: tuple[CurrentPrice, ...]


def order_no(order_id: str) -> str:
    """The number people read out: 16 Crockford base 32 digits: the id's 48 bits of time, its last 32."""
    bits = int(order_id.replace("-", ""), 16)
    number = (bits >> 80) << 32 | bits & 0xFFFFFFFF
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(75, -1, -5))


def place(
    *,
    order_id: str,
    customer_id: str,
    currency: str,
    lines: tuple[OrderLine, ...],
    expected_total: Money,
    reservation_id: str,
    expires_at: datetime,
) -> list[OrderEvent]:
    """`lines` are priced already, in `currency`; `PriceChanged` if they do not come to `expected_total`."""
    total = sum(
        (Money(line.unit_price_minor, currency).times(line.qty) for line in lines), Money(0, currency)
    )
    if total != expected_total:
        prices = tuple(CurrentPrice(line.sku, line.qty, line.unit_price_minor) for line in lines)
        raise PriceChanged(expected_total, total, prices)
    return [
        OrderPlaced(
            order_id=order_id,
            order_no=order_no(order_id),
            customer_id=customer_id,
            currency=currency,
            lines=lines,
            total=total,
            reservation_id=reservation_id,
            expires_at=expires_at,
        )
    ]


def import_(
    state: Order,
    *,
    order_id: str,
    customer_id: str,
    currency: str,
    lines: tuple[ImportedLine, ...],
    source: str,
    source_order_id: str,
    sold_at: datetime,
    at: datetime,
) -> list[OrderEvent]:
    if state.status is not OrderStatus.NONE:
        raise OrderAlreadyImported(order_id)
    total = Money(sum(line.amount_minor for line in lines), currency)
    errors = []
    if sold_at > at:
        errors.append(FieldError("/sold_at", "in_the_future", "It has not been sold yet."))
    if abs(total.amount_minor) > MAX_AMOUNT_MINOR:
        errors.append(FieldError("/lines", "out_of_range", f"They come to more than {MAX_AMOUNT_MINOR}."))
    if errors:
        raise InvalidFields(tuple(errors))
    return [
        OrderImported(
            order_id=order_id,
            order_no=order_no(order_id),
            customer_id=customer_id,
            currency=currency,
            lines=lines,
            total=total,
            source=source,
            source_order_id=source_order_id,
        )
    ]


def confirm(state: Order, *, order_id: str, at: datetime) -> list[OrderEvent]:
    must_exist(state, order_id=order_id)
    if state.status is not OrderStatus.PLACED:
        raise OrderNotOpen(state.status)
    return [OrderConfirmed(order_id, at)]


def cancel(state: Order, *, order_id: str, reason: CancelReason, by: str) -> list[OrderEvent]:
    must_exist(state, order_id=order_id)
    if state.status not in {OrderStatus.PLACED, OrderStatus.CONFIRMED}:
        raise OrderNotOpen(state.status)
    return [OrderCancelled(order_id, reason, by)]


def must_exist(state: Order, *, order_id: str) -> None:
    if state.status is OrderStatus.NONE:
        raise UnknownOrder(order_id)
