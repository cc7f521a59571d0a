from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import sku
from domain.sku import SKU, SkuClaimed, SkuTaken, UnknownSku
from domain.values import Rejected

CLAIM = SkuClaimed("MUG", "p1", "v1")


def test_a_free_sku_is_claimed_for_a_variant(given: type[Given]) -> None:
    given(SKU).when(sku.claim, sku="MUG", product_id="p1", variant_id="v1").then(CLAIM)


def test_a_sku_is_never_claimed_again_not_even_by_its_owner(given: type[Given]) -> None:
    given(SKU, CLAIM).when(sku.claim, sku="MUG", product_id="p2", variant_id="v2").then(SkuTaken("MUG"))
    given(SKU, CLAIM).when(sku.claim, sku="MUG", product_id="p1", variant_id="v1").then(SkuTaken("MUG"))


def test_a_claimed_sku_names_its_product_and_variant(given: type[Given]) -> None:
    assert given(SKU, CLAIM).when(sku.owner, sku="MUG").outcome == ("p1", "v1")
    given(SKU).when(sku.owner, sku="MUG").then(UnknownSku("MUG"))


@sampled(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=5))
def test_whoever_claims_first_owns_for_ever(claimants: list[tuple[str, str]]) -> None:
    state = SKU.initial
    for product_id, variant_id in claimants:
        try:
            for event in sku.claim(state, sku="MUG", product_id=product_id, variant_id=variant_id):
                state = SKU.evolve(state, event)
        except Rejected:
            continue
    assert sku.owner(state, sku="MUG") == claimants[0]
