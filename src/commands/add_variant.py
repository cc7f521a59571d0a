from dataclasses import dataclass

from commands._states import Streams
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import product, sku
from domain.product import PRODUCT
from domain.sku import SKU


@dataclass(frozen=True, slots=True)
class AddVariant:
    product_id: str
    sku: str
    options: dict[str, str]
    weight_g: int
    barcode: str | None = None


async def add_variant(shop: Shop, issued: Issued, command: AddVariant) -> Receipt:
    variant_id = shop.ids.new()

    def decide(streams: Streams) -> Writes:
        state = streams.read(PRODUCT, command.product_id)
        claimed = streams.read(SKU, command.sku)
        product.must_exist(state, product_id=command.product_id)
        streams.must_match(PRODUCT, command.product_id)
        return {
            PRODUCT.stream(command.product_id): product.add_variant(
                state,
                product_id=command.product_id,
                variant_id=variant_id,
                sku=command.sku,
                options=command.options,
                weight_g=command.weight_g,
                barcode=command.barcode,
            ),
            SKU.stream(command.sku): sku.claim(
                claimed, sku=command.sku, product_id=command.product_id, variant_id=variant_id
            ),
        }

    return await transact(shop, issued, decide)
