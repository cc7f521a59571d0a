"""Products, variants, prices and places, through their handlers."""

from datetime import timedelta

import pytest
from tests.commands.conftest import T0, House, only, written

from commands.add_variant import AddVariant, add_variant
from commands.draft_product import DraftProduct, draft_product
from commands.ports import StaleVersion
from commands.publish_product import PublishProduct, publish_product
from commands.register_location import RegisterLocation, register_location
from commands.set_price import SetPrice, set_price
from domain.location import LocationTaken
from domain.price import PriceSet
from domain.product import (
    NoVariant,
    OptionsTaken,
    ProductDrafted,
    ProductPublished,
    UnknownProduct,
    UnknownVariant,
    UnpricedVariants,
    VariantAdded,
)
from domain.sku import SkuClaimed, SkuTaken
from domain.slug import SlugClaimed, SlugTaken

pytestmark = pytest.mark.anyio

MUG = DraftProduct("mug", {"en": "Mug"}, "standard")


async def drafted(house: House) -> str:
    return only(await draft_product(house.shop(), house.issued(), MUG), ProductDrafted).product_id


async def test_a_draft_claims_its_slug_in_the_same_append(house: House) -> None:
    receipt = await draft_product(house.shop(), house.issued(), MUG)
    assert written(receipt) == ["slug.claimed.v1", "product.drafted.v1"]
    product_id = only(receipt, ProductDrafted).product_id
    assert only(receipt, SlugClaimed) == SlugClaimed("mug", product_id)
    assert [recorded.stream for recorded in receipt.events] == ["slug-mug", f"product-{product_id}"]


async def test_a_slug_is_claimed_once_whoever_asks(house: House) -> None:
    one, other = house.shop(), house.shop()
    await draft_product(one, house.issued(), MUG)
    for shop in (one, other):
        with pytest.raises(SlugTaken):
            await draft_product(shop, house.issued(), MUG)
    assert len(house.log.recorded) == 2


async def test_a_variant_claims_its_sku_in_the_same_append(house: House) -> None:
    product_id = await drafted(house)
    receipt = await add_variant(house.shop(), house.issued(), AddVariant(product_id, "MUG", {}, 300, "40123"))
    assert written(receipt) == ["variant.added.v1", "sku.claimed.v1"]
    variant = only(receipt, VariantAdded)
    assert variant == VariantAdded(product_id, variant.variant_id, "MUG", {}, 300, "40123")
    assert only(receipt, SkuClaimed) == SkuClaimed("MUG", product_id, variant.variant_id)


async def test_what_a_product_refuses_of_a_variant(house: House) -> None:
    shop, product_id = house.shop(), await drafted(house)
    await add_variant(shop, house.issued(), AddVariant(product_id, "MUG", {}, 300))
    before = len(house.log.recorded)
    with pytest.raises(SkuTaken):
        await add_variant(shop, house.issued(), AddVariant(product_id, "MUG", {"size": "L"}, 300))
    with pytest.raises(OptionsTaken):
        await add_variant(shop, house.issued(), AddVariant(product_id, "MUG-L", {}, 300))
    with pytest.raises(UnknownProduct):
        await add_variant(shop, house.issued(), AddVariant("nowhere", "MUG-L", {}, 300))
    assert len(house.log.recorded) == before


async def test_a_price_event_repeats_its_own_id(house: House) -> None:
    await house.sells("MUG")
    receipt = await house.prices("MUG", 1790)
    assert only(receipt, PriceSet).event_id == receipt.events[0].event_id


async def test_a_price_needs_its_variant(house: House) -> None:
    product_id = await drafted(house)
    with pytest.raises(UnknownVariant):
        await set_price(house.shop(), house.issued(), SetPrice(product_id, "v9", "EUR", 1990))
    with pytest.raises(UnknownProduct):
        await set_price(house.shop(), house.issued(), SetPrice("p9", "v9", "EUR", 1990))


async def test_a_product_is_published_once_every_variant_is_priced_today(house: House) -> None:
    shop, product_id = house.shop(), await drafted(house)
    publish = PublishProduct(product_id)
    with pytest.raises(NoVariant):
        await publish_product(shop, house.issued(), publish)
    added = only(
        await add_variant(shop, house.issued(), AddVariant(product_id, "MUG", {}, 300)), VariantAdded
    )
    tomorrow = SetPrice(product_id, added.variant_id, "EUR", 1990, effective_from=T0 + timedelta(days=1))
    await set_price(shop, house.issued(), tomorrow)
    with pytest.raises(UnpricedVariants):
        await publish_product(shop, house.issued(), publish)
    house.clock.advance(timedelta(days=1))
    receipt = await publish_product(shop, house.issued(), publish)
    assert only(receipt, ProductPublished) == ProductPublished(product_id, T0 + timedelta(days=1), "EUR")


async def test_a_product_is_changed_only_by_who_has_seen_its_last_version(house: House) -> None:
    product_id = await drafted(house)
    add = AddVariant(product_id, "MUG", {}, 300)
    with pytest.raises(StaleVersion) as stale:
        await add_variant(house.shop(), house.issued(if_match=2), add)
    assert stale.value.current_version == 1
    added = only(await add_variant(house.shop(), house.issued(if_match=1), add), VariantAdded)
    with pytest.raises(StaleVersion):
        await publish_product(house.shop(), house.issued(if_match=1), PublishProduct(product_id))
    # A price has a stream, and so a version, of its own.
    price = SetPrice(product_id, added.variant_id, "EUR", 1990)
    await set_price(house.shop(), house.issued(if_match=0), price)
    with pytest.raises(StaleVersion):
        await set_price(house.shop(), house.issued(if_match=0), price)
    await publish_product(house.shop(), house.issued(if_match=2), PublishProduct(product_id))


async def test_a_location_is_registered_once(house: House) -> None:
    command = RegisterLocation("BER", "Berlin", "DE")
    receipt = await register_location(house.shop(), house.issued(), command)
    assert written(receipt) == ["location.registered.v1"]
    with pytest.raises(LocationTaken):
        await register_location(house.shop(), house.issued(), command)
