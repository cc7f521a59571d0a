from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path
from pydantic import BaseModel
from starlette.responses import Response

from api.times import Timestamp
from api.write._answers import WrittenAggregate, answered, first
from api.write._command import Call, command, router
from api.write._fields import (
    Currency,
    Fields,
    Id,
    Items,
    Line,
    LineQty,
    LocationCode,
    Name,
    NoFields,
    ShortText,
    Sku,
    SoldAmount,
    SoldQty,
    Total,
)
from commands.cancel_order import CancelOrder, cancel_order
from commands.confirm_order import ConfirmOrder, confirm_order
from commands.import_order import ImportOrder, SoldLine, import_order
from commands.place_order import PlaceOrder, WantedLine, place_order
from domain.location import UnknownLocation
from domain.order import (
    ORDER,
    OrderAlreadyImported,
    OrderCancelled,
    OrderConfirmed,
    OrderImported,
    OrderNotOpen,
    OrderPlaced,
    PriceChanged,
    UnknownOrder,
)
from domain.price import NoPrice
from domain.product import NotPublished
from domain.sku import UnknownSku
from domain.stock import (
    CommitmentReleased,
    InsufficientStock,
    ReservationCommitted,
    ReservationExpired,
    ReservationReleased,
    StockDepleted,
    StockReplenished,
    StockReserved,
)
from domain.values import InvalidFields, Money

orders = router()

OrderId = Annotated[Id, Path()]


class LineFields(Fields):
    """`location` left out: the house's default."""

    sku: Sku
    qty: LineQty
    location: LocationCode | None = None


class MoneyFields(Fields):
    amount_minor: Total
    currency: Currency


class NewOrder(Fields):
    """`expected_total` is what the customer saw: at other prices the order is refused."""

    customer_id: Id
    lines: Items[LineFields]
    currency: Currency
    expected_total: MoneyFields


class SoldLineFields(Fields):
    """`amount_minor`, gross, is for all `qty` units; what was given back is below 0."""

    sku: Sku
    qty: SoldQty
    amount_minor: SoldAmount
    title: Line | None = None


class OrderTakenElsewhere(Fields):
    """`source` names where, `source_order_id` the order there; `location` sold it."""

    source: ShortText
    source_order_id: Name
    sold_at: Timestamp
    customer_id: Id
    location: LocationCode
    currency: Currency
    lines: Items[SoldLineFields]


class Cancellation(Fields):
    reason: Literal["customer", "staff", "fraud"]


class MoneyAnswer(BaseModel):
    amount_minor: int
    currency: str


class OrderAnswer(WrittenAggregate):
    order_id: str


class PlacedAnswer(OrderAnswer):
    """Confirm before `expires_at`: from then on the stock is free for others."""

    order_no: str
    total: MoneyAnswer
    reservation_id: str
    expires_at: datetime


@orders.post(
    "/orders",
    **command(
        "PlaceOrder",
        summary="Price every line, reserve all of them or none, and place the order",
        scope="orders:place",
        answer=PlacedAnswer,
        events=(OrderPlaced, StockReserved, ReservationExpired, StockDepleted),
        refusals=(
            UnknownSku,
            UnknownLocation,
            NotPublished,
            NoPrice,
            PriceChanged,
            InsufficientStock,
            InvalidFields,
        ),
        created=True,
    ),
)
async def place(body: NewOrder, call: Call) -> Response:
    wanted = PlaceOrder(
        customer_id=body.customer_id,
        lines=tuple(WantedLine(line.sku, line.qty, line.location) for line in body.lines),
        currency=body.currency,
        expected_total=Money(body.expected_total.amount_minor, body.expected_total.currency),
    )
    receipt = await place_order(call.shop, call.issued, wanted)
    placed = first(receipt, OrderPlaced)
    facts = {
        "order_id": placed.order_id,
        "order_no": placed.order_no,
        "total": {"amount_minor": placed.total.amount_minor, "currency": placed.total.currency},
        "reservation_id": placed.reservation_id,
        "expires_at": placed.expires_at,
    }
    read_at = f"/orders/{placed.order_id}"
    return answered(call, receipt, PlacedAnswer, facts, aggregate=ORDER, read_at=read_at, created=True)


class ImportedAnswer(OrderAnswer):
    order_no: str
    total: MoneyAnswer


@orders.post(
    "/imported-orders",
    **command(
        "ImportOrder",
        summary="Record an order taken elsewhere, with its amounts, as of the time it was sold",
        scope="orders:import",
        answer=ImportedAnswer,
        events=(OrderImported,),
        refusals=(UnknownSku, UnknownLocation, OrderAlreadyImported, InvalidFields),
        created=True,
    ),
)
async def import_(body: OrderTakenElsewhere, call: Call) -> Response:
    sold = ImportOrder(
        source=body.source,
        source_order_id=body.source_order_id,
        sold_at=body.sold_at,
        customer_id=body.customer_id,
        location=body.location,
        currency=body.currency,
        lines=tuple(SoldLine(line.sku, line.qty, line.amount_minor, line.title) for line in body.lines),
    )
    receipt = await import_order(call.shop, call.issued, sold)
    imported = first(receipt, OrderImported)
    facts = {
        "order_id": imported.order_id,
        "order_no": imported.order_no,
        "total": {"amount_minor": imported.total.amount_minor, "currency": imported.total.currency},
    }
    read_at = f"/orders/{imported.order_id}"
    return answered(call, receipt, ImportedAnswer, facts, aggregate=ORDER, read_at=read_at, created=True)


@orders.post(
    "/orders/{order_id}/confirm",
    **command(
        "ConfirmOrder",
        summary="Commit an order's reservations; what has expired is taken again if there is stock",
        scope="orders:confirm",
        answer=OrderAnswer,
        events=(OrderConfirmed, ReservationCommitted, ReservationExpired, StockReserved, StockDepleted),
        refusals=(UnknownOrder, OrderNotOpen, InsufficientStock),
        if_match=True,
    ),
)
async def confirm(order_id: OrderId, body: NoFields, call: Call) -> Response:  # noqa: ARG001 - refuses fields
    receipt = await confirm_order(call.shop, call.issued, ConfirmOrder(order_id))
    return answered(call, receipt, OrderAnswer, {"order_id": order_id}, aggregate=ORDER)


@orders.post(
    "/orders/{order_id}/cancel",
    **command(
        "CancelOrder",
        summary="Cancel an order and give back what it holds",
        scope="orders:cancel",
        answer=OrderAnswer,
        events=(OrderCancelled, ReservationReleased, CommitmentReleased, StockReplenished),
        refusals=(UnknownOrder, OrderNotOpen),
        if_match=True,
    ),
)
async def cancel(order_id: OrderId, body: Cancellation, call: Call) -> Response:
    receipt = await cancel_order(call.shop, call.issued, CancelOrder(order_id, body.reason))
    return answered(call, receipt, OrderAnswer, {"order_id": order_id}, aggregate=ORDER)
