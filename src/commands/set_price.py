from dataclasses import dataclass
from datetime import datetime

from commands._states import Streams
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import price, product
from domain.price import PRICE
from domain.product import PRODUCT


@dataclass(frozen=True, slots=True)
class SetPrice:
    """A gross unit price in minor units, in force from `effective_from`, or from now."""

    product_id: str
    variant_id: str
    currency: str
    amount_minor: int
    list_amount_minor: int | None = None
    effective_from: datetime | None = None
    reason: str | None = None


async def set_price(shop: Shop, issued: Issued, command: SetPrice) -> Receipt:
    event_id = shop.ids.new()

    def decide(streams: Streams) -> Writes:
        product.must_have(
            streams.read(PRODUCT, command.product_id),
            product_id=command.product_id,
            variant_id=command.variant_id,
        )
        state = streams.read(PRICE, command.variant_id)
        streams.must_match(PRICE, command.variant_id)
        return {
            PRICE.stream(command.variant_id): price.set_price(
                state,
                event_id=event_id,
                product_id=command.product_id,
                variant_id=command.variant_id,
                currency=command.currency,
                amount_minor=command.amount_minor,
                list_amount_minor=command.list_amount_minor,
                effective_from=command.effective_from,
                reason=command.reason,
                at=streams.at,
            )
        }

    return await transact(shop, issued, decide)
