"""What became of an order whose reservation expired: the step of `when_reservation_expired_cancel_order`.

Stream `lapse-{reservation_id}`; one event, however many lines the reservation had.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from domain.values import Aggregate

LapseOutcome = Literal["order_cancelled", "order_kept"]


@dataclass(frozen=True, slots=True)
class LapseSettled:
    """`order_kept`: the order had been confirmed or cancelled before."""

    TYPE: ClassVar[str] = "lapse.settled.v1"

    order_id: str
    reservation_id: str
    outcome: LapseOutcome


LapseEvent = LapseSettled


@dataclass(frozen=True, slots=True)
class Lapse:
    settled: bool = False


def evolve(state: Lapse, event: LapseEvent) -> Lapse:  # noqa: ARG001 — the shape of every fold; being settled is all there is
    return Lapse(settled=True)


LAPSE = Aggregate("lapse", Lapse(), evolve)


def settle(state: Lapse, *, order_id: str, reservation_id: str, outcome: LapseOutcome) -> list[LapseEvent]:
    """Once; again is nothing."""
    if state.settled:
        return []
    return [LapseSettled(order_id, reservation_id, outcome)]
