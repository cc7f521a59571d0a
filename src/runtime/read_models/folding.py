"""The one way to fold events into rows, for the projector and for whoever checks it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from domain import CONTEXTS
from domain.envelope import Recorded
from domain.values import category_of
from projections.ports import ReadModel

Model = ReadModel[Any]
Parts = dict[str, Any]
"""The parts of one row, by stream."""

NO_PARTS: Final[Mapping[str, Any]] = {}


def contexts_of(model: Model) -> tuple[str, ...]:
    """The contexts that feed it, sorted."""
    return tuple(sorted({CONTEXTS[category] for category in model.folds}))


def keys_of(model: Model, recorded: Recorded) -> tuple[str, ...]:
    """The keys of the rows that the event feeds."""
    return tuple(model.keys(recorded)) if category_of(recorded.stream) in model.folds else ()


def fold(model: Model, rows: dict[str, Parts], events: Iterable[Recorded]) -> set[str]:
    """Folds the events into `rows` (parts by key) and returns the keys of those that changed."""
    changed = set()
    for recorded in events:
        for key in keys_of(model, recorded):
            parts = rows.setdefault(key, {})
            before = parts.get(recorded.stream)
            after = model.folds[category_of(recorded.stream)](before, recorded)
            if after != before:
                parts[recorded.stream] = after
                changed.add(key)
    return changed
