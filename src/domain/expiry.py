"""The wait for a reservation to expire: the steps of `when_stock_reserved_expire_reservation`.

Stream `expiry-{id of the StockReserved event}`; `waiting → settled`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, assert_never

from domain.values import Aggregate

ExpiryOutcome = Literal["expired", "ended_before"]


@dataclass(frozen=True, slots=True)
class ExpiryScheduled:
    TYPE: ClassVar[str] = "expiry.scheduled.v1"

    reservation_id: str
    sku: str
    location: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class ExpirySettled:
    """`ended_before`: by the due time the reservation had ended in another way."""

    TYPE: ClassVar[str] = "expiry.settled.v1"

    reservation_id: str
    outcome: ExpiryOutcome


ExpiryEvent = ExpiryScheduled | ExpirySettled


@dataclass(frozen=True, slots=True)
class Expiry:
    """Not `waiting` and `scheduled` None: not seen yet."""

    scheduled: ExpiryScheduled | None = None
    waiting: bool = False


def evolve(state: Expiry, event: ExpiryEvent) -> Expiry:
    match event:
        case ExpiryScheduled():
            return Expiry(event, waiting=True)
        case ExpirySettled():
            return Expiry(state.scheduled, waiting=False)
        case _:
            assert_never(event)


EXPIRY = Aggregate("expiry", Expiry(), evolve)


def schedule(
    state: Expiry, *, reservation_id: str, sku: str, location: str, due_at: datetime
) -> list[ExpiryEvent]:
    """Once; again is nothing."""
    if state.scheduled is not None:
        return []
    return [ExpiryScheduled(reservation_id, sku, location, due_at)]


def settle(state: Expiry, *, outcome: ExpiryOutcome) -> list[ExpiryEvent]:
    """Once; again, or before it was scheduled, is nothing."""
    if state.scheduled is None or not state.waiting:
        return []
    return [ExpirySettled(state.scheduled.reservation_id, outcome)]
