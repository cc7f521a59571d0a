from dataclasses import dataclass

from commands._reservations import expect_stock, refuse_twice
from commands._states import Streams
from commands._stock_items import stock_of, stock_stream
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import stock
from domain.stock import Holder, ReleaseReason


@dataclass(frozen=True, slots=True)
class ReleaseReservation:
    """`items`: the (SKU, location) of every stock item to release."""

    reservation_id: str
    holder: Holder
    items: tuple[tuple[str, str], ...]
    reason: ReleaseReason = "customer"


async def release_reservation(shop: Shop, issued: Issued, command: ReleaseReservation) -> Receipt:
    def decide(streams: Streams) -> Writes:
        refuse_twice(command.items, "/items")
        expect_stock(streams, command.items)
        return {
            stock_stream(code, place): stock.release(
                stock_of(streams, code, place),
                reservation_id=command.reservation_id,
                holder=command.holder,
                reason=command.reason,
            )
            for code, place in command.items
        }

    return await transact(shop, issued, decide)
