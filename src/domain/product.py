"""A product and its variants. Stream `product-{id}`; `draft → published`. Never deleted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final, assert_never

from domain.values import Aggregate, NotFound, Rejected

MAX_VARIANTS: Final = 250


@dataclass(frozen=True, slots=True)
class ProductDrafted:
    """`title` and `description` by BCP 47 language."""

    TYPE: ClassVar[str] = "product.drafted.v1"

    product_id: str
    slug: str
    title: dict[str, str]
    tax_class: str
    description: dict[str, str] = field(default_factory=dict)
    brand: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VariantAdded:
    TYPE: ClassVar[str] = "variant.added.v1"

    product_id: str
    variant_id: str
    sku: str
    options: dict[str, str]
    weight_g: int
    barcode: str | None = None


@dataclass(frozen=True, slots=True)
class ProductPublished:
    """`currency`: every variant had a price in it; None in what was recorded before it was said."""

    TYPE: ClassVar[str] = "product.published.v1"

    product_id: str
    at: datetime
    currency: str | None = None


ProductEvent = ProductDrafted | VariantAdded | ProductPublished


class ProductStatus(StrEnum):
    NONE = "none"
    DRAFT = "draft"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Product:
    """`variants`: the options of each variant, by variant id, in the order they were added."""

    status: ProductStatus = ProductStatus.NONE
    title: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def title_in(self, language: str) -> str:
        return in_language(self.title, language)


def evolve(state: Product, event: ProductEvent) -> Product:
    match event:
        case ProductDrafted():
            return Product(ProductStatus.DRAFT, event.title)
        case VariantAdded():
            return replace(state, variants={**state.variants, event.variant_id: event.options})
        case ProductPublished():
            return replace(state, status=ProductStatus.PUBLISHED)
        case _:
            assert_never(event)


PRODUCT = Aggregate("product", Product(), evolve)


def in_language(texts: Mapping[str, str], language: str) -> str:
    """The text in this language, else in the first there is; "" where there is none."""
    return texts.get(language) or texts.get(min(texts, default=language), "")


@dataclass(eq=False)
class UnknownProduct(NotFound):
    """There is no such product."""

    product_id: str


@dataclass(eq=False)
class UnknownVariant(NotFound):
    """The product has no such variant."""

    product_id: str
    variant_id: str


class TooManyVariants(Rejected):
    """A product has at most 250 variants."""


class OptionsTaken(Rejected):
    """Another variant of the product has the same options."""


class AlreadyPublished(Rejected):
    """The product is published already."""


class NoVariant(Rejected):
    """A product needs a variant before it is published."""


@dataclass(eq=False)
class UnpricedVariants(Rejected):
    """Every variant needs a price in the default currency before the product is published."""

    currency: str
    variant_ids: tuple[str, ...]


@dataclass(eq=False)
class NotPublished(Rejected):
    """The product is not on sale."""

    product_id: str


def draft(
    *,
    product_id: str,
    slug: str,
    title: dict[str, str],
    tax_class: str,
    description: dict[str, str],
    brand: str | None,
    attributes: dict[str, str],
) -> list[ProductEvent]:
    return [ProductDrafted(product_id, slug, title, tax_class, description, brand, attributes)]


def add_variant(
    state: Product,
    *,
    product_id: str,
    variant_id: str,
    sku: str,
    options: dict[str, str],
    weight_g: int,
    barcode: str | None,
) -> list[ProductEvent]:
    must_exist(state, product_id=product_id)
    if len(state.variants) >= MAX_VARIANTS:
        raise TooManyVariants
    if options in state.variants.values():
        raise OptionsTaken
    return [VariantAdded(product_id, variant_id, sku, options, weight_g, barcode)]


def publish(
    state: Product, *, product_id: str, priced: frozenset[str], currency: str, at: datetime
) -> list[ProductEvent]:
    """`priced`: the variants that have a price in force in the default currency."""
    must_exist(state, product_id=product_id)
    if state.status is ProductStatus.PUBLISHED:
        raise AlreadyPublished
    if not state.variants:
        raise NoVariant
    if unpriced := tuple(variant for variant in state.variants if variant not in priced):
        raise UnpricedVariants(currency, unpriced)
    return [ProductPublished(product_id, at, currency)]


def must_exist(state: Product, *, product_id: str) -> None:
    if state.status is ProductStatus.NONE:
        raise UnknownProduct(product_id)


def must_have(state: Product, *, product_id: str, variant_id: str) -> None:
    must_exist(state, product_id=product_id)
    if variant_id not in state.variants:
        raise UnknownVariant(product_id, variant_id)


def must_be_on_sale(state: Product, *, product_id: str) -> None:
    if state.status is not ProductStatus.PUBLISHED:
        raise NotPublished(product_id)
