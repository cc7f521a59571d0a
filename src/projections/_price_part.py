"""The part that a price stream writes, shared by the read models it feeds."""

from collections.abc import Mapping
from datetime import datetime

from domain import price
from domain.envelope import Recorded
from projections.ports import record


@record
class PriceView:
    """A gross unit price in minor units, in force from `effective_from` until the next of its currency."""

    currency: str
    amount_minor: int
    list_amount_minor: int | None
    effective_from: datetime
    price_event_id: str


@record
class PricePart:
    """`prices` by currency and the time they come into force. `changed_at`: when the last event occurred."""

    variant_id: str
    prices: tuple[PriceView, ...]
    changed_at: datetime
    version: int

    def in_force(self, at: datetime) -> Mapping[str, int]:
        """The amount by currency, at a time that is not before the last change."""
        # They are sorted by time: of each currency, the last that has begun stays.
        return {view.currency: view.amount_minor for view in self.prices if view.effective_from <= at}


def evolve(part: PricePart | None, recorded: Recorded) -> PricePart:
    """Keeps, of each currency, the price in force when the event occurred and those after it."""
    event = recorded.event
    if not isinstance(event, price.PriceSet):
        raise TypeError(f"{recorded.type} is no event of a price")
    before = part.prices if part else ()
    new = PriceView(
        event.currency, event.amount_minor, event.list_amount_minor, event.effective_from, event.event_id
    )
    same = [*(view for view in before if view.currency == event.currency), new]
    begun = sum(1 for view in same if view.effective_from <= recorded.metadata.occurred_at)
    kept = same[max(begun - 1, 0) :]
    others = [view for view in before if view.currency != event.currency]
    prices = sorted([*others, *kept], key=lambda view: (view.currency, view.effective_from))
    return PricePart(event.variant_id, tuple(prices), recorded.metadata.occurred_at, recorded.version)
