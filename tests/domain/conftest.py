"""`given(STOCK, *events).when(stock.reserve, **facts).then(*events, or one refusal)`."""

from copy import deepcopy
from typing import Any

import pytest

from domain.values import Aggregate, Rejected


class Given:
    def __init__(self, aggregate: Aggregate[Any, Any], *events: Any) -> None:
        self.state = aggregate.initial
        for event in events:
            self.state = aggregate.evolve(self.state, event)

    def when(self, decision: Any, **facts: Any) -> "Given":
        before = deepcopy(self.state)
        self.outcome, again = (_outcome(decision, self.state, facts) for _ in range(2))
        assert (_plain(again), self.state) == (_plain(self.outcome), before), "deciding twice changes nothing"
        return self

    def then(self, *expected: Any) -> None:
        refused = len(expected) == 1 and isinstance(expected[0], Rejected)
        assert _plain(self.outcome) == _plain(expected[0] if refused else [*expected])


def _outcome(decision: Any, state: Any, facts: dict[str, Any]) -> Any:
    try:
        return decision(state, **facts)
    except Rejected as refusal:
        return refusal


def _plain(outcome: Any) -> Any:
    return (type(outcome), vars(outcome)) if isinstance(outcome, Rejected) else outcome


@pytest.fixture
def given() -> type[Given]:
    return Given
