"""Why is it so? The events that made a row, or one field of it, what it is."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from api import etags
from api.problems import INVALID_FIELDS, Refused
from api.read._query import NOT_STORED, Call, QueryCall, query, responded, router
from domain.order import UnknownOrder
from domain.product import UnknownProduct
from domain.values import ID_PATTERN, LOCATION_PATTERN, SKU_PATTERN, FieldError, NotFound
from projections.order_detail import ORDER_DETAIL
from projections.order_list import ORDER_LIST
from projections.ports import ReadModel, Step, UnknownRow
from projections.product_detail import PRODUCT_DETAIL
from projections.product_list import PRODUCT_LIST
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY

MAX_STEPS: Final = 200
DEFAULT_STEPS: Final = 50

explanations = router()


class StepActor(BaseModel):
    type: Literal["customer", "staff", "service", "gateway", "auditor", "system"]
    id: str


class ExplainedStep(BaseModel):
    """`value`: of the field from this event on; of the whole row without one."""

    position: int
    event_id: str
    type: str
    stream: str
    version: int
    occurred_at: datetime
    recorded_at: datetime
    actor: StepActor
    value: Any


class Explanation(BaseModel):
    """In the order of the log. `next`: the `after` of the next page, null on the last."""

    read_model: str
    key: str
    field: str | None
    steps: list[ExplainedStep]
    next: int | None


@dataclass(frozen=True, slots=True)
class Page:
    field: str | None
    after: int
    limit: int


async def _page_of(
    field: Annotated[str | None, Query(max_length=80, description="Only what changed this field.")] = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only what came after this position.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_STEPS)] = DEFAULT_STEPS,
) -> Page:
    return Page(field, after, limit)


Wanted = Annotated[Page, Depends(_page_of)]


@explanations.get(
    "/orders/{order_id}/explain",
    **query(
        "explain_order",
        summary="The events that made an order what it is",
        scope="orders:read",
        answer=Explanation,
        refusals=(UnknownOrder,),
    ),
)
async def order(order_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call, page: Wanted) -> Response:
    return await _explained(call, ORDER_DETAIL, order_id, page, UnknownOrder(order_id))


@explanations.get(
    "/orders/{order_id}/listing/explain",
    **query(
        "explain_order_listing",
        summary="The events that made an order what lists show of it",
        scope="orders:read",
        answer=Explanation,
        refusals=(UnknownOrder,),
    ),
)
async def order_listing(
    order_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call, page: Wanted
) -> Response:
    return await _explained(call, ORDER_LIST, order_id, page, UnknownOrder(order_id))


@explanations.get(
    "/products/{product_id}/explain",
    **query(
        "explain_product",
        summary="The events that made a product what it is",
        scope="products:read",
        answer=Explanation,
        refusals=(UnknownProduct,),
    ),
)
async def product(product_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call, page: Wanted) -> Response:
    return await _explained(call, PRODUCT_DETAIL, product_id, page, UnknownProduct(product_id))


@explanations.get(
    "/products/{product_id}/listing/explain",
    **query(
        "explain_product_listing",
        summary="The events that made a product what lists show of it",
        scope="products:read",
        answer=Explanation,
        refusals=(UnknownProduct,),
    ),
)
async def product_listing(
    product_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call, page: Wanted
) -> Response:
    return await _explained(call, PRODUCT_LIST, product_id, page, UnknownProduct(product_id))


@explanations.get(
    "/stock/{sku}@{location}/explain",
    **query(
        "explain_stock",
        summary="The events that made a SKU's stock at a location what it is",
        scope="stock:read",
        answer=Explanation,
        refusals=(UnknownRow,),
    ),
)
async def stock(
    sku: Annotated[str, Path(pattern=SKU_PATTERN)],
    location: Annotated[str, Path(pattern=LOCATION_PATTERN)],
    call: Call,
    page: Wanted,
) -> Response:
    return await _explained(call, STOCK_AVAILABILITY, f"{sku}@{location}", page, UnknownRow())


@explanations.get(
    "/reports/sales_daily/{day}/{currency}/{location}/explain",
    **query(
        "explain_sales",
        summary="The orders that a day's sales at a location come from",
        scope="reports:read",
        answer=Explanation,
        refusals=(UnknownRow,),
    ),
)
async def sales(
    day: date,
    currency: Annotated[str, Path(pattern=r"^[A-Z]{3}$")],
    location: Annotated[str, Path(pattern=LOCATION_PATTERN)],
    call: Call,
    page: Wanted,
) -> Response:
    key = f"{day.isoformat()}/{currency}/{location}"
    return await _explained(call, SALES_DAILY, key, page, UnknownRow())


async def _explained(
    call: QueryCall, model: ReadModel[Any], key: str, page: Page, unknown: NotFound
) -> Response:
    names = [field.name for field in fields(model.row)]
    if page.field is not None and page.field not in names:
        error = FieldError("/field", "not_allowed", f"The fields are {', '.join(names)}.")
        raise Refused(INVALID_FIELDS, "Some fields of the request are not valid.", errors=[error])
    steps, at = await call.past.explain(model, key, page.field, call.ask)
    if not steps:
        raise unknown
    shown = [step for step in steps if step.recorded.position > page.after]
    explanation = Explanation(
        read_model=model.name,
        key=key,
        field=page.field,
        steps=_shown(shown[: page.limit]),
        next=shown[page.limit - 1].recorded.position if len(shown) > page.limit else None,
    )
    content = explanation.model_dump_json().encode()
    return responded(call, lambda: content, etag=etags.of_content(content), cache=NOT_STORED, at=at)


def _shown(steps: Sequence[Step]) -> list[ExplainedStep]:
    return [
        ExplainedStep(
            position=step.recorded.position,
            event_id=step.recorded.event_id,
            type=step.recorded.type,
            stream=step.recorded.stream,
            version=step.recorded.version,
            occurred_at=step.recorded.metadata.occurred_at,
            recorded_at=step.recorded.recorded_at,
            actor=StepActor(type=step.recorded.metadata.actor.type, id=step.recorded.metadata.actor.id),
            value=_plain(step.value),
        )
        for step in steps
    ]


def _plain(value: object) -> object:
    """Sums, which may pass 64 bits, are numbers here as they are in lists."""
    if isinstance(value, Decimal):
        return int(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
