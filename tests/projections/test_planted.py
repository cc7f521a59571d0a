"""The law of interleaving notices: each bug planted in a read model, or in what folds it, breaks the law."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.projections.laws import Folding, keeps_the_law, spares_what_it_is_given, unlisted

import projections
from domain.envelope import Recorded
from projections._stock_part import evolve as evolve_stock
from projections.ports import ReadModel
from projections.product_detail import PRODUCT_DETAIL
from projections.product_list import PRODUCT_LIST
from projections.sales_daily import SALES_DAILY, Sum, add
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.read_models.folding import fold

Model = ReadModel[Any]
Rows = dict[str, dict[str, Any]]

EXAMPLES = 40
"""As many as the law is tried with on what is shipped."""
FORGOTTEN = """
from dataclasses import replace
from projections.product_list import PRODUCT_LIST
FORGOTTEN = replace(PRODUCT_LIST, name="forgotten")
"""


def is_noticed(law: Callable[[st.DataObject], bool]) -> bool:
    """Whether a history is found that breaks the law; always the same ones are tried."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        assert law(data)

    try:
        holds()
    except AssertionError:
        return True
    return False


@dataclass(frozen=True, slots=True)
class Status:
    """Of whatever came last."""

    type: str


def last_event(_part: Status | None, recorded: Recorded) -> Status:
    return Status(recorded.type)


def last_of(parts: Mapping[str, Any]) -> Any:
    """The row was written by whoever came last."""
    return parts["row"]


def one_part_a_row(model: Model, rows: Rows, events: Sequence[Recorded]) -> None:
    """All streams write the same part."""
    for recorded in events:
        for key in model.keys(recorded):
            parts = rows.setdefault(key, {})
            parts["row"] = last_event(parts.get("row"), recorded)


def last_contribution(_sum: Sum | None, recorded: Recorded, key: str) -> Sum:
    return add(None, recorded, key)


def changes_its_part(part: Any, recorded: Recorded) -> Any:
    """And returns it: it equals what it was, so its row is not written."""
    if part is None:
        return evolve_stock(None, recorded)
    part.version = recorded.version
    return part


def changes_what_it_shows(parts: Mapping[str, Any]) -> Any:
    for part in parts.values():
        part.reserved = 0
    return STOCK_AVAILABILITY.combine(parts)


def drops_what_is_not_shown(model: Model, rows: Rows, events: Sequence[Recorded]) -> None:
    """A row with nothing to show is deleted with all that it knows, its tombstone too."""
    for recorded in events:
        for key in fold(model, rows, [recorded]):
            if model.combine(rows[key]) is None:
                del rows[key]


@pytest.mark.parametrize(
    ("model", "folding"),
    [
        (replace(PRODUCT_LIST, combine=last_of), one_part_a_row),
        (replace(SALES_DAILY, folds={"order": last_contribution}), fold),
        (PRODUCT_LIST, drops_what_is_not_shown),
        (PRODUCT_DETAIL, drops_what_is_not_shown),
    ],
    ids=[
        "status is the last event's",
        "a counter keeps the last contribution",
        "tombstone dropped, in a list",
        "tombstone dropped, in a detail",
    ],
)
def test_a_planted_bug_is_noticed(model: Model, folding: Folding) -> None:
    assert is_noticed(lambda data: keeps_the_law(model, data, folding))


@pytest.mark.parametrize(
    "model",
    [
        replace(STOCK_AVAILABILITY, folds={"stock": changes_its_part}),
        replace(STOCK_AVAILABILITY, combine=changes_what_it_shows),
    ],
    ids=["a fold", "combine"],
)
def test_a_part_that_is_changed_is_noticed(model: Model) -> None:
    assert is_noticed(lambda data: spares_what_it_is_given(model, data))


def test_a_read_model_that_nobody_has_listed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgotten.py").write_text(FORGOTTEN)
    monkeypatch.setattr(projections, "__path__", [*projections.__path__, str(tmp_path)])
    try:
        assert unlisted() == ["forgotten"]
    finally:
        sys.modules.pop("projections.forgotten", None)
        vars(projections).pop("forgotten", None)
