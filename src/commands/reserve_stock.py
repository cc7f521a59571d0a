from dataclasses import dataclass
from datetime import timedelta

from commands._reservations import Wanted, expect_stock, refuse_twice, reserved
from commands._states import Streams
from commands._stock_items import expect_items, item_at, stock_of
from commands._transact import First, Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain.stock import Holder


@dataclass(frozen=True, slots=True)
class ReservedItem:
    """`location` None: the house's default."""

    sku: str
    qty: int
    location: str | None = None


@dataclass(frozen=True, slots=True)
class ReserveStock:
    """`ttl` None: the house's default. When it ends, the stock is free for the next decision."""

    holder: Holder
    items: tuple[ReservedItem, ...]
    ttl: timedelta | None = None


async def reserve_stock(shop: Shop, issued: Issued, command: ReserveStock) -> Receipt:
    reservation_id = shop.ids.new()
    places = [(item.sku, item.location or shop.rules.default_location) for item in command.items]

    def decide(streams: Streams) -> Writes | First:
        refuse_twice(places, "/items")
        expect_items(streams, places)
        expect_stock(streams, places)
        wanted = [
            Wanted(item_at(streams, code, place), item.qty)
            for item, (code, place) in zip(command.items, places, strict=True)
        ]
        for code, place in places:
            stock_of(streams, code, place)
        at = streams.at
        return reserved(
            streams,
            wanted,
            reservation_id=reservation_id,
            holder=command.holder,
            expires_at=at + (command.ttl or shop.rules.reservation_ttl),
            at=at,
        )

    return await transact(shop, issued, decide)
