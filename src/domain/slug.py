"""A slug's claim: one product has it, for ever. Stream `slug-{slug}`."""

from dataclasses import dataclass
from typing import ClassVar

from domain.values import Aggregate, Rejected


@dataclass(frozen=True, slots=True)
class SlugClaimed:
    TYPE: ClassVar[str] = "slug.claimed.v1"

    slug: str
    product_id: str


SlugEvent = SlugClaimed


@dataclass(frozen=True, slots=True)
class Slug:
    """Unclaimed while `product_id` is None."""

    product_id: str | None = None


def evolve(state: Slug, event: SlugEvent) -> Slug:  # noqa: ARG001 — the shape of every fold; the last claim is the only one
    return Slug(event.product_id)


SLUG = Aggregate("slug", Slug(), evolve)


@dataclass(eq=False)
class SlugTaken(Rejected):
    """The slug belongs to another product already."""

    slug: str


def claim(state: Slug, *, slug: str, product_id: str) -> list[SlugEvent]:
    if state.product_id is not None:
        raise SlugTaken(slug)
    return [SlugClaimed(slug, product_id)]
