from dataclasses import dataclass, field

from commands._states import Streams
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import product, slug
from domain.product import PRODUCT
from domain.slug import SLUG


@dataclass(frozen=True, slots=True)
class DraftProduct:
    """`title` and `description` by language; at least one title."""

    slug: str
    title: dict[str, str]
    tax_class: str
    description: dict[str, str] = field(default_factory=dict)
    brand: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


async def draft_product(shop: Shop, issued: Issued, command: DraftProduct) -> Receipt:
    product_id = shop.ids.new()

    def decide(streams: Streams) -> Writes:
        claimed = streams.read(SLUG, command.slug)
        return {
            SLUG.stream(command.slug): slug.claim(claimed, slug=command.slug, product_id=product_id),
            PRODUCT.stream(product_id): product.draft(
                product_id=product_id,
                slug=command.slug,
                title=command.title,
                tax_class=command.tax_class,
                description=command.description,
                brand=command.brand,
                attributes=command.attributes,
            ),
        }

    return await transact(shop, issued, decide)
