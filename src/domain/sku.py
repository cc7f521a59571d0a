"""A SKU's claim: one variant has it, for ever. Stream `sku-{sku}`."""

from dataclasses import dataclass
from typing import ClassVar

from domain.values import Aggregate, NotFound, Rejected


@dataclass(frozen=True, slots=True)
class SkuClaimed:
    TYPE: ClassVar[str] = "sku.claimed.v1"

    sku: str
    product_id: str
    variant_id: str


SkuEvent = SkuClaimed


@dataclass(frozen=True, slots=True)
class Sku:
    """Unclaimed while `variant_id` is None."""

    product_id: str | None = None
    variant_id: str | None = None


def evolve(state: Sku, event: SkuEvent) -> Sku:  # noqa: ARG001 — the shape of every fold; the last claim is the only one
    return Sku(event.product_id, event.variant_id)


SKU = Aggregate("sku", Sku(), evolve)


@dataclass(eq=False)
class SkuTaken(Rejected):
    """The SKU belongs to another variant already."""

    sku: str


@dataclass(eq=False)
class UnknownSku(NotFound):
    """There is no such SKU."""

    sku: str


def claim(state: Sku, *, sku: str, product_id: str, variant_id: str) -> list[SkuEvent]:
    if state.variant_id is not None:
        raise SkuTaken(sku)
    return [SkuClaimed(sku, product_id, variant_id)]


def owner(state: Sku, *, sku: str) -> tuple[str, str]:
    """The (product id, variant id) the SKU stands for, or `UnknownSku`."""
    if state.product_id is None or state.variant_id is None:
        raise UnknownSku(sku)
    return state.product_id, state.variant_id
