"""What each contender reached in each round, and the median of that."""

from collections.abc import Iterable, Mapping
from statistics import median

from bench.page import number
from bench.progress import Progress


class Samples:
    """`cores`: by what was measured, what each process used of a core in the last round."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.cores: dict[str, Mapping[str, float]] = {}
        self._found: dict[str, list[float]] = {}

    def add(self, name: str, value: float, unit: str) -> None:
        self._found.setdefault(name, []).append(value)
        self.progress.says(f"  {name:<36} {number(round(value, 2)):>12} {unit}")

    def medians(self) -> Mapping[str, float]:
        return {name: median(found) for name, found in self._found.items()}

    def highest(self) -> Mapping[str, float]:
        return {name: max(found) for name, found in self._found.items()}


def best_of(medians: Mapping[str, float], names: Iterable[str]) -> float:
    """Of a contender that is tried with several settings, the best median counts."""
    return max(medians[name] for name in names)
