from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import Depends, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.problems import INVALID_CURSOR, INVALID_FIELDS, Refused, first_line
from api.read._lists import DEFAULT_LIMIT, Cursor, Limit, cursor_of, key_at, key_of, place_of
from api.read._query import REFUSALS, REVALIDATED, Call, Rendering, query, router
from domain.product import ProductStatus, UnknownProduct
from domain.values import ID_PATTERN, MAX_AMOUNT_MINOR, SLUG_PATTERN, FieldError
from projections.product_detail import ProductDetail, product_of, product_with_slug
from projections.product_list import (
    SORTED_BY,
    ListedProduct,
    ProductFilter,
    ProductSummary,
    Sort,
    products_of,
)

MAX_TEXT_CHARS: Final = 200

products = router()


class Products(BaseModel):
    """`next`: the cursor of the next page, null on the last."""

    products: list[ProductSummary]
    next: str | None


_ONE: Final = Rendering[ProductDetail](ProductDetail, cache=REVALIDATED)
_SOME: Final = Rendering[ListedProduct](Products, cache=REVALIDATED)
_AT: Final[Mapping[Sort, Callable[[str], str | int | datetime]]] = {
    "name": str,
    "newest": datetime.fromisoformat,
    "cheapest": int,
    "dearest": int,
}
"""How a cursor says what its list is sorted by."""

_Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"^[^\x00]*$")]
_Price = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]


async def _filter_of(
    *,
    status: Annotated[
        Literal["draft", "published"], Query(description="Drafts are listed only when they are asked for.")
    ] = "published",
    department: _Text | None = None,
    category: _Text | None = None,
    currency: Annotated[str | None, Query(pattern=r"^[A-Z]{3}$", description="What is listed in it.")] = None,
    price_from: Annotated[_Price | None, Query(description="In minor units of `currency`.")] = None,
    price_to: Annotated[_Price | None, Query(description="In minor units of `currency`.")] = None,
    available: bool | None = None,
    q: Annotated[
        _Text | None,
        Query(
            description='Words of title, brand and category: all of these, "a phrase", this or that, -not.'
        ),
    ] = None,
    sort: Sort = "name",
) -> ProductFilter:
    by_price = sort if SORTED_BY[sort] == "price_minor" else None
    asked = {"price_from": price_from, "price_to": price_to, "sort": by_price}
    if currency is None and (needing := [name for name, value in asked.items() if value is not None]):
        error = FieldError("/currency", "missing", f"{', '.join(needing)}: in which currency?")
        raise Refused(INVALID_FIELDS, "Some fields of the request are not valid.", errors=[error])
    return ProductFilter(
        sort=sort,
        status=ProductStatus(status),
        department=department,
        category=category,
        currency=currency,
        price_from=price_from,
        price_to=price_to,
        in_stock=available,
        words=q,
    )


@products.get(
    "/products",
    **query(
        "product_list",
        summary="Products by department, category, price, stock and words, by name unless said otherwise",
        scope="products:read",
        answer=Products,
        problems=(INVALID_CURSOR,),
    ),
)
async def listed(
    call: Call,
    wanted: Annotated[ProductFilter, Depends(_filter_of)],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    question = ("product_list", wanted)
    behind = place_of(key_of(question, cursor), _AT[wanted.sort])
    answer = await products_of(call.rows, wanted, call.ask, behind=behind, limit=limit)
    rows = [versioned.row for versioned in answer.rows]
    page = Products(
        products=[*rows],
        next=cursor_of(question, key_at(getattr(rows[-1], SORTED_BY[wanted.sort]), rows[-1].product_id))
        if len(rows) == limit
        else None,
    )
    return _SOME.answered(call, answer, [row.product_id for row in rows], page)


@products.get(
    "/products/{product_id}",
    **query(
        "product_detail",
        summary="A product: its texts, variants, prices and stock",
        scope="products:read",
        answer=ProductDetail,
        refusals=(UnknownProduct,),
    ),
)
async def by_id(product_id: Annotated[str, Path(pattern=ID_PATTERN)], call: Call) -> Response:
    answer = await product_of(call.rows, product_id, call.ask)
    if not answer.rows:
        raise UnknownProduct(product_id)
    return _ONE.answered(call, answer, [product_id], answer.rows[0].row)


@products.get(
    "/products/with-slug/{slug}",
    **query(
        "product_by_slug",
        summary="The product that has a slug",
        scope="products:read",
        answer=ProductDetail,
        refusals=(UnknownProduct,),
    ),
)
async def by_slug(slug: Annotated[str, Path(pattern=SLUG_PATTERN)], call: Call) -> Response:
    answer = await product_with_slug(call.rows, slug, call.ask)
    if not answer.rows:
        raise Refused(REFUSALS[UnknownProduct], first_line(UnknownProduct), slug=slug)
    row = answer.rows[0].row
    return _ONE.answered(call, answer, [row.product_id], row)
