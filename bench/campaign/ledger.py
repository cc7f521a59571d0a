"""What clients were told, against what the log has."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Fate = Literal["acknowledged", "refused", "unknown"]


class Effect(NamedTuple):
    """An event that only one command can have brought about: its type, and what the command put into it."""

    type: str
    mark: str


class Place(NamedTuple):
    """Where the log has, or was said to have, an event."""

    position: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Told:
    """Of one command, sent under one idempotency key as often as it took.

    A refusal counts only where all that was sent was answered: what was not may still have its effect.
    """

    effect: Effect
    fate: Fate
    places: tuple[Place, ...] = ()


@dataclass(slots=True)
class Ledger:
    told: list[Told] = field(default_factory=list)
    changed_answers: int = 0
    """Repeats of an acknowledged command that were answered otherwise."""
    stale_reads: int = 0
    """Answers that did not have what their token asked for."""


@dataclass(frozen=True, slots=True)
class Account:
    """How many commands. All but the first three must be 0."""

    acknowledged: int
    refused: int
    unknown: int
    absent: int
    twice: int
    refused_but_done: int


def account(told: Collection[Told], effects: Counter[Effect], log: Mapping[int, str]) -> Account:
    """`effects`: how often the log has each; `log`: its event ids by position."""
    fates = Counter(one.fate for one in told)
    return Account(
        acknowledged=fates["acknowledged"],
        refused=fates["refused"],
        unknown=fates["unknown"],
        absent=sum(one.fate == "acknowledged" and not _is_there(one, effects, log) for one in told),
        twice=sum(effects[one.effect] > 1 for one in told),
        refused_but_done=sum(one.fate == "refused" and effects[one.effect] > 0 for one in told),
    )


def _is_there(one: Told, effects: Counter[Effect], log: Mapping[int, str]) -> bool:
    """All of it, where it was said to be."""
    return effects[one.effect] > 0 and all(log.get(at.position) == at.event_id for at in one.places)
