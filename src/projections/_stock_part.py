"""The part that a stock stream writes, shared by the read models it feeds."""

from dataclasses import dataclass, replace
from typing import assert_never

from domain import stock
from domain.envelope import Recorded


@dataclass(frozen=True, slots=True)
class StockPart:
    sku: str
    location: str
    product_id: str
    variant_id: str
    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    version: int = 0

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved - self.committed


def evolve(part: StockPart | None, recorded: Recorded) -> StockPart:
    event = recorded.event
    if not isinstance(event, stock.StockEvent):
        raise TypeError(f"{recorded.type} is no event of stock")
    before = part or StockPart(*stock.item_of(event))
    return replace(_applied(before, event), version=recorded.version)


def _applied(part: StockPart, event: stock.StockEvent) -> StockPart:
    match event:
        case stock.StockReceived():
            return replace(part, on_hand=part.on_hand + event.qty)
        case stock.StockAdjusted():
            return replace(part, on_hand=part.on_hand + event.delta)
        case stock.StockReserved():
            return replace(part, reserved=part.reserved + event.qty)
        case stock.ReservationReleased() | stock.ReservationExpired():
            return replace(part, reserved=part.reserved - event.qty)
        case stock.ReservationCommitted():
            return replace(part, reserved=part.reserved - event.qty, committed=part.committed + event.qty)
        case stock.CommitmentReleased():
            return replace(part, committed=part.committed - event.qty)
        case stock.StockDepleted() | stock.StockReplenished():
            return part
        case _:
            assert_never(event)
