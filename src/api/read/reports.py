from datetime import date
from typing import Annotated, Final

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

from api.problems import INVALID_CURSOR
from api.read._lists import DEFAULT_LIMIT, Cursor, Limit, cursor_of, key_of
from api.read._query import NOT_STORED, Call, Rendering, query, router
from domain.values import LOCATION_PATTERN
from projections.sales_daily import SalesDaily, SalesFilter, sales_of

reports = router()


class SalesOfDay(BaseModel):
    """Gross sales of a UTC day at a location: what was ordered, whatever became of it later."""

    day: date
    currency: str
    location: str
    orders: int
    units: int
    gross_minor: int


class Sales(BaseModel):
    """By day, currency and location. `next`: the cursor of the next page, null on the last."""

    sales: list[SalesOfDay]
    next: str | None


_SALES: Final = Rendering[SalesDaily](Sales, cache=NOT_STORED)


@reports.get(
    "/reports/sales_daily",
    **query(
        "sales_daily",
        summary="What was sold, by UTC day, currency and location",
        scope="reports:read",
        answer=Sales,
        problems=(INVALID_CURSOR,),
    ),
)
async def sales_daily(
    call: Call,
    first_day: Annotated[date, Query(alias="from")] = date.min,
    last_day: Annotated[date, Query(alias="to")] = date.max,
    currency: Annotated[str | None, Query(pattern=r"^[A-Z]{3}$")] = None,
    location: Annotated[str | None, Query(pattern=LOCATION_PATTERN)] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Both days are included."""
    wanted = SalesFilter(first_day, last_day, currency, location)
    question = ("sales_daily", wanted)
    answer = await sales_of(call.rows, wanted, call.ask, after=key_of(question, cursor), limit=limit)
    rows = [versioned.row for versioned in answer.rows]
    sales = Sales(
        sales=[
            SalesOfDay(
                day=date.fromisoformat(row.day),
                currency=row.currency,
                location=row.location,
                orders=row.orders,
                units=int(row.units),
                gross_minor=int(row.gross_minor),
            )
            for row in rows
        ],
        next=cursor_of(question, rows[-1].key) if len(rows) == limit else None,
    )
    return _SALES.answered(call, answer, [row.key for row in rows], sales)
