from typing import Any

from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import lapse
from domain.lapse import LAPSE, LapseEvent, LapseSettled


def test_a_lapse_is_settled_once(given: type[Given]) -> None:
    facts = {"order_id": "o1", "reservation_id": "r1", "outcome": "order_cancelled"}
    settled = LapseSettled("o1", "r1", "order_cancelled")
    given(LAPSE).when(lapse.settle, **facts).then(settled)
    given(LAPSE, settled).when(lapse.settle, **facts).then()


@sampled(st.lists(st.sampled_from(["order_cancelled", "order_kept"]), max_size=5))
def test_the_first_outcome_stands(outcomes: list[Any]) -> None:
    state = LAPSE.initial
    recorded: list[LapseEvent] = []
    for outcome in outcomes:
        events = lapse.settle(state, order_id="o1", reservation_id="r1", outcome=outcome)
        recorded += events
        for event in events:
            state = LAPSE.evolve(state, event)
    assert recorded == [LapseSettled("o1", "r1", outcome) for outcome in outcomes[:1]]
