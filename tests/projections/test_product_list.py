from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain import CONTEXTS
from domain.envelope import Actor, Metadata, Recorded
from domain.price import PriceSet
from domain.product import ProductDrafted, ProductPublished, ProductStatus, VariantAdded
from domain.stock import Reference, StockReceived
from domain.values import Event, category_of
from projections.product_list import NAME_CHARS, PRODUCT_LIST, ListedProduct
from runtime.read_models.folding import fold

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
Given = Event | tuple[Event, datetime]
"""An event, and when it occurred unless that is noon."""
TITLE = {"de": "Blaue Tasse", "en": "Blue Mug"}
ABOUT = {"department": "Kitchen", "category": "Mugs", "material": "clay"}
DRAFTED = ProductDrafted("p1", "blue-mug", TITLE, "standard", {"en": "long"}, "Cobalt", ABOUT)
PUBLISHED = ProductPublished("p1", NOON + 3 * HOUR, "EUR")


def variant(variant_id: str) -> VariantAdded:
    return VariantAdded("p1", variant_id, variant_id.upper(), {"size": variant_id}, 300)


def price(variant_id: str, amount: int, currency: str = "EUR", begins: datetime = NOON) -> PriceSet:
    return PriceSet("e", "p1", variant_id, currency, amount, begins)


def received(variant_id: str, location: str, qty: int) -> StockReceived:
    return StockReceived(variant_id.upper(), location, "p1", variant_id, qty, Reference("initial", "i"))


def stream_of(event: Event) -> str:
    match event:
        case PriceSet():
            return f"price-{event.variant_id}"
        case StockReceived():
            return f"stock-{event.sku}@{event.location}"
        case _:
            return "product-p1"


def listed(*events: Given) -> ListedProduct:
    parts: dict[str, dict[str, Any]] = {}
    versions: dict[str, int] = {}
    for given in events:
        event, at = given if isinstance(given, tuple) else (given, NOON)
        stream = stream_of(event)
        versions[stream] = version = versions.get(stream, 0) + 1
        metadata = Metadata(at, Actor("system", "test"), "command", "correlation")
        context = CONTEXTS[category_of(stream)]
        fold(PRODUCT_LIST, parts, [Recorded(1, stream, version, "e", context, 0, event, metadata, at)])
    row = PRODUCT_LIST.combine(parts["p1"])
    assert isinstance(row, ListedProduct)
    return row


def test_a_row_is_what_a_list_shows_of_a_product() -> None:
    assert listed(
        DRAFTED,
        variant("v1"),
        (variant("v2"), NOON + HOUR),
        price("v1", 1250),
        price("v2", 1190),
        price("v2", 1400, "USD"),
        (PUBLISHED, NOON + 3 * HOUR),
        received("v1", "MAIN", 5),
        received("v1", "BER", 2),
        received("v2", "MAIN", 1),
    ) == ListedProduct(
        product_id="p1",
        slug="blue-mug",
        status=ProductStatus.PUBLISHED,
        title=TITLE,
        brand="Cobalt",
        department="Kitchen",
        category="Mugs",
        currency="EUR",
        price_minor=1190,
        prices={"EUR": 1190, "USD": 1400},
        available=8,
        in_stock=True,
        variants=2,
        drafted_at=NOON,
        published_at=NOON + 3 * HOUR,
        version=4,
        name="blue mug",
        words="Blaue Tasse\nBlue Mug\nCobalt\nMugs",
        listed_at=NOON + 3 * HOUR,
    )


def test_a_draft_has_no_more_than_it_was_given() -> None:
    row = listed(ProductDrafted("p1", "bare", {"fr": "Thé"}, "standard"))
    assert (row.status, row.brand, row.department, row.category) == (ProductStatus.DRAFT, None, None, None)
    assert (row.currency, row.price_minor, row.prices) == (None, None, {})
    assert (row.available, row.in_stock, row.variants) == (0, False, 0)
    assert (row.published_at, row.listed_at, row.words) == (None, NOON, "Thé")


def test_the_listing_currency_is_that_of_the_publication() -> None:
    prices = [price("v1", 1400, "CHF"), price("v1", 1250, "EUR"), price("v1", 1300, "USD")]
    draft = listed(DRAFTED, variant("v1"), *prices)
    assert (draft.currency, draft.price_minor) == ("CHF", 1400), "a draft's is the first by the alphabet"
    published = listed(DRAFTED, variant("v1"), *prices, PUBLISHED)
    assert (published.currency, published.price_minor) == ("EUR", 1250)
    unsaid = listed(DRAFTED, variant("v1"), *prices, replace(PUBLISHED, currency=None))
    assert (unsaid.currency, unsaid.price_minor) == ("CHF", 1400)
    assert draft.prices == published.prices == {"CHF": 1400, "EUR": 1250, "USD": 1300}


def test_without_a_price_in_the_listing_currency_there_is_neither() -> None:
    row = listed(DRAFTED, variant("v1"), price("v1", 1400, "CHF"), PUBLISHED)
    assert (row.currency, row.price_minor, row.prices) == (None, None, {"CHF": 1400})


def test_a_price_of_what_is_no_variant_yet_does_not_count() -> None:
    assert listed(DRAFTED, variant("v1"), price("v1", 500), price("v2", 100)).price_minor == 500
    assert (
        listed(DRAFTED, variant("v1"), price("v1", 500), price("v2", 100), variant("v2")).price_minor == 100
    )


def test_a_price_set_for_later_counts_from_the_first_change_after_it_has_begun() -> None:
    sale = price("v1", 900, begins=NOON + 2 * HOUR)
    events: list[Given] = [DRAFTED, variant("v1"), price("v1", 1000), (sale, NOON + HOUR)]
    assert listed(*events).price_minor == 1000
    assert listed(*events, (received("v1", "MAIN", 1), NOON + 9 * HOUR)).price_minor == 1000
    for change in (variant("v2"), PUBLISHED, price("v2", 1, "USD"), price("v1", 1, "USD")):
        assert listed(*events, (change, NOON + 2 * HOUR - timedelta(microseconds=1))).price_minor == 1000
        assert listed(*events, (change, NOON + 2 * HOUR)).price_minor == 900


def test_a_product_that_is_published_always_has_its_price() -> None:
    later = price("v1", 1000, begins=NOON + HOUR)
    assert listed(DRAFTED, variant("v1"), later).price_minor is None
    assert listed(DRAFTED, variant("v1"), later, (PUBLISHED, NOON + HOUR)).price_minor == 1000


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ({"de": "Tasse", "en": "Mug"}, "mug"),
        ({"nl": "Mok", "fr": "Tasse"}, "tasse"),
        ({"fr": "Café Crème"}, "cafe creme"),
        ({"de": "Äpfel, GROSS und süß"}, "apfel, gross und suss"),
        ({"en": "long " * 40}, ("long " * 40)[:NAME_CHARS]),
    ],
)
def test_a_name_is_in_english_if_it_can_be_and_has_no_case_and_no_accents(
    title: dict[str, str], name: str
) -> None:
    assert listed(ProductDrafted("p1", "s", title, "standard")).name == name


def test_what_is_sold_out_is_not_in_stock() -> None:
    assert not listed(DRAFTED, variant("v1"), received("v1", "MAIN", 0)).in_stock
    assert listed(DRAFTED, received("v1", "MAIN", 0), received("v1", "BER", 1)).in_stock
