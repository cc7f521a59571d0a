"""The key of a row a product, shared by the read models that product, price and stock streams feed."""

from collections.abc import Iterable

from domain import price, product, stock
from domain.envelope import Recorded


def keys(recorded: Recorded) -> Iterable[str]:
    match recorded.event:
        case product.ProductDrafted() | product.VariantAdded() | product.ProductPublished() as event:
            yield event.product_id
        case price.PriceSet(product_id=product_id) | stock.StockFact(product_id=product_id):
            yield product_id
        case _:
            return
