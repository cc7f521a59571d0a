"""Read models whose folds refuse some events, until they are mended."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from typing import Any

from domain.envelope import Recorded
from projections.ports import ReadModel


class Poison(Exception):
    """What a poisoned fold raises."""


def poisoned(model: ReadModel[Any], refused: Collection[str]) -> ReadModel[Any]:
    """The same declaration, in the same tables. `refused`: event ids; taking one out mends the fold."""
    folds = {category: _refusing(fold, refused) for category, fold in model.folds.items()}
    return replace(model, folds=folds)


def _refusing(fold: Callable[..., Any], refused: Collection[str]) -> Callable[..., Any]:
    @wraps(fold)
    def refusing(part: Any, recorded: Recorded, *key: str) -> Any:
        if recorded.event_id in refused:
            raise Poison(recorded.event_id)
        return fold(part, recorded, *key)

    return refusing
