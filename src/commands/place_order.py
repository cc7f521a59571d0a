from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from commands._reservations import Wanted, expect_stock, refuse_twice, reserved
from commands._states import Streams
from commands._stock_items import expect_items, item_at, stock_of
from commands._transact import First, Writes, transact
from commands.ports import Issued, Receipt, Rules
from commands.shop import Shop
from domain import order, price, product
from domain.order import ORDER, OrderLine
from domain.price import PRICE
from domain.product import PRODUCT
from domain.stock import Holder, Item
from domain.values import FieldError, InvalidFields, Money


@dataclass(frozen=True, slots=True)
class WantedLine:
    """`location` None: the house's default."""

    sku: str
    qty: int
    location: str | None = None


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """`expected_total` is what the customer saw: at other prices the order is refused."""

    customer_id: str
    lines: tuple[WantedLine, ...]
    currency: str
    expected_total: Money


async def place_order(shop: Shop, issued: Issued, command: PlaceOrder) -> Receipt:
    """Price every line, reserve all of them or none, and place the order, in one append."""
    order_id, reservation_id = shop.ids.new(), shop.ids.new()
    line_ids = [shop.ids.new() for _ in command.lines]

    def decide(streams: Streams) -> Writes | First:
        if command.expected_total.currency != command.currency:
            error = FieldError("/expected_total/currency", "currency_mismatch", "not the order's currency")
            raise InvalidFields((error,))
        items = _items(streams, shop.rules, command)
        at = streams.at
        expires_at = at + shop.rules.reservation_ttl
        lines = tuple(
            _priced(streams, shop.rules, command.currency, item, wanted.qty, line_id, at)
            for item, wanted, line_id in zip(items, command.lines, line_ids, strict=True)
        )
        placed = order.place(
            order_id=order_id,
            customer_id=command.customer_id,
            currency=command.currency,
            lines=lines,
            expected_total=command.expected_total,
            reservation_id=reservation_id,
            expires_at=expires_at,
        )
        stock_writes = reserved(
            streams,
            [Wanted(item, wanted.qty) for item, wanted in zip(items, command.lines, strict=True)],
            reservation_id=reservation_id,
            holder=Holder("order", order_id),
            expires_at=expires_at,
            at=at,
        )
        if isinstance(stock_writes, First):
            return stock_writes
        return {ORDER.stream(order_id): placed, **stock_writes}

    return await transact(shop, issued, decide)


def _items(streams: Streams, rules: Rules, command: PlaceOrder) -> Sequence[Item]:
    """What each line asks for; reads every stream that the order depends on."""
    places = [(line.sku, line.location or rules.default_location) for line in command.lines]
    refuse_twice(places, "/lines")
    expect_items(streams, places)
    expect_stock(streams, places)
    items = [item_at(streams, code, place) for code, place in places]
    streams.expect(PRODUCT, [item.product_id for item in items])
    streams.expect(PRICE, [item.variant_id for item in items])
    for item in items:
        streams.read(PRODUCT, item.product_id)
        streams.read(PRICE, item.variant_id)
        stock_of(streams, item.sku, item.location)
    return items


def _priced(
    streams: Streams, rules: Rules, currency: str, item: Item, qty: int, line_id: str, at: datetime
) -> OrderLine:
    sold = streams.read(PRODUCT, item.product_id)
    product.must_be_on_sale(sold, product_id=item.product_id)
    asked = streams.read(PRICE, item.variant_id).in_force(currency, at)
    if asked is None:
        raise price.NoPrice(item.sku, currency)
    return OrderLine(
        line_id=line_id,
        product_id=item.product_id,
        variant_id=item.variant_id,
        sku=item.sku,
        title=sold.title_in(rules.default_language),
        location=item.location,
        qty=qty,
        unit_price_minor=asked.amount_minor,
        price_event_id=asked.event_id,
    )
