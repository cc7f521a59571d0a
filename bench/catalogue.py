"""A shop with many products, each with a variant, a price and stock; written to the log itself."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from bench.payload import FINGERPRINT, LOCATION, digest, ids, metadata, sku_of, stream_of
from commands.ports import Append, Appended, NewEvent
from domain.envelope import NOTHING
from domain.location import LOCATION as LOCATIONS
from domain.location import LocationRegistered
from domain.price import PRICE, PriceSet
from domain.product import PRODUCT, ProductDrafted, ProductPublished, VariantAdded
from domain.sku import SKU, SkuClaimed
from domain.slug import SLUG, SlugClaimed
from domain.stock import Reference, StockReceived
from runtime.log.postgres import PostgresLog

DEPARTMENTS: Final = 50
AT_ONCE: Final = 100
"""Products in one append."""
_SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)
_CURRENCY: Final = "EUR"


def product_of(number: int) -> str:
    return f"01990b7e-5c00-7000-8000-{number:012x}"


def department_of(number: int) -> str:
    return f"Department {number % DEPARTMENTS}"


async def fill(url: str, products: int) -> None:
    """Of an empty log; TypeError if it is not."""
    async with PostgresLog.open(url) as log:
        for events in _in_appends(products):
            tips = dict.fromkeys((one.stream for one in events), NOTHING)
            verdict = await log.append(Append(tips, events, metadata(), digest(), FINGERPRINT))
            if not isinstance(verdict, Appended):
                raise TypeError(f"the log is not empty: {verdict}")


def _in_appends(products: int) -> Iterator[list[NewEvent]]:
    depot = LocationRegistered(LOCATION, "The depot", "DE")
    yield [NewEvent(LOCATIONS.stream(LOCATION), ids.new(), depot)]
    for first in range(0, products, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, products))
        yield [event for number in numbers for event in _events(number)]


def _events(number: int) -> Iterator[NewEvent]:
    product, variant = product_of(number), f"01990b7e-5c00-7000-8001-{number:012x}"
    sku, slug, price = sku_of(number), f"article-{number}", ids.new()
    title = {"en": f"Article {number} of the range", "de": f"Artikel {number} des Sortiments"}
    attributes = {"department": department_of(number), "material": "oak", "origin": "DE"}
    drafted = ProductDrafted(product, slug, title, "standard", brand="House", attributes=attributes)
    own, stock = PRODUCT.stream(product), Reference("initial", "count")
    yield NewEvent(SLUG.stream(slug), ids.new(), SlugClaimed(slug, product))
    yield NewEvent(SKU.stream(sku), ids.new(), SkuClaimed(sku, product, variant))
    yield NewEvent(own, ids.new(), drafted)
    yield NewEvent(own, ids.new(), VariantAdded(product, variant, sku, {"size": "M"}, weight_g=500))
    amount = 100 + number % 9_900
    set_ = PriceSet(price, product, variant, _CURRENCY, amount, effective_from=_SINCE)
    yield NewEvent(PRICE.stream(variant), price, set_)
    yield NewEvent(own, ids.new(), ProductPublished(product, at=_SINCE, currency=_CURRENCY))
    received = StockReceived(sku, LOCATION, product, variant, 1_000, stock)
    yield NewEvent(stream_of(number), ids.new(), received)
