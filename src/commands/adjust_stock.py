from dataclasses import dataclass

from commands._reservations import Wanted, expiries_first
from commands._states import Streams
from commands._stock_items import item_at, stock_id, stock_of, stock_stream
from commands._transact import First, Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import stock
from domain.stock import STOCK


@dataclass(frozen=True, slots=True)
class AdjustStock:
    """By `delta` units, or to `counted` units on hand: one of the two."""

    sku: str
    location: str
    reason: stock.AdjustmentReason
    delta: int | None = None
    counted: int | None = None
    note: str | None = None


async def adjust_stock(shop: Shop, issued: Issued, command: AdjustStock) -> Receipt:
    def decide(streams: Streams) -> Writes | First:
        item = item_at(streams, command.sku, command.location)
        state = stock_of(streams, command.sku, command.location)
        streams.must_match(STOCK, stock_id(command.sku, command.location))
        at = streams.at
        change = stock.change_on_hand(state, delta=command.delta, counted=command.counted)
        if first := expiries_first(streams, [Wanted(item, -change)], at):
            return first
        return {
            stock_stream(command.sku, command.location): stock.adjust(
                state,
                item=item,
                delta=command.delta,
                counted=command.counted,
                reason=command.reason,
                note=command.note,
                at=at,
            )
        }

    return await transact(shop, issued, decide)
