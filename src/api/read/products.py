from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import Field
from starlette.responses import Response

from api.read._query import REVALIDATED, Call, Rendering, query, router
from domain.product import UnknownProduct
from domain.values import ID_PATTERN, SLUG_PATTERN
from projections.product_detail import ProductDetail, product_of, product_with_slug

products = router()


@dataclass(frozen=True, slots=True)
class Products:
    products: tuple[ProductDetail, ...]


_ONE: Final = Rendering[ProductDetail](ProductDetail, cache=REVALIDATED)
_ALL: Final = Rendering[ProductDetail](Products, cache=REVALIDATED)


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
    "/products",
    **query(
        "product_by_slug",
        summary="The product that has a slug, or none",
        scope="products:read",
        answer=Products,
    ),
)
async def by_slug(slug: Annotated[str, Query(), Field(pattern=SLUG_PATTERN)], call: Call) -> Response:
    answer = await product_with_slug(call.rows, slug, call.ask)
    found = tuple(versioned.row for versioned in answer.rows)
    return _ALL.answered(call, answer, [row.product_id for row in found], Products(found))
