from typing import Annotated, Final

from fastapi import Path
from starlette.responses import Response

from api.read._query import NOT_STORED, Call, Rendering, query, router
from domain.order import UnknownOrder
from domain.values import ID_PATTERN
from projections.order_detail import OrderDetail, order_of

orders = router()

_ONE: Final = Rendering[OrderDetail](OrderDetail, cache=NOT_STORED)


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
