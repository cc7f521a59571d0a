"""Laws that every read model obeys; the models are found, not listed."""

import importlib
import pkgutil
import string
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import projections
from domain import CONTEXTS, UNIONS
from domain.envelope import Actor, Metadata, Recorded
from domain.price import PriceSet
from domain.values import Event, category_of
from projections import READ_MODELS
from projections.ports import ReadModel
from runtime.read_models.folding import fold
from runtime.read_models.tables import Table

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRODUCTS, VARIANTS_EACH, PLACES = 2, 2, 2


def declared() -> Iterator[ReadModel[Any]]:
    for module in pkgutil.iter_modules(projections.__path__):
        for value in vars(importlib.import_module(f"projections.{module.name}")).values():
            if isinstance(value, ReadModel):
                yield value


MODELS = sorted({model.name: model for model in declared()}.values(), key=lambda model: model.name)
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def stream_identities() -> dict[str, dict[str, str]]:
    """Streams of a small shop, and the ids that all events of each carry."""
    streams: dict[str, dict[str, str]] = {}
    for product_id in (f"p{number}" for number in range(PRODUCTS)):
        streams[f"product-{product_id}"] = {"product_id": product_id}
        for variant_id in (f"{product_id}v{number}" for number in range(VARIANTS_EACH)):
            ids = {"product_id": product_id, "variant_id": variant_id}
            streams[f"price-{variant_id}"] = ids
            for location in (f"L{number}" for number in range(PLACES)):
                item = {**ids, "sku": variant_id.upper(), "location": location}
                streams[f"stock-{item['sku']}@{location}"] = item
            streams[f"sku-{variant_id.upper()}"] = {"sku": variant_id.upper()}
        streams[f"slug-{product_id}"] = {"slug": product_id}
    for order_id in ("o1", "o2"):
        streams[f"order-{order_id}"] = {"order_id": order_id}
        streams |= {f"expiry-{order_id}": {}, f"lapse-{order_id}": {}}
    streams["location-L0"] = {"location": "L0"}
    return streams


STREAMS = stream_identities()
TIMES = st.integers(-48, 48).map(lambda hours: NOON + timedelta(hours=hours))
st.register_type_strategy(int, st.integers(-5, 50))
st.register_type_strategy(str, st.text(string.ascii_letters + "é\x00", max_size=3))
st.register_type_strategy(datetime, TIMES)
CURRENCIES = st.sampled_from(["EUR", "USD"])
VARIANT_IDS = st.sampled_from([f"p{p}v{v}" for p in range(PRODUCTS) for v in range(VARIANTS_EACH)])


def events_of(stream: str, kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of the class that carries the stream's ids; folds are total, so plausible is enough."""
    given_ids = {name: st.just(value) for name, value in STREAMS[stream].items()}
    shared = {"currency": CURRENCIES, "variant_id": VARIANT_IDS}
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every event is a dataclass
    chosen = {name: strategy for name, strategy in {**shared, **given_ids}.items() if name in names}
    return st.builds(kind, **chosen)


def histories(model: ReadModel[Any]) -> st.SearchStrategy[list[list[Recorded]]]:
    """Some streams that feed the model, each a list of events in its own order."""
    streams = [stream for stream in STREAMS if category_of(stream) in model.folds]
    return st.lists(st.sampled_from(streams), unique=True, min_size=1, max_size=6).flatmap(
        lambda chosen: st.tuples(*(_history(stream) for stream in chosen)).map(list)
    )


@cache  # strategies are dear to make
def _history(stream: str) -> st.SearchStrategy[list[Recorded]]:
    union = UNIONS[category_of(stream)]
    kinds = [events_of(stream, kind) for kind in (get_args(union) or (union,))]
    return st.lists(st.tuples(st.one_of(kinds), TIMES), min_size=1, max_size=5).map(
        lambda events: [
            _recorded(stream, version, event, at) for version, (event, at) in enumerate(events, 1)
        ]
    )


def _recorded(stream: str, version: int, event: Event, at: datetime) -> Recorded:
    return Recorded(
        position=version,
        stream=stream,
        version=version,
        event_id=f"{stream}/{version}",
        context=CONTEXTS[category_of(stream)],
        lane=sum(stream.encode()) % 2,
        event=event,
        metadata=Metadata(at, Actor("system", "test"), "command", "correlation"),
        recorded_at=NOON,
    )


def rows(model: ReadModel[Any], batches: Sequence[Sequence[Recorded]]) -> dict[str, Any]:
    folded: dict[str, dict[str, Any]] = {}
    for batch in batches:
        fold(model, folded, batch)
    return {key: model.combine(parts) for key, parts in folded.items()}


@st.composite
def interleaved(draw: st.DrawFn, streams: list[list[Recorded]]) -> list[list[Recorded]]:
    """The events in any order that keeps each stream's own, in batches of any size."""
    turns = draw(st.permutations([number for number, events in enumerate(streams) for _ in events]))
    left = [iter(events) for events in streams]
    batches: list[list[Recorded]] = [[]]
    for number in turns:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(next(left[number]))
    return batches


def test_every_declared_read_model_is_listed_once() -> None:
    assert sorted(model.name for model in READ_MODELS) == [model.name for model in MODELS]


@every_model
def test_every_category_that_feeds_it_is_a_noun_of_the_shop_and_known_to_this_test(
    model: ReadModel[Any],
) -> None:
    assert set(model.folds) <= set(CONTEXTS)
    assert set(model.folds) <= {category_of(stream) for stream in STREAMS}


@every_model
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_interleaving_that_keeps_each_streams_order_gives_the_same_rows(
    model: ReadModel[Any], data: st.DataObject
) -> None:
    streams = data.draw(histories(model))
    one_by_one = [[event] for events in streams for event in events]

    assert rows(model, data.draw(interleaved(streams))) == rows(model, one_by_one)


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
def test_every_fold_names_the_class_of_its_part(model: ReadModel[Any]) -> None:
    for evolve in model.folds.values():
        part = get_type_hints(evolve)["return"]
        assert part.__dataclass_params__.frozen
        assert "__slots__" in vars(part)


def test_a_model_that_breaks_the_law_is_caught() -> None:
    """Last event wins: the row shows whichever stream came last."""
    honest = next(model for model in MODELS if model.name == "product_detail")
    last_wins = replace(honest, combine=lambda parts: [*parts][-1])
    price = PriceSet("e", "p0", "p0v0", "EUR", 100, NOON)
    streams = [[_recorded(f"price-p0v{number}", 1, price, NOON)] for number in range(2)]

    assert rows(last_wins, streams) != rows(last_wins, streams[::-1])
    assert rows(honest, streams) == rows(honest, streams[::-1])
