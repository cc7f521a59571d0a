from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import slug
from domain.slug import SLUG, SlugClaimed, SlugTaken
from domain.values import Rejected

CLAIM = SlugClaimed("blue-mug", "p1")


def test_a_free_slug_is_claimed_for_a_product(given: type[Given]) -> None:
    given(SLUG).when(slug.claim, slug="blue-mug", product_id="p1").then(CLAIM)


def test_a_slug_is_never_claimed_again_not_even_by_its_owner(given: type[Given]) -> None:
    given(SLUG, CLAIM).when(slug.claim, slug="blue-mug", product_id="p2").then(SlugTaken("blue-mug"))
    given(SLUG, CLAIM).when(slug.claim, slug="blue-mug", product_id="p1").then(SlugTaken("blue-mug"))


@sampled(st.lists(st.text(max_size=3), min_size=1, max_size=5))
def test_whoever_claims_first_owns_for_ever(claimants: list[str]) -> None:
    state = SLUG.initial
    for product_id in claimants:
        try:
            for event in slug.claim(state, slug="blue-mug", product_id=product_id):
                state = SLUG.evolve(state, event)
        except Rejected:
            continue
    assert state.product_id == claimants[0]
