"""The law of interleaving, and random histories to try it on; the read models are found, not listed."""

import importlib
import pkgutil
import string
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args

from hypothesis import strategies as st

import projections
from domain import CONTEXTS, UNIONS
from domain.envelope import Actor, Metadata, Recorded
from domain.order import ImportedLine, OrderLine
from domain.values import Event, category_of
from projections import READ_MODELS
from projections.ports import ReadModel
from runtime.read_models.folding import fold

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRODUCTS, VARIANTS_EACH, PLACES, ORDERS = 2, 2, 2, 4


def declared() -> Iterator[ReadModel[Any]]:
    """Each once, wherever in the package it is made, and wherever else it is named."""
    seen = set()
    for module in pkgutil.walk_packages(projections.__path__, "projections."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, ReadModel) and id(value) not in seen:
                seen.add(id(value))
                yield value


def unlisted() -> list[str]:
    """The names of those that are declared and that nobody would fold."""
    listed = {id(model) for model in READ_MODELS}
    return [model.name for model in declared() if id(model) not in listed]


MODELS = sorted(declared(), key=lambda model: model.name)


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
    for order_id in (f"o{number}" for number in range(ORDERS)):
        streams[f"order-{order_id}"] = {"order_id": order_id}
        streams |= {f"expiry-{order_id}": {}, f"lapse-{order_id}": {}}
    streams["location-L0"] = {"location": "L0"}
    return streams


Folding = Callable[[ReadModel[Any], dict[str, dict[str, Any]], Sequence[Recorded]], object]
STREAMS = stream_identities()
TIMES = st.integers(-48, 48).map(lambda hours: NOON + timedelta(hours=hours))
st.register_type_strategy(int, st.integers(-5, 50))
st.register_type_strategy(str, st.text(string.ascii_letters + "é\x00", max_size=3))
st.register_type_strategy(datetime, TIMES)
CURRENCIES = st.sampled_from(["EUR", "USD"])
LOCATIONS = st.sampled_from([f"L{number}" for number in range(PLACES)])
for line in (OrderLine, ImportedLine):
    st.register_type_strategy(line, st.builds(line, location=LOCATIONS))


def events_of(stream: str, kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of the class that carries the stream's ids; folds are total, so plausible is enough."""
    given_ids = {name: st.just(value) for name, value in STREAMS[stream].items()}
    product_id = STREAMS[stream].get("product_id", "p0")
    variant_ids = st.sampled_from([f"{product_id}v{number}" for number in range(VARIANTS_EACH)])
    shared = {"currency": CURRENCIES, "variant_id": variant_ids}
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every event is a dataclass
    chosen = {name: strategy for name, strategy in {**shared, **given_ids}.items() if name in names}
    return st.builds(kind, **chosen)


def histories(model: ReadModel[Any]) -> st.SearchStrategy[list[list[Recorded]]]:
    """Some streams that feed the model, each a list of events in its own order.

    They are any, or such as have to do with one product: these share rows.
    """
    streams = [stream for stream in STREAMS if category_of(stream) in model.folds]
    akin = [[one for one in streams if STREAMS[one].get("product_id") == f"p{p}"] for p in range(PRODUCTS)]
    return (
        st.sampled_from([streams, *filter(None, akin)])
        .flatmap(lambda some: st.lists(st.sampled_from(some), unique=True, min_size=1, max_size=6))
        .flatmap(lambda chosen: st.tuples(*(history_of(stream) for stream in chosen)).map(list))
    )


def kinds_of(category: str) -> tuple[type[Event], ...]:
    """Every event of the noun."""
    union = UNIONS[category]
    return get_args(union) or (union,)


@cache  # strategies are dear to make
def history_of(stream: str) -> st.SearchStrategy[list[Recorded]]:
    kinds = [events_of(stream, kind) for kind in kinds_of(category_of(stream))]
    return st.lists(st.tuples(st.one_of(kinds), TIMES), min_size=1, max_size=5).map(
        lambda events: [recorded(stream, version, event, at) for version, (event, at) in enumerate(events, 1)]
    )


def recorded(stream: str, version: int, event: Event, at: datetime) -> Recorded:
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


def rows(
    model: ReadModel[Any], batches: Sequence[Sequence[Recorded]], folding: Folding = fold
) -> dict[str, Any]:
    folded: dict[str, dict[str, Any]] = {}
    for batch in batches:
        folding(model, folded, batch)
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


def keeps_the_law(model: ReadModel[Any], data: st.DataObject, folding: Folding = fold) -> bool:
    """Whether one more interleaving of one more history gives the rows that stream after stream gives."""
    streams = data.draw(histories(model))
    one_by_one = [[event] for events in streams for event in events]
    mixed = rows(model, data.draw(interleaved(streams)), folding)
    return mixed == rows(model, one_by_one, folding)


def spares_what_it_is_given(model: ReadModel[Any], data: st.DataObject) -> bool:
    """Whether no fold of one more history changes a part it is given, nor `combine` what it looks at."""
    spared = True

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watching(given: object, *rest: object) -> object:
            nonlocal spared
            before = deepcopy(given)
            made = work(given, *rest)
            spared = spared and given == before
            return made

        return watching

    folds = {category: watched(evolve) for category, evolve in model.folds.items()}
    streams = data.draw(histories(model))
    rows(replace(model, folds=folds, combine=watched(model.combine)), streams)
    return spared
