from dataclasses import dataclass

from commands._states import Streams
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import product
from domain.price import PRICE
from domain.product import PRODUCT


@dataclass(frozen=True, slots=True)
class PublishProduct:
    product_id: str


async def publish_product(shop: Shop, issued: Issued, command: PublishProduct) -> Receipt:
    currency = shop.rules.default_currency

    def decide(streams: Streams) -> Writes:
        state = streams.read(PRODUCT, command.product_id)
        product.must_exist(state, product_id=command.product_id)
        streams.must_match(PRODUCT, command.product_id)
        streams.expect(PRICE, tuple(state.variants))
        prices = {variant: streams.read(PRICE, variant) for variant in state.variants}
        at = streams.at
        return {
            PRODUCT.stream(command.product_id): product.publish(
                state,
                product_id=command.product_id,
                priced=frozenset(variant for variant in prices if prices[variant].in_force(currency, at)),
                currency=currency,
                at=at,
            )
        }

    return await transact(shop, issued, decide)
