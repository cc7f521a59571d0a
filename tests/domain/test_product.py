from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import product
from domain.product import (
    MAX_VARIANTS,
    PRODUCT,
    AlreadyPublished,
    NotPublished,
    NoVariant,
    OptionsTaken,
    ProductDrafted,
    ProductPublished,
    TooManyVariants,
    UnknownProduct,
    UnknownVariant,
    UnpricedVariants,
    VariantAdded,
)
from domain.values import Rejected

AT = datetime(2026, 3, 1, tzinfo=UTC)
DRAFTED = ProductDrafted("p1", "blue-mug", {"en": "Blue mug", "de": "Blaue Tasse"}, "standard")
SMALL = VariantAdded("p1", "v1", "MUG-S", {"size": "S"}, 300)
LARGE = VariantAdded("p1", "v2", "MUG-L", {"size": "L"}, 400)
PUBLISHED = ProductPublished("p1", AT, "EUR")


def variant(ident: str, sku: str, options: dict[str, str]) -> dict[str, Any]:
    return {
        "product_id": "p1",
        "variant_id": ident,
        "sku": sku,
        "options": options,
        "weight_g": 400,
        "barcode": None,
    }


def publication(*priced: str) -> dict[str, Any]:
    return {"product_id": "p1", "priced": frozenset(priced), "currency": "EUR", "at": AT}


def test_a_draft_says_what_was_given() -> None:
    facts: dict[str, Any] = {
        "product_id": "p1",
        "slug": "blue-mug",
        "title": {"en": "Blue mug"},
        "tax_class": "standard",
        "description": {"en": "Holds tea."},
        "brand": "Cobalt",
        "attributes": {"material": "clay"},
    }
    assert product.draft(**facts) == [ProductDrafted(**facts)]


def test_a_variant_is_added_to_a_draft_and_to_a_published_product(given: type[Given]) -> None:
    large = variant("v2", "MUG-L", {"size": "L"})
    given(PRODUCT, DRAFTED, SMALL).when(product.add_variant, **large).then(LARGE)
    given(PRODUCT, DRAFTED, SMALL, PUBLISHED).when(product.add_variant, **large).then(LARGE)


def test_a_variant_needs_its_product(given: type[Given]) -> None:
    given(PRODUCT).when(product.add_variant, **variant("v1", "MUG-S", {})).then(UnknownProduct("p1"))


def test_two_variants_never_have_the_same_options_in_whatever_order(given: type[Given]) -> None:
    first = VariantAdded("p1", "v1", "MUG-S", {"size": "S", "colour": "blue"}, 300)
    twin = variant("v2", "MUG-T", {"colour": "blue", "size": "S"})
    given(PRODUCT, DRAFTED, first).when(product.add_variant, **twin).then(OptionsTaken())


def test_the_250th_variant_is_the_last(given: type[Given]) -> None:
    added = [VariantAdded("p1", f"v{n}", f"MUG-{n}", {"n": str(n)}, 1) for n in range(MAX_VARIANTS)]
    last = variant("v249", "MUG-249", {"n": "249"}) | {"weight_g": 1}
    given(PRODUCT, DRAFTED, *added[:-1]).when(product.add_variant, **last).then(added[-1])
    given(PRODUCT, DRAFTED, *added).when(product.add_variant, **variant("x", "X", {})).then(TooManyVariants())


def test_a_product_is_published_when_every_variant_has_a_price(given: type[Given]) -> None:
    both = given(PRODUCT, DRAFTED, SMALL, LARGE)
    both.when(product.publish, **publication("v1", "v2")).then(PUBLISHED)
    both.when(product.publish, **publication("v2")).then(UnpricedVariants("EUR", ("v1",)))
    both.when(product.publish, **publication()).then(UnpricedVariants("EUR", ("v1", "v2")))


def test_what_cannot_be_published(given: type[Given]) -> None:
    given(PRODUCT).when(product.publish, **publication()).then(UnknownProduct("p1"))
    given(PRODUCT, DRAFTED).when(product.publish, **publication()).then(NoVariant())
    given(PRODUCT, DRAFTED, SMALL, PUBLISHED).when(product.publish, **publication("v1")).then(
        AlreadyPublished()
    )


def test_only_a_published_product_is_on_sale(given: type[Given]) -> None:
    given(PRODUCT, DRAFTED).when(product.must_be_on_sale, product_id="p1").then(NotPublished("p1"))
    published = given(PRODUCT, DRAFTED, SMALL, PUBLISHED)
    assert published.when(product.must_be_on_sale, product_id="p1").outcome is None


def test_a_variant_is_of_its_product_only(given: type[Given]) -> None:
    asked = {"product_id": "p1", "variant_id": "v2"}
    given(PRODUCT).when(product.must_have, **asked).then(UnknownProduct("p1"))
    given(PRODUCT, DRAFTED, SMALL).when(product.must_have, **asked).then(UnknownVariant("p1", "v2"))
    assert given(PRODUCT, DRAFTED, LARGE).when(product.must_have, **asked).outcome is None


@pytest.mark.parametrize(
    ("language", "title"), [("de", "Blaue Tasse"), ("en", "Blue mug"), ("fr", "Blaue Tasse")]
)
def test_a_title_falls_back_to_the_first_language_there_is(
    given: type[Given], language: str, title: str
) -> None:
    assert given(PRODUCT, DRAFTED).state.title_in(language) == title
    assert product.in_language({}, language) == ""


OPTIONS = st.dictionaries(st.sampled_from(["size", "colour"]), st.sampled_from(["a", "b"]))


@sampled(st.lists(st.one_of(OPTIONS, st.none()), max_size=12))
def test_variants_stay_unlike_and_publication_happens_once(steps: list[dict[str, str] | None]) -> None:
    """A step is the options of a variant to add, or None: publish."""
    state = PRODUCT.evolve(PRODUCT.initial, DRAFTED)
    added: list[dict[str, str]] = []
    publications = 0
    for number, options in enumerate(steps):
        priced = frozenset(state.variants)
        try:
            if options is None:
                events = product.publish(state, product_id="p1", priced=priced, currency="EUR", at=AT)
                publications += 1
            else:
                events = product.add_variant(state, **variant(f"v{number}", f"S{number}", options))
                added.append(options)
        except Rejected:
            continue
        for event in events:
            state = PRODUCT.evolve(state, event)
    wanted = [options for options in steps if options is not None]
    assert [*state.variants.values()] == added
    assert added == [options for n, options in enumerate(wanted) if options not in wanted[:n]]
    first = next((n for n, options in enumerate(steps) if options is not None), len(steps))
    assert publications == int(None in steps[first:])
