"""Laws that every read model obeys; the models are found, not listed."""

from dataclasses import is_dataclass
from typing import Any, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.projections.laws import (
    MODELS,
    STREAMS,
    histories,
    history_of,
    keeps_the_law,
    spares_what_it_is_given,
    unlisted,
)

from domain import CONTEXTS, EVENTS
from domain.envelope import Recorded
from domain.values import Event, category_of
from projections import READ_MODELS
from projections.ports import ReadModel
from runtime.read_models.folding import fold
from runtime.read_models.tables import Table

every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def test_every_declared_read_model_is_listed_once() -> None:
    assert unlisted() == []
    assert sorted(model.name for model in READ_MODELS) == [model.name for model in MODELS]


@every_model
def test_every_category_that_feeds_it_is_a_noun_of_the_shop_and_known_to_this_test(
    model: ReadModel[Any],
) -> None:
    assert set(model.folds) <= set(CONTEXTS)
    assert set(model.folds) <= {category_of(stream) for stream in STREAMS}


@pytest.mark.parametrize("category", sorted(CONTEXTS))
def test_every_event_of_a_noun_is_tried(category: str) -> None:
    tried: set[type[Event]] = set()
    stream = next(stream for stream in STREAMS if category_of(stream) == category)

    @settings(max_examples=40, deadline=None, phases=[Phase.generate], database=None, derandomize=True)
    @given(events=history_of(stream))
    def look(events: list[Recorded]) -> None:
        tried.update(type(recorded.event) for recorded in events)

    look()
    assert tried == {kind for kind in EVENTS.values() if kind.__module__ == f"domain.{category}"}


@every_model
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_interleaving_that_keeps_each_streams_order_gives_the_same_rows(
    model: ReadModel[Any], data: st.DataObject
) -> None:
    assert keeps_the_law(model, data)


@every_model
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_stored_of_a_part_is_what_was_folded(model: ReadModel[Any], data: st.DataObject) -> None:
    streams = data.draw(histories(model))
    folded: dict[str, dict[str, Any]] = {}
    fold(model, folded, [event for events in streams for event in events])
    table = Table(model)

    assert {key: table.decode(table.encode(parts)) for key, parts in folded.items()} == folded


@every_model
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_fold_changes_the_part_it_is_given(model: ReadModel[Any], data: st.DataObject) -> None:
    assert spares_what_it_is_given(model, data)


@every_model
def test_parts_and_rows_are_records_and_each_fold_names_the_class_of_its_part(model: ReadModel[Any]) -> None:
    for kind in (model.row, *(get_type_hints(evolve)["return"] for evolve in model.folds.values())):
        assert is_dataclass(kind)
        assert "__slots__" in vars(kind)
        assert kind.__hash__ is not None
