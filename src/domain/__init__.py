"""The nouns of the shop: every kind of stream, every event, and the context each belongs to.

A context has a Kafka topic of its own. Adding a noun is one line here; adding an event is none.
"""

from typing import Any, Final, get_args

from domain import expiry, lapse, location, order, price, product, sku, slug, stock
from domain.values import Event

UNIONS: Final[dict[str, Any]] = {
    product.PRODUCT.category: product.ProductEvent,
    sku.SKU.category: sku.SkuEvent,
    slug.SLUG.category: slug.SlugEvent,
    price.PRICE.category: price.PriceEvent,
    location.LOCATION.category: location.LocationEvent,
    stock.STOCK.category: stock.StockEvent,
    expiry.EXPIRY.category: expiry.ExpiryEvent,
    order.ORDER.category: order.OrderEvent,
    lapse.LAPSE.category: lapse.LapseEvent,
}
"""The event union of each stream category."""

CONTEXTS: Final[dict[str, str]] = {
    "product": "catalogue",
    "sku": "catalogue",
    "slug": "catalogue",
    "price": "catalogue",
    "location": "inventory",
    "stock": "inventory",
    "expiry": "inventory",
    "order": "orders",
    "lapse": "orders",
}
"""The context of each stream category: fixed for ever, for it names the topic."""

EVENTS: Final[dict[str, type[Event]]] = {
    event.TYPE: event for union in UNIONS.values() for event in (get_args(union) or (union,))
}
"""Every event by its stored name."""
