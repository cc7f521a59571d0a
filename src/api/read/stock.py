from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import Field
from starlette.responses import Response

from api.read._query import REVALIDATED, Call, QueryCall, Rendering, query, router
from domain.values import SKU_PATTERN
from projections.stock_availability import StockAvailability, availability_of

MAX_SKUS: Final = 200

stock = router()


@dataclass(frozen=True, slots=True)
class Stock:
    """Every location's stock of each SKU, by SKU and location; a SKU without stock has no row."""

    stock: tuple[StockAvailability, ...]


_ALL: Final = Rendering[StockAvailability](Stock, cache=REVALIDATED)
_Sku = Annotated[str, Field(pattern=SKU_PATTERN)]


@stock.get(
    "/stock/{sku}",
    **query(
        "availability_of_sku",
        summary="How much of a SKU is available, and where",
        scope="stock:read",
        answer=Stock,
    ),
)
async def of_sku(sku: Annotated[str, Path(pattern=SKU_PATTERN)], call: Call) -> Response:
    return await _answer(call, [sku])


@stock.get(
    "/stock",
    **query(
        "stock_availability",
        summary="How much of each SKU is available, and where",
        scope="stock:read",
        answer=Stock,
    ),
)
async def of_skus(
    sku: Annotated[list[_Sku], Query(min_length=1, max_length=MAX_SKUS)], call: Call
) -> Response:
    return await _answer(call, sku)


async def _answer(call: QueryCall, skus: list[str]) -> Response:
    answer = await availability_of(call.rows, skus, call.ask)
    found = tuple(versioned.row for versioned in answer.rows)
    return _ALL.answered(call, answer, [row.id for row in found], Stock(found))
