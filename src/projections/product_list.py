"""Which products are there? One row a product, to be listed by department, category, price and words.

A list shows a product at one price: the lowest of its variants in its listing currency. That is the currency
it was published in; for a draft, or where the event does not say, the first by the alphabet that it has a
price in. A price counts if it was in force when the product or one of its prices last changed: one that was
set for later counts from the first such change after it has begun, no sooner, for time alone is no event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, LiteralString, assert_never
from unicodedata import combining, normalize

from domain import price, product, stock
from domain.envelope import Recorded
from projections._price_part import PricePart
from projections._price_part import evolve as evolve_price
from projections._product_keys import keys
from projections._stock_part import StockPart
from projections._stock_part import evolve as evolve_stock
from projections.ports import Answer, Ask, ReadModel, Rows, record

LANGUAGE: Final = "en"
"""Lists are in the order of titles in this language, and of a product without one, in its first."""
NAME_CHARS: Final = 100
"""So much of a title counts in that order, which keeps keys of indexes and cursors short."""


@record
class ProductSummary:
    """`price_minor` is in `currency`: both None without a price in the listing currency.

    `prices`: the lowest by currency. They are those in force when the product or one of its prices last
    changed. `available`: units of all variants at all locations. `version` is the product stream's.
    """

    product_id: str
    slug: str
    status: product.ProductStatus
    title: dict[str, str]
    brand: str | None
    department: str | None
    category: str | None
    currency: str | None
    price_minor: int | None
    prices: dict[str, int]
    available: int
    in_stock: bool
    variants: int
    drafted_at: datetime
    published_at: datetime | None
    version: int


@record
class ListedProduct(ProductSummary):
    """And what lists are sorted and searched by.

    `name`: the title without case and accents. `words`: the titles, brand and category. `listed_at`: when it
    was published, else drafted.
    """

    name: str
    words: str
    listed_at: datetime


@record
class Draft:
    """What a list needs of a draft; descriptions are long."""

    product_id: str
    slug: str
    title: dict[str, str]
    brand: str | None
    department: str | None
    category: str | None
    at: datetime


@record
class ListedPart:
    """`changed_at`: when the last event occurred. `currency`: that it was published in."""

    changed_at: datetime
    version: int
    draft: Draft | None = None
    variants: tuple[str, ...] = ()
    published_at: datetime | None = None
    currency: str | None = None


def evolve_product(part: ListedPart | None, recorded: Recorded) -> ListedPart:
    event, at, version = recorded.event, recorded.metadata.occurred_at, recorded.version
    before = replace(part, changed_at=at, version=version) if part else ListedPart(at, version)
    if not isinstance(event, product.ProductEvent):
        raise TypeError(f"{recorded.type} is no event of a product")
    match event:
        case product.ProductDrafted():
            return replace(before, draft=_draft(event, at))
        case product.VariantAdded():
            return replace(before, variants=(*before.variants, event.variant_id))
        case product.ProductPublished():
            return replace(before, published_at=event.at, currency=event.currency)
        case _:
            assert_never(event)


def _draft(event: product.ProductDrafted, at: datetime) -> Draft:
    return Draft(
        product_id=event.product_id,
        slug=event.slug,
        title=event.title,
        brand=event.brand,
        department=event.attributes.get("department"),
        category=event.attributes.get("category"),
        at=at,
    )


def combine(parts: Mapping[str, ListedPart | PricePart | StockPart]) -> ListedProduct | None:
    listed = next((part for part in parts.values() if isinstance(part, ListedPart)), None)
    if listed is None or listed.draft is None:
        return None
    draft = listed.draft
    prices = _lowest(listed, [part for part in parts.values() if isinstance(part, PricePart)])
    currency = listed.currency or min(prices, default=None)
    available = sum(part.available for part in parts.values() if isinstance(part, StockPart))
    texts = [*(draft.title[language] for language in sorted(draft.title)), draft.brand, draft.category]
    return ListedProduct(
        product_id=draft.product_id,
        slug=draft.slug,
        status=product.ProductStatus.PUBLISHED if listed.published_at else product.ProductStatus.DRAFT,
        title=draft.title,
        brand=draft.brand,
        department=draft.department,
        category=draft.category,
        currency=currency if currency in prices else None,
        price_minor=prices.get(currency) if currency else None,
        prices=prices,
        available=available,
        in_stock=available > 0,
        variants=len(listed.variants),
        drafted_at=draft.at,
        published_at=listed.published_at,
        version=listed.version,
        name=_name(draft.title),
        words="\n".join(text for text in texts if text),
        listed_at=listed.published_at or draft.at,
    )


def _lowest(listed: ListedPart, prices: list[PricePart]) -> dict[str, int]:
    """The lowest price in force of the variants there are, by currency."""
    at = max([listed.changed_at, *(part.changed_at for part in prices)])
    lowest: dict[str, int] = {}
    for part in prices:
        if part.variant_id in listed.variants:
            for currency, amount in part.in_force(at).items():
                lowest[currency] = min(amount, lowest.get(currency, amount))
    return lowest


def _name(title: Mapping[str, str]) -> str:
    letters = normalize("NFKD", product.in_language(title, LANGUAGE).casefold())
    return "".join(letter for letter in letters if not combining(letter))[:NAME_CHARS]


PRODUCT_LIST = ReadModel(
    name="product_list",
    row=ListedProduct,
    folds={
        product.PRODUCT.category: evolve_product,
        price.PRICE.category: evolve_price,
        stock.STOCK.category: evolve_stock,
    },
    keys=keys,
    combine=combine,
    indexes=(
        ("status", "name", "product_id"),
        ("status", "listed_at", "product_id"),
        ("status", "currency", "price_minor", "product_id"),
        ("status", "department", "name", "product_id"),
        ("status", "department", "listed_at", "product_id"),
        ("status", "department", "currency", "price_minor", "product_id"),
        ("status", "category", "name", "product_id"),
        ("status", "category", "listed_at", "product_id"),
        ("status", "category", "currency", "price_minor", "product_id"),
        ("status", "in_stock", "name", "product_id"),
    ),
    texts=("words",),
)

Sort = Literal["name", "newest", "cheapest", "dearest"]
SORTED_BY: Final[Mapping[Sort, str]] = {
    "name": "name",
    "newest": "listed_at",
    "cheapest": "price_minor",
    "dearest": "price_minor",
}
"""The field of the row that a sort is by, before the id."""

_BEHIND: Final[Mapping[Sort, LiteralString]] = {
    "name": " and (name, product_id) > (%(at)s, %(product_id)s)",
    "newest": " and (listed_at, product_id) < (%(at)s, %(product_id)s)",
    "cheapest": " and (price_minor, product_id) > (%(at)s, %(product_id)s)",
    "dearest": " and (price_minor, product_id) < (%(at)s, %(product_id)s)",
}
_ORDERED: Final[Mapping[Sort, LiteralString]] = {
    "name": " order by name, product_id",
    "newest": " order by listed_at desc, product_id desc",
    "cheapest": " order by price_minor, product_id",
    "dearest": " order by price_minor desc, product_id desc",
}
_HAS_WORDS: Final[LiteralString] = (
    " and to_tsvector('simple', words) @@ websearch_to_tsquery('simple', %(words)s)"
)
_FOR_EVER: Final[Mapping[str, LiteralString]] = {
    "department": " and department = %(department)s",
    "category": " and category = %(category)s",
    # Thrice, so that PostgreSQL takes them for rarer than they are, and looks them up unless most rows have
    # them: if it went along an order instead, it could not foresee how far it has to go.
    "words": 3 * _HAS_WORDS,
}
"""Of what the draft says, which no event changes."""
_TODAY: Final[Mapping[str, LiteralString]] = {
    "status": " and status = %(status)s",
    "currency": " and currency = %(currency)s",
    "price_from": " and price_minor >= %(price_from)s",
    "price_to": " and price_minor <= %(price_to)s",
    "in_stock": " and in_stock = %(in_stock)s",
}


@dataclass(frozen=True, slots=True)
class ProductFilter:
    """None: any. Prices, and a sort by price, need their `currency`. `words`: all, "a phrase", -without."""

    sort: Sort = "name"
    status: product.ProductStatus = product.ProductStatus.PUBLISHED
    department: str | None = None
    category: str | None = None
    currency: str | None = None
    price_from: int | None = None
    price_to: int | None = None
    in_stock: bool | None = None
    words: str | None = None


async def products_of(
    rows: Rows,
    wanted: ProductFilter,
    ask: Ask,
    *,
    behind: tuple[str | int | datetime, str] | None = None,
    limit: int,
) -> Answer[ListedProduct]:
    """The first `limit` products, or those behind the one with this name, price or time, and id."""
    given = {name: getattr(wanted, name) for name in (*_FOR_EVER, *_TODAY)}
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    ever: LiteralString = "true" + "".join(_FOR_EVER[name] for name in _FOR_EVER if name in parameters)
    where = ever + "".join(_TODAY[name] for name in _TODAY if name in parameters)
    if behind is not None:
        where += _BEHIND[wanted.sort]
        parameters["at"], parameters["product_id"] = behind
    where += _ORDERED[wanted.sort] + " limit %(limit)s"
    return await rows.select(PRODUCT_LIST, where, {**parameters, "limit": limit}, ask, ever=ever)
