from datetime import UTC, datetime
from typing import Any

from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import expiry
from domain.expiry import EXPIRY, ExpiryEvent, ExpiryScheduled, ExpirySettled

DUE = datetime(2026, 3, 1, 12, tzinfo=UTC)
FACTS: dict[str, Any] = {"reservation_id": "r1", "sku": "MUG", "location": "BER", "due_at": DUE}
SCHEDULED = ExpiryScheduled("r1", "MUG", "BER", DUE)


def test_a_wait_is_scheduled_once(given: type[Given]) -> None:
    given(EXPIRY).when(expiry.schedule, **FACTS).then(SCHEDULED)
    given(EXPIRY, SCHEDULED).when(expiry.schedule, **FACTS).then()


def test_a_wait_is_settled_once(given: type[Given]) -> None:
    settled = ExpirySettled("r1", "expired")
    given(EXPIRY, SCHEDULED).when(expiry.settle, outcome="expired").then(settled)
    given(EXPIRY, SCHEDULED, settled).when(expiry.settle, outcome="ended_before").then()
    given(EXPIRY, SCHEDULED, settled).when(expiry.schedule, **FACTS).then()


def test_what_was_never_scheduled_is_not_settled(given: type[Given]) -> None:
    given(EXPIRY).when(expiry.settle, outcome="expired").then()


@sampled(st.lists(st.sampled_from(["schedule", "expired", "ended_before"]), max_size=10))
def test_steps_repeated_in_any_order_schedule_once_and_settle_once(steps: list[Any]) -> None:
    state = EXPIRY.initial
    recorded: list[ExpiryEvent] = []
    for step in steps:
        events = expiry.schedule(state, **FACTS) if step == "schedule" else expiry.settle(state, outcome=step)
        recorded += events
        for event in events:
            state = EXPIRY.evolve(state, event)
    after = steps[steps.index("schedule") + 1 :] if "schedule" in steps else []
    outcomes = [step for step in after if step != "schedule"]
    expected: list[ExpiryEvent] = [SCHEDULED] if "schedule" in steps else []
    assert recorded == expected + [ExpirySettled("r1", outcome) for outcome in outcomes[:1]]
    assert state.waiting == (len(recorded) == 1)
