from dataclasses import dataclass

from commands._reservations import Wanted, expect_stock, expiries_first
from commands._states import Streams
from commands._stock_items import stock_of, stock_stream
from commands._transact import First, Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import order, stock
from domain.order import ORDER
from domain.stock import InsufficientStock, Item, Shortage, StockEvent


@dataclass(frozen=True, slots=True)
class ConfirmOrder:
    order_id: str


async def confirm_order(shop: Shop, issued: Issued, command: ConfirmOrder) -> Receipt:
    """Commit the reservations; one that has expired is taken again if there is stock, else refused."""
    retake_id = shop.ids.new()

    def decide(streams: Streams) -> Writes | First:
        state = streams.read(ORDER, command.order_id)
        order.must_exist(state, order_id=command.order_id)
        streams.must_match(ORDER, command.order_id)
        expect_stock(streams, [(line.sku, line.location) for line in state.lines])
        stocks = [stock_of(streams, line.sku, line.location) for line in state.lines]
        at = streams.at
        confirmed = order.confirm(state, order_id=command.order_id, at=at)
        items = [Item(line.sku, line.location, line.product_id, line.variant_id) for line in state.lines]
        gone = [
            Wanted(item, line.qty)
            for item, line, on_shelf in zip(items, state.lines, stocks, strict=True)
            if state.reservation_id not in on_shelf.held
        ]
        if first := expiries_first(streams, gone, at):
            return first
        writes: dict[str, list[StockEvent]] = {}
        shortages: list[Shortage] = []
        for item, line, on_shelf in zip(items, state.lines, stocks, strict=True):
            try:
                writes[stock_stream(line.sku, line.location)] = stock.commit(
                    on_shelf,
                    item=item,
                    reservation_id=state.reservation_id,
                    retake_id=retake_id,
                    order_id=command.order_id,
                    line_id=line.line_id,
                    qty=line.qty,
                    at=at,
                )
            except InsufficientStock as short:
                shortages.extend(short.shortages)
        if shortages:
            raise InsufficientStock(tuple(shortages))
        return {ORDER.stream(command.order_id): confirmed, **writes}

    return await transact(shop, issued, decide)
