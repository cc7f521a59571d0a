"""What holds of every noun, found through the registry."""

import importlib
import inspect
import pkgutil
import re
from typing import Any, get_args

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

import domain
from domain import CONTEXTS, EVENTS, UNIONS
from domain.values import Aggregate, Rejected

MODULES = [
    importlib.import_module(f"domain.{module.name}") for module in pkgutil.iter_modules(domain.__path__)
]
AGGREGATES: dict[str, Aggregate[Any, Any]] = {
    found.category: found
    for module in MODULES
    for found in vars(module).values()
    if isinstance(found, Aggregate)
}


def members(category: str) -> tuple[Any, ...]:
    return get_args(UNIONS[category]) or (UNIONS[category],)


def defined(module: Any) -> list[type]:
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__
    ]


@pytest.mark.parametrize(("name", "event"), EVENTS.items())
def test_a_stored_name_says_what_its_class_says(name: str, event: type) -> None:
    noun, verbed, version = name.split(".")
    assert re.fullmatch(r"[a-z]+", noun)
    assert re.fullmatch(r"[a-z]+", verbed)
    assert re.fullmatch(r"v[1-9][0-9]*", version)
    assert event.__name__.startswith(noun.title() + verbed.title())


@pytest.mark.parametrize("event", EVENTS.values())
def test_an_event_is_a_frozen_slotted_dataclass(event: Any) -> None:
    assert event.__dataclass_params__.frozen
    assert all("__slots__" in vars(cls) for cls in event.__mro__[:-1])


def test_every_event_that_is_defined_is_in_the_union_of_its_noun() -> None:
    stored = {
        found for module in MODULES for found in defined(module) if isinstance(vars(found).get("TYPE"), str)
    }
    assert stored == set(EVENTS.values())


def test_no_two_events_share_a_stored_name() -> None:
    events = [event for category in UNIONS for event in members(category)]
    assert len(events) == len(EVENTS)


def test_every_noun_has_a_union_a_context_and_a_category_without_a_dash() -> None:
    assert UNIONS.keys() == AGGREGATES.keys() == CONTEXTS.keys()
    assert all(re.fullmatch(r"[a-z]+", category) for category in UNIONS)
    assert set(CONTEXTS.values()) <= {"catalogue", "inventory", "orders"}


def test_the_contexts_of_categories_are_those_of_the_first_release() -> None:
    # They name topics: a category that moves takes its history away from its readers.
    assert CONTEXTS == {
        "product": "catalogue",
        "sku": "catalogue",
        "slug": "catalogue",
        "price": "catalogue",
        "location": "inventory",
        "stock": "inventory",
        "expiry": "inventory",
        "order": "orders",
        "lapse": "orders",
    }


@pytest.mark.parametrize("refusal", [r for m in MODULES for r in defined(m) if issubclass(r, Rejected)])
def test_every_refusal_says_what_it_means(refusal: type[Rejected]) -> None:
    assert (refusal.__doc__ or "").rstrip().endswith(".")


@pytest.mark.parametrize("category", UNIONS)
def test_a_fold_takes_every_event_of_its_noun_in_any_order_and_never_judges(category: str) -> None:
    aggregate = AGGREGATES[category]

    @settings(max_examples=30)
    @sampled(st.lists(st.one_of(*(st.from_type(event) for event in members(category))), max_size=8))
    def folded(history: list[Any]) -> None:
        state = aggregate.initial
        for event in history:
            assert type(state := aggregate.evolve(state, event)) is type(aggregate.initial)

    folded()
