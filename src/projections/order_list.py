"""Which orders are there? One row an order, without its lines, to be listed by customer, status and time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, LiteralString, assert_never

from domain import order
from domain.envelope import Recorded
from domain.values import Money
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class OrderSummary:
    """`placed_at`: when it was placed, or sold elsewhere, by `source`. `version` is the order stream's."""

    order_id: str
    order_no: str
    customer_id: str
    status: order.OrderStatus
    currency: str
    total: Money
    lines: int
    source: str | None
    placed_at: datetime
    version: int


@record
class SummaryPart:
    """`summary` is None before the order is placed, which no history has."""

    summary: OrderSummary | None = None


def evolve(part: SummaryPart | None, recorded: Recorded) -> SummaryPart:
    before = part.summary if part else None
    event = recorded.event
    if not isinstance(event, order.OrderEvent):
        raise TypeError(f"{recorded.type} is no event of an order")
    match event:
        case order.OrderPlaced():
            return SummaryPart(_taken(event, recorded, order.OrderStatus.PLACED, None))
        case order.OrderImported():
            return SummaryPart(_taken(event, recorded, order.OrderStatus.COMPLETED, event.source))
        case order.OrderConfirmed():
            return _moved(before, order.OrderStatus.CONFIRMED, recorded)
        case order.OrderCancelled():
            return _moved(before, order.OrderStatus.CANCELLED, recorded)
        case _:
            assert_never(event)


def _taken(
    event: order.OrderPlaced | order.OrderImported,
    recorded: Recorded,
    status: order.OrderStatus,
    source: str | None,
) -> OrderSummary:
    return OrderSummary(
        order_id=event.order_id,
        order_no=event.order_no,
        customer_id=event.customer_id,
        status=status,
        currency=event.currency,
        total=event.total,
        lines=len(event.lines),
        source=source,
        placed_at=recorded.metadata.occurred_at,
        version=recorded.version,
    )


def _moved(before: OrderSummary | None, status: order.OrderStatus, recorded: Recorded) -> SummaryPart:
    return SummaryPart(replace(before, status=status, version=recorded.version) if before else None)


def keys(recorded: Recorded) -> Iterable[str]:
    event = recorded.event
    if isinstance(event, order.OrderEvent):
        yield event.order_id


def combine(parts: Mapping[str, SummaryPart]) -> OrderSummary | None:
    return next((part.summary for part in parts.values() if part.summary), None)


ORDER_LIST = ReadModel(
    name="order_list",
    row=OrderSummary,
    folds={order.ORDER.category: evolve},
    keys=keys,
    combine=combine,
    indexes=(
        ("placed_at", "order_id"),
        ("customer_id", "placed_at", "order_id"),
        ("status", "placed_at", "order_id"),
        ("customer_id", "status", "placed_at", "order_id"),
    ),
)

_BEHIND: Final[Mapping[bool, LiteralString]] = {
    True: " and (placed_at, order_id) < (%(at)s, %(order_id)s)",
    False: " and (placed_at, order_id) > (%(at)s, %(order_id)s)",
}
_ORDERED: Final[Mapping[bool, LiteralString]] = {
    True: " order by placed_at desc, order_id desc limit %(limit)s",
    False: " order by placed_at, order_id limit %(limit)s",
}


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Placed from `first` on and before `end`; newest first, or oldest. None: any."""

    customer_id: str | None = None
    status: order.OrderStatus | None = None
    first: datetime | None = None
    end: datetime | None = None
    newest_first: bool = True


async def orders_of(
    rows: Rows, wanted: OrderFilter, ask: Ask, *, behind: tuple[datetime, str] | None = None, limit: int
) -> Answer[OrderSummary]:
    """The first `limit` orders, or those behind the one with this time and id."""
    parameters: dict[str, Any] = {"limit": limit}
    ever: LiteralString = "true"
    if wanted.customer_id is not None:
        ever += " and customer_id = %(customer_id)s"
        parameters["customer_id"] = wanted.customer_id
    if wanted.first is not None:
        ever += " and placed_at >= %(first)s"
        parameters["first"] = wanted.first
    if wanted.end is not None:
        ever += " and placed_at < %(end)s"
        parameters["end"] = wanted.end
    where = ever
    if wanted.status is not None:
        where += " and status = %(status)s"
        parameters["status"] = wanted.status.value
    if behind is not None:
        where += _BEHIND[wanted.newest_first]
        parameters["at"], parameters["order_id"] = behind
    where += _ORDERED[wanted.newest_first]
    return await rows.select(ORDER_LIST, where, parameters, ask, ever=ever)
