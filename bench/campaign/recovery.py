"""How long a fault was felt: looks at the house, and what they come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

LIMIT_S: Final = 2.0
STEADY_S: Final = 1.0
"""All must be well for so long before it counts as recovered: a fault may be felt late."""


@dataclass(frozen=True, slots=True)
class Look:
    """From when to when it was looked, and whether all was well: a write went through and was seen."""

    began: float
    ended: float
    well: bool

    @property
    def finds_it_well(self) -> bool:
        """A write that took as long as a recovery may take has felt the fault."""
        return self.well and self.ended - self.began < LIMIT_S


def recovered_at(looks: Sequence[Look], began: float) -> float | None:
    """When the first of the last looks that all found it well had ended; None if that is not steady yet.

    Of looks in the order they ended; one that began before the fault, and what it wrote, says nothing of it.
    """
    first = None
    for look in reversed(looks):
        if not look.finds_it_well or look.began < began:
            break
        first = look
    if first is None or looks[-1].ended - first.ended < STEADY_S:
        return None
    return first.ended


@dataclass(frozen=True, slots=True)
class Recovered:
    """Of one kind of fault; seconds."""

    kind: str
    n: int
    median_s: float
    longest_s: float

    @property
    def in_time(self) -> bool:
        return self.longest_s < LIMIT_S


def summary(seconds: Mapping[str, Sequence[float]]) -> list[Recovered]:
    """By kind, the slowest first."""
    found = [Recovered(kind, len(those), median(those), max(those)) for kind, those in seconds.items()]
    return sorted(found, key=lambda one: one.longest_s, reverse=True)


@dataclass(slots=True)
class Silence:
    """The longest time in which no answer came; `now` is monotonic, in seconds."""

    last: float
    longest: float = 0.0

    def answered(self, now: float) -> None:
        self.longest = max(self.longest, now - self.last)
        self.last = now
