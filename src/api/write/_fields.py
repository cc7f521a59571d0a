"""The types of request fields: strict numbers, and the limits of the domain."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from domain.values import (
    CURRENCY_EXPONENT,
    ID_PATTERN,
    LANG_PATTERN,
    LOCATION_PATTERN,
    MAX_AMOUNT_MINOR,
    MAX_LINE_QTY,
    MAX_ORDER_LINES,
    MAX_SOLD_QTY,
    MAX_STOCK_QTY,
    SKU_PATTERN,
    SLUG_PATTERN,
)


class Fields(BaseModel):
    """The body of a command. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoFields(Fields):
    """A command that says everything in its path. The body may be left out."""


def _known_currency(code: str) -> str:
    if code not in CURRENCY_EXPONENT:
        raise PydanticCustomError("unknown_currency", "This is not an ISO 4217 currency")
    return code


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Sku = Annotated[str, Field(pattern=SKU_PATTERN)]
Slug = Annotated[str, Field(pattern=SLUG_PATTERN)]
LocationCode = Annotated[str, Field(pattern=LOCATION_PATTERN)]
Lang = Annotated[str, Field(pattern=LANG_PATTERN, max_length=35)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(_known_currency)]

ShortText = Annotated[str, Field(min_length=1, max_length=32)]
Name = Annotated[str, Field(min_length=1, max_length=80)]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Note = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]

LineQty = Annotated[int, Field(strict=True, ge=1, le=MAX_LINE_QTY)]
StockQty = Annotated[int, Field(strict=True, ge=1, le=MAX_STOCK_QTY)]
StockCount = Annotated[int, Field(strict=True, ge=0, le=MAX_STOCK_QTY)]
StockDelta = Annotated[int, Field(strict=True, ge=-MAX_STOCK_QTY, le=MAX_STOCK_QTY)]
Price = Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT_MINOR)]
Total = Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT_MINOR)]
SoldQty = Annotated[int, Field(strict=True, ge=0, le=MAX_SOLD_QTY)]
SoldAmount = Annotated[int, Field(strict=True, ge=-MAX_AMOUNT_MINOR, le=MAX_AMOUNT_MINOR)]

_Item = TypeVar("_Item")
Items = Annotated[list[_Item], Field(min_length=1, max_length=MAX_ORDER_LINES)]
