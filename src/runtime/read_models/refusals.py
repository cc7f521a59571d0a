"""Folding that survives an event which a fold refuses: its stream stops there, the others go on.

All events of a step are folded at once, as if no fold ever refused. Only where one does, all is done again
one event at a time, and every row is made after each, so that the one is found.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from domain.envelope import Recorded
from domain.values import category_of
from runtime.log.reading import Undecodable
from runtime.read_models.folding import Parts, fold, keys_of
from runtime.read_models.tables import Table

MAX_ERROR_CHARS: Final = 1_000

Arriving = Recorded | Undecodable
"""An event as it comes to a fold."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first event of its stream that is not folded, and why."""

    event: Arriving
    cause: Exception

    @property
    def error(self) -> str:
        """In bounded length, and as PostgreSQL can store it."""
        text = f"{type(self.cause).__name__}: {self.cause}".replace("\0", r"\0")[:MAX_ERROR_CHARS]
        return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Folded:
    """`values`: of the rows that changed, by key in order: their parts as stored, and the columns.

    `refusals`: one a stream, in the order of the log.
    """

    values: Mapping[str, Sequence[object]]
    refusals: Sequence[Refusal] = field(default_factory=tuple)


def keys_to_lock(table: Table, events: Sequence[Arriving]) -> list[str]:
    """In order; an event that refuses to tell its keys has none."""
    with suppress(Exception):  # as in `fold_or_refuse`, which says what
        return sorted({key for event in _decoded(table, events) for key in keys_of(table.model, event)})
    return sorted({key for event in events for key in _keys_or_none(table, event)})


def fold_or_refuse(table: Table, stored: Mapping[str, bytes], events: Sequence[Arriving]) -> Folded:
    """`stored`: the parts of those rows that are there. Raises MemoryError: that is not the event's fault."""
    with suppress(Exception):  # a fold may raise anything; one by one it is found what
        rows = {key: table.decode(parts) for key, parts in stored.items()}
        return Folded(_values(table, rows, _decoded(table, events)))
    return _one_by_one(table, {key: table.decode(parts) for key, parts in stored.items()}, events)


def _one_by_one(table: Table, rows: dict[str, Parts], events: Sequence[Arriving]) -> Folded:
    values: dict[str, Sequence[object]] = {}
    refused: dict[str, Refusal] = {}
    for event in events:
        if event.stream in refused:
            continue
        try:
            recorded = _decoded(table, [event])
            keys = [key for one in recorded for key in keys_of(table.model, one)]
            tried = {key: dict(rows[key]) for key in keys if key in rows}
            changed = _values(table, tried, recorded)
        except MemoryError:
            raise
        except Exception as cause:  # noqa: BLE001 - a fold may raise anything; it is stored and told
            refused[event.stream] = Refusal(event, cause)
        else:
            rows |= tried
            values |= changed
    return Folded(dict(sorted(values.items())), tuple(refused.values()))


def _values(table: Table, rows: dict[str, Parts], events: Sequence[Recorded]) -> dict[str, Sequence[object]]:
    changed = sorted(fold(table.model, rows, events))
    return {key: table.values(rows[key]) for key in changed}


def _decoded(table: Table, events: Sequence[Arriving]) -> Sequence[Recorded]:
    """Without what concerns another read model only. Raises the codec's errors."""
    recorded = [event for event in events if isinstance(event, Recorded)]
    if len(recorded) < len(events):
        for event in events:
            if isinstance(event, Undecodable) and category_of(event.stream) in table.model.folds:
                raise event.cause
    return recorded


def _keys_or_none(table: Table, event: Arriving) -> Sequence[str]:
    try:
        return [key for one in _decoded(table, [event]) for key in keys_of(table.model, one)]
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a fold may raise anything; `fold_or_refuse` says what
        return ()
