from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from api.problems import INVALID_CURSOR
from api.read._lists import DEFAULT_LIMIT, Cursor, Limit, cursor_of, key_at, key_of, place_of
from api.read._query import NOT_STORED, Call, Rendering, query, router
from api.times import Timestamp
from domain.order import OrderStatus, UnknownOrder
from domain.values import ID_PATTERN
from projections.order_detail import OrderDetail, order_of
from projections.order_list import OrderFilter, OrderSummary, orders_of

orders = router()

_ONE: Final = Rendering[OrderDetail](OrderDetail, cache=NOT_STORED)


class Orders(BaseModel):
    """`next`: the cursor of the next page, null on the last."""

    orders: list[OrderSummary]
    next: str | None


_SOME: Final = Rendering[OrderSummary](Orders, cache=NOT_STORED)


@orders.get(
    "/orders",
    **query(
        "order_list",
        summary="Orders by customer, status and time, newest first unless said otherwise",
        scope="orders:read",
        answer=Orders,
        problems=(INVALID_CURSOR,),
    ),
)
async def listed(
    call: Call,
    customer: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    status: Literal["placed", "confirmed", "cancelled", "completed"] | None = None,
    first: Annotated[Timestamp | None, Query(alias="from")] = None,
    end: Annotated[Timestamp | None, Query(alias="to", description="Before this time.")] = None,
    sort: Literal["newest", "oldest"] = "newest",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    wanted = OrderFilter(customer, OrderStatus(status) if status else None, first, end, sort == "newest")
    question = ("order_list", wanted)
    behind = place_of(key_of(question, cursor), datetime.fromisoformat)
    answer = await orders_of(call.rows, wanted, call.ask, behind=behind, limit=limit)
    rows = [versioned.row for versioned in answer.rows]
    page = Orders(
        orders=rows,
        next=cursor_of(question, key_at(rows[-1].placed_at, rows[-1].order_id))
        if len(rows) == limit
        else None,
    )
    return _SOME.answered(call, answer, [row.order_id for row in rows], page)


@orders.get(
    "/orders/{order_id}",
    **query(
        "order_detail",
        summary="An order and what became of it",
        scope="orders:read",
        answer=OrderDetail,
        refusals=(UnknownOrder,),
    ),
)
async def by_id(order_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call) -> Response:
    answer = await order_of(call.rows, order_id, call.ask)
    if not answer.rows:
        raise UnknownOrder(order_id)
    return _ONE.answered(call, answer, [order_id], answer.rows[0].row)
