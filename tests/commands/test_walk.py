import pytest
from tests.commands.conftest import House, ordered

from commands.cancel_order import CancelOrder, cancel_order
from commands.confirm_order import ConfirmOrder, confirm_order
from domain import CONTEXTS
from domain.values import category_of

pytestmark = pytest.mark.anyio


async def test_one_order_from_the_draft_of_its_product_to_its_cancellation(house: House) -> None:
    await house.sells("MUG", qty=2)
    order_id = await ordered(house.shop(), house.issued(), ("MUG", 2), total=3980)
    await confirm_order(house.shop(), house.issued(), ConfirmOrder(order_id))
    await cancel_order(house.shop(), house.issued(), CancelOrder(order_id, "customer"))
    assert [recorded.type for recorded in house.log.recorded] == [
        "location.registered.v1",
        "slug.claimed.v1",
        "product.drafted.v1",
        "variant.added.v1",
        "sku.claimed.v1",
        "price.set.v1",
        "product.published.v1",
        "stock.received.v1",
        "stock.replenished.v1",
        "order.placed.v1",
        "stock.reserved.v1",
        "stock.depleted.v1",
        "order.confirmed.v1",
        "reservation.committed.v1",
        "order.cancelled.v1",
        "commitment.released.v1",
        "stock.replenished.v1",
    ]
    assert [recorded.position for recorded in house.log.recorded] == [*range(1, 18)]
    for recorded in house.log.recorded:
        assert recorded.context == CONTEXTS[category_of(recorded.stream)]
    versions = [(r.stream, r.version) for r in house.log.recorded]
    assert len(set(versions)) == len(versions)
    assert {r.version for r in house.log.recorded if r.stream == f"order-{order_id}"} == {1, 2, 3}
