"""The prices of a variant, by currency: a stream of their own, so price history is a stream read.

Stream `price-{variant_id}`. Amounts are gross unit prices in minor units. A price is in force from
`effective_from` until the next one of its currency is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from domain.values import CURRENCY_EXPONENT, Aggregate, FieldError, InvalidFields, Rejected


@dataclass(frozen=True, slots=True)
class PriceSet:
    """`event_id` repeats the envelope's: order lines name the price event they were sold at."""

    TYPE: ClassVar[str] = "price.set.v1"

    event_id: str
    product_id: str
    variant_id: str
    currency: str
    amount_minor: int
    effective_from: datetime
    tax_included: bool = True
    list_amount_minor: int | None = None
    price_list: str = "default"
    min_qty: int = 1
    effective_until: datetime | None = None
    reason: str | None = None


PriceEvent = PriceSet


@dataclass(frozen=True, slots=True)
class Price:
    """The price events of each currency, in the order they come into force."""

    by_currency: Mapping[str, tuple[PriceSet, ...]] = field(default_factory=dict)

    def in_force(self, currency: str, at: datetime) -> PriceSet | None:
        begun = [price for price in self.by_currency.get(currency, ()) if price.effective_from <= at]
        return begun[-1] if begun else None


def evolve(state: Price, event: PriceEvent) -> Price:
    return Price({**state.by_currency, event.currency: (*state.by_currency.get(event.currency, ()), event)})


PRICE = Aggregate("price", Price(), evolve)


@dataclass(eq=False)
class NoPrice(Rejected):
    """The variant has no price in force in this currency."""

    sku: str
    currency: str


class PriceBackdated(Rejected):
    """A price cannot come into force before now, nor before a price that was set for later."""


def set_price(
    state: Price,
    *,
    event_id: str,
    product_id: str,
    variant_id: str,
    currency: str,
    amount_minor: int,
    list_amount_minor: int | None,
    effective_from: datetime | None,
    reason: str | None,
    at: datetime,
) -> list[PriceEvent]:
    errors = []
    if currency not in CURRENCY_EXPONENT:
        errors.append(FieldError("/currency", "unknown_currency", f"{currency} is not an ISO 4217 currency"))
    if list_amount_minor is not None and list_amount_minor < amount_minor:
        errors.append(FieldError("/list_amount_minor", "below_amount", "the list price is below the price"))
    if errors:
        raise InvalidFields(tuple(errors))
    begins = effective_from or at
    earlier = state.by_currency.get(currency, ())
    if begins < at or (earlier and begins < earlier[-1].effective_from):
        raise PriceBackdated
    return [
        PriceSet(
            event_id=event_id,
            product_id=product_id,
            variant_id=variant_id,
            currency=currency,
            amount_minor=amount_minor,
            effective_from=begins,
            list_amount_minor=list_amount_minor,
            reason=reason,
        )
    ]
