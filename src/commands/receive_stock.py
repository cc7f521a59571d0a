from dataclasses import dataclass

from commands._states import Streams
from commands._stock_items import item_at, stock_of, stock_stream
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import stock


@dataclass(frozen=True, slots=True)
class ReceiveStock:
    sku: str
    location: str
    qty: int
    reference: stock.Reference


async def receive_stock(shop: Shop, issued: Issued, command: ReceiveStock) -> Receipt:
    def decide(streams: Streams) -> Writes:
        item = item_at(streams, command.sku, command.location)
        state = stock_of(streams, command.sku, command.location)
        return {
            stock_stream(command.sku, command.location): stock.receive(
                state, item=item, qty=command.qty, reference=command.reference
            )
        }

    return await transact(shop, issued, decide)
