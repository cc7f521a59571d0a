"""The one way to fold events into rows, for the projector and for whoever checks it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from domain import CONTEXTS, UNIONS
from domain.envelope import Recorded
from domain.values import category_of
from projections.ports import ReadModel

Model = ReadModel[Any]
Parts = dict[str, Any]
"""The parts of one row, by stream; a counter's by category and lane."""

NO_PARTS: Final[Mapping[str, Any]] = {}


def contexts_of(model: Model) -> tuple[str, ...]:
    """The contexts that feed it, sorted."""
    return tuple(sorted({CONTEXTS[category] for category in model.folds}))


def types_of(model: Model) -> Sequence[str]:
    """The stored names of the events that may feed it, sorted."""
    unions = [UNIONS[category] for category in model.folds]
    return sorted(event.TYPE for union in unions for event in get_args(union) or (union,))


def keys_of(model: Model, recorded: Recorded) -> tuple[str, ...]:
    """The keys of the rows that the event feeds."""
    return tuple(model.keys(recorded)) if category_of(recorded.stream) in model.folds else ()


def every(_key: str) -> bool:
    return True


def fold(
    model: Model,
    rows: dict[str, Parts],
    events: Iterable[Recorded],
    wanted: Callable[[str], bool] = every,
) -> set[str]:
    """Folds the events into `rows` (parts by key) and returns the keys of those that changed.

    `wanted`: the keys that count; what an event feeds besides is left out.
    """
    changed = set()
    folds, counter, keys = model.folds, model.counter, model.keys
    for recorded in events:
        stream = recorded.stream
        category = category_of(stream)
        evolve: Any = folds.get(category)
        if evolve is None:
            continue
        # One worker at a time writes a part: a stream's is its own, a counter's is all of a lane's.
        name = f"{category}-{recorded.lane}" if counter else stream
        for key in keys(recorded):
            if not wanted(key):
                continue
            parts = rows.setdefault(key, {})
            before = parts.get(name)
            after = evolve(before, recorded, key) if counter else evolve(before, recorded)
            if after != before:
                parts[name] = after
                changed.add(key)
    return changed
