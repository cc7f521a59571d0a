import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from commands._states import Streams
from commands._stock_items import expect_items, item_at
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.requests import shaped_as_uuid7
from commands.shop import Shop
from domain import order
from domain.order import ORDER, ImportedLine

_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SoldLine:
    sku: str
    qty: int
    amount_minor: int
    title: str | None = None


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """An order taken elsewhere, by a till, a marketplace or the old shop, with the amounts it was sold at."""

    source: str
    source_order_id: str
    sold_at: datetime
    customer_id: str
    location: str
    currency: str
    lines: tuple[SoldLine, ...]


async def import_order(shop: Shop, issued: Issued, command: ImportOrder) -> Receipt:
    """Record it as having occurred when it was sold. No price is looked up and no stock is reserved."""
    order_id = imported_id(command)

    def decide(streams: Streams) -> Writes:
        streams.expect(ORDER, [order_id])
        expect_items(streams, [(line.sku, command.location) for line in command.lines])
        imported = order.import_(
            streams.read(ORDER, order_id),
            order_id=order_id,
            customer_id=command.customer_id,
            currency=command.currency,
            lines=tuple(
                _as_sold(streams, command.location, str(number), line)
                for number, line in enumerate(command.lines, start=1)
            ),
            source=command.source,
            source_order_id=command.source_order_id,
            sold_at=command.sold_at,
            at=streams.at,
        )
        return {ORDER.stream(order_id): imported}

    return await transact(shop, issued, decide, occurred_at=command.sold_at)


def imported_id(command: ImportOrder) -> str:
    """The same for the same order of the same source: no key is needed to tell that it is here already.

    Shaped as a UUIDv7 of the time it was sold.
    """
    named = f"{command.source}\0{command.source_order_id}".encode()
    time_ms = (command.sold_at - _1970) // timedelta(milliseconds=1)
    return shaped_as_uuid7(max(time_ms, 0), hashlib.sha256(named).digest())


def _as_sold(streams: Streams, location: str, line_id: str, line: SoldLine) -> ImportedLine:
    item = item_at(streams, line.sku, location)
    return ImportedLine(
        line_id=line_id,
        product_id=item.product_id,
        variant_id=item.variant_id,
        sku=item.sku,
        title=line.title,
        location=item.location,
        qty=line.qty,
        amount_minor=line.amount_minor,
    )
