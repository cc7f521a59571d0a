"""What any benchmark tells: figures as JSON, beside them the machine, and a part of docs/benchmarks.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.worker import ROOT

RESULTS: Final = ROOT / "bench" / "results"
QUICK_RESULTS: Final = RESULTS / "quick"
"""Where figures go that mean nothing; git does not know it."""
PAGE: Final = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Figure:
    figure: str
    value: float
    unit: str
    baseline: str | None = None
    baseline_value: float | None = None
    ratio: float | None = None


def write_json(directory: Path, name: str, figures: Sequence[Figure], around: Mapping[str, Any]) -> None:
    """The figures alone, as a list; the machine, the date and the versions beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")
    (directory / f"{name}.machine.json").write_text(json.dumps(around, indent=2) + "\n")


def read_json(directory: Path, name: str) -> tuple[list[Figure], dict[str, Any]]:
    """What `write_json` wrote; nothing where it has not been."""
    path = directory / f"{name}.json"
    if not path.exists():
        return [], {}
    figures = [Figure(**one) for one in json.loads(path.read_text())]
    around: dict[str, Any] = json.loads((directory / f"{name}.machine.json").read_text())
    return figures, around


def write_between(page: Path, begin: str, text: str, end: str) -> None:
    """ValueError if the page has no place for the text."""
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page} has lost the marks between which the figures stand")
    page.write_text(f"{before}{begin}\n{text}{end}{after}")


def measured_on(around: Mapping[str, Any]) -> list[str]:
    """The lines at the head of a table."""
    machine, versions = around["machine"], around["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    with_ = ", ".join(f"{name} {number}" for name, number in versions.items())
    disturbed = f"{around['disturbed_runs']} of {around['runs']} runs began while others used the machine"
    return [
        f"Measured on {around['date']}: {where}; fdatasync of 8 KiB takes {around['fdatasync_ms']} ms.",
        f"Versions: {with_}. {disturbed}; other guests had {around['stolen']:.1%} of its time.",
    ]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"  # noqa: PLR2004 - from here on, commas help


def at_most(figure: Figure, limit: float) -> str:
    return f"≤ {number(limit)} {figure.unit}" + (" (missed)" if figure.value > limit else "")
