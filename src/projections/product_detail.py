"""What is this product, what does it cost, and is it there? One row a product."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import LiteralString, assert_never

from domain import price, product, stock
from domain.envelope import Recorded
from projections._price_part import PricePart, PriceView
from projections._price_part import evolve as evolve_price
from projections._product_keys import keys
from projections._stock_part import StockPart
from projections._stock_part import evolve as evolve_stock
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class StockView:
    location: str
    available: int


@record
class VariantView:
    """`prices`: in force at the last change, and those to come. `price_version`: the price stream's."""

    variant_id: str
    sku: str
    options: dict[str, str]
    weight_g: int
    barcode: str | None
    prices: tuple[PriceView, ...]
    price_version: int
    stock: tuple[StockView, ...]


@record
class ProductDetail:
    """`version` is the product stream's."""

    product_id: str
    slug: str
    status: product.ProductStatus
    title: dict[str, str]
    description: dict[str, str]
    tax_class: str
    brand: str | None
    attributes: dict[str, str]
    variants: tuple[VariantView, ...]
    published_at: datetime | None
    version: int


@record
class ProductPart:
    drafted: product.ProductDrafted | None = None
    variants: tuple[product.VariantAdded, ...] = ()
    published_at: datetime | None = None
    version: int = 0


def evolve_product(part: ProductPart | None, recorded: Recorded) -> ProductPart:
    event = recorded.event
    before = replace(part or ProductPart(), version=recorded.version)
    if not isinstance(event, product.ProductEvent):
        raise TypeError(f"{recorded.type} is no event of a product")
    match event:
        case product.ProductDrafted():
            return replace(before, drafted=event)
        case product.VariantAdded():
            return replace(before, variants=(*before.variants, event))
        case product.ProductPublished():
            return replace(before, published_at=event.at)
        case _:
            assert_never(event)


def combine(parts: Mapping[str, ProductPart | PricePart | StockPart]) -> ProductDetail | None:
    products = [part for part in parts.values() if isinstance(part, ProductPart)]
    if not products or products[0].drafted is None:
        return None
    part, drafted = products[0], products[0].drafted
    prices = {part.variant_id: part for part in parts.values() if isinstance(part, PricePart)}
    stocks = [part for part in parts.values() if isinstance(part, StockPart)]
    return ProductDetail(
        product_id=drafted.product_id,
        slug=drafted.slug,
        status=product.ProductStatus.PUBLISHED if part.published_at else product.ProductStatus.DRAFT,
        title=drafted.title,
        description=drafted.description,
        tax_class=drafted.tax_class,
        brand=drafted.brand,
        attributes=drafted.attributes,
        variants=tuple(_variant(added, prices.get(added.variant_id), stocks) for added in part.variants),
        published_at=part.published_at,
        version=part.version,
    )


def _variant(added: product.VariantAdded, prices: PricePart | None, stocks: list[StockPart]) -> VariantView:
    here = sorted((part.location, part.available) for part in stocks if part.variant_id == added.variant_id)
    return VariantView(
        variant_id=added.variant_id,
        sku=added.sku,
        options=added.options,
        weight_g=added.weight_g,
        barcode=added.barcode,
        prices=prices.prices if prices else (),
        price_version=prices.version if prices else 0,
        stock=tuple(StockView(location, available) for location, available in here),
    )


PRODUCT_DETAIL = ReadModel(
    name="product_detail",
    row=ProductDetail,
    folds={
        product.PRODUCT.category: evolve_product,
        price.PRICE.category: evolve_price,
        stock.STOCK.category: evolve_stock,
    },
    keys=keys,
    combine=combine,
    indexes=(("slug",),),
    cached=True,
)


async def product_of(rows: Rows, product_id: str, ask: Ask) -> Answer[ProductDetail]:
    """The product, or no row."""
    where: LiteralString = "product_id = %(product_id)s"
    return await rows.select(PRODUCT_DETAIL, where, {"product_id": product_id}, ask, ever=where)


async def product_with_slug(rows: Rows, slug: str, ask: Ask) -> Answer[ProductDetail]:
    """The product that claimed the slug, or no row."""
    where: LiteralString = "slug = %(slug)s"
    return await rows.select(PRODUCT_DETAIL, where, {"slug": slug}, ask, ever=where)
