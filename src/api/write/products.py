from typing import Annotated

from fastapi import Path
from pydantic import Field
from starlette.responses import Response

from api.write._answers import WrittenAggregate, answered, first
from api.write._command import Call, command, router
from api.write._fields import Fields, Id, Lang, Line, Name, NoFields, ShortText, Sku, Slug, StockCount, Text
from commands.add_variant import AddVariant, add_variant
from commands.draft_product import DraftProduct, draft_product
from commands.publish_product import PublishProduct, publish_product
from domain import product
from domain.product import ProductDrafted, ProductPublished, VariantAdded
from domain.sku import SkuClaimed, SkuTaken
from domain.slug import SlugClaimed, SlugTaken

products = router()

ProductId = Annotated[Id, Path()]


class NewProduct(Fields):
    slug: Slug
    title: Annotated[dict[Lang, Line], Field(min_length=1, max_length=50)]
    tax_class: ShortText
    description: Annotated[dict[Lang, Text], Field(max_length=50)] = Field(default_factory=dict)
    brand: Name | None = None
    attributes: Annotated[dict[Name, Line], Field(max_length=100)] = Field(default_factory=dict)


class ProductAnswer(WrittenAggregate):
    product_id: str


class VariantAnswer(ProductAnswer):
    variant_id: str


class NewVariant(Fields):
    sku: Sku
    options: Annotated[dict[Name, Line], Field(max_length=20)]
    weight_g: StockCount
    barcode: ShortText | None = None


@products.post(
    "/products",
    **command(
        "DraftProduct",
        summary="Draft a product",
        scope="products:write",
        answer=ProductAnswer,
        events=(SlugClaimed, ProductDrafted),
        refusals=(SlugTaken,),
        created=True,
    ),
)
async def draft(body: NewProduct, call: Call) -> Response:
    receipt = await draft_product(call.shop, call.issued, DraftProduct(**body.model_dump()))
    product_id = first(receipt, ProductDrafted).product_id
    return answered(
        call,
        receipt,
        ProductAnswer,
        {"product_id": product_id},
        aggregate=product.PRODUCT,
        read_at=f"/products/{product_id}",
        created=True,
    )


@products.post(
    "/products/{product_id}/add-variant",
    **command(
        "AddVariant",
        summary="Add a variant to a product",
        scope="products:write",
        answer=VariantAnswer,
        events=(VariantAdded, SkuClaimed),
        refusals=(product.UnknownProduct, product.TooManyVariants, product.OptionsTaken, SkuTaken),
        if_match=True,
    ),
)
async def add(product_id: ProductId, body: NewVariant, call: Call) -> Response:
    wanted = AddVariant(product_id=product_id, **body.model_dump())
    receipt = await add_variant(call.shop, call.issued, wanted)
    return answered(
        call,
        receipt,
        VariantAnswer,
        {"product_id": product_id, "variant_id": first(receipt, VariantAdded).variant_id},
        aggregate=product.PRODUCT,
    )


@products.post(
    "/products/{product_id}/publish",
    **command(
        "PublishProduct",
        summary="Put a product on sale",
        scope="products:write",
        answer=ProductAnswer,
        events=(ProductPublished,),
        refusals=(
            product.UnknownProduct,
            product.AlreadyPublished,
            product.NoVariant,
            product.UnpricedVariants,
        ),
        if_match=True,
    ),
)
async def publish(product_id: ProductId, body: NoFields, call: Call) -> Response:  # noqa: ARG001 - refuses fields
    receipt = await publish_product(call.shop, call.issued, PublishProduct(product_id))
    return answered(call, receipt, ProductAnswer, {"product_id": product_id}, aggregate=product.PRODUCT)
