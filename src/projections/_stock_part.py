"""The part that a stock stream writes, shared by the read models it feeds."""

from typing import assert_never

from domain import stock
from domain.envelope import Recorded
from projections.ports import record


@record
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
    on_hand, reserved, committed = before.on_hand, before.reserved, before.committed
    match event:
        case stock.StockReceived():
            on_hand += event.qty
        case stock.StockAdjusted():
            on_hand += event.delta
        case stock.StockReserved():
            reserved += event.qty
        case stock.ReservationReleased() | stock.ReservationExpired():
            reserved -= event.qty
        case stock.ReservationCommitted():
            reserved -= event.qty
            committed += event.qty
        case stock.CommitmentReleased():
            committed -= event.qty
        case stock.StockDepleted() | stock.StockReplenished():
            pass
        case _:
            assert_never(event)
    return StockPart(
        before.sku,
        before.location,
        before.product_id,
        before.variant_id,
        on_hand,
        reserved,
        committed,
        recorded.version,
    )
