"""Writes what was found: two files of JSON, a table in docs/benchmarks.md, a plot."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.figures import AIMS, LIMITS, Figure

BEGIN: Final = "<!-- figures: written by `make bench-log` -->"
END: Final = "<!-- end of figures -->"

BAR: Final = 22
LABELS: Final = 230
WIDTH: Final = 760
RIGHT: Final = 90
FONT: Final = 'font-family="sans-serif" font-size="12"'
COLOURS: Final = {True: "#2b6cb0", False: "#a0aec0"}


def write_json(directory: Path, figures: Sequence[Figure], around: Mapping[str, Any]) -> None:
    """The figures alone, as a list; the machine, the date and the versions beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "log.json").write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")
    (directory / "log.machine.json").write_text(json.dumps(around, indent=2) + "\n")


def write_docs(docs: Path, figures: Sequence[Figure], around: Mapping[str, Any]) -> None:
    """ValueError if the page has no place for the table."""
    page = docs / "benchmarks.md"
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has lost the marks between which the figures stand")
    page.write_text(f"{before}{BEGIN}\n{table(figures, around)}{END}{after}")
    (docs / "benchmarks").mkdir(exist_ok=True)
    (docs / "benchmarks" / "append.svg").write_text(plot(figures))


def table(figures: Sequence[Figure], around: Mapping[str, Any]) -> str:
    machine, versions = around["machine"], around["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    with_ = ", ".join(f"{name} {number}" for name, number in versions.items())
    disturbed = f"{around['disturbed_runs']} of {around['runs']} runs began while others used the machine"
    lines = [
        f"Measured on {around['date']}: {where}; fdatasync of 8 KiB takes {around['fdatasync_ms']} ms.",
        f"Versions: {with_}. {disturbed}; other guests had {around['stolen']:.1%} of its time.",
        "",
        "| figure | value | against | its value | ratio | aim |",
        "|---|---:|---|---:|---:|---:|",
        *(f"| {' | '.join(_cells(figure))} |" for figure in figures),
    ]
    return "\n".join(lines) + "\n"


def _cells(figure: Figure) -> Iterator[str]:
    yield f"`{figure.figure}`"
    yield f"{_number(figure.value)} {figure.unit}"
    yield f"`{figure.baseline}`" if figure.baseline else ""
    yield _number(figure.baseline_value) if figure.baseline_value is not None else ""
    yield f"{figure.ratio}" if figure.ratio is not None else ""
    if aim := AIMS.get((figure.figure, figure.baseline)):
        yield f"≥ {aim}" + (" (missed)" if (figure.ratio or 0) < aim else "")
    elif limit := LIMITS.get(figure.figure):
        yield f"≤ {limit:g} {figure.unit}" + (" (missed)" if figure.value > limit else "")
    else:
        yield ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"  # noqa: PLR2004 - from here on, commas help


def plot(figures: Sequence[Figure]) -> str:
    """Bars of what is appended a second, ours beside the others."""
    bars = dict(_bars(figures))
    longest = max(value for value, _ in bars.values())
    height = BAR * (len(bars) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LABELS}" y="{BAR - 7}" fill="#4a5568">events a second, medians</text>',
    ]
    for number, (label, (value, is_ours)) in enumerate(bars.items(), start=1):
        top, length = BAR * number, (WIDTH - LABELS - RIGHT) * value / longest
        colour = COLOURS[is_ours]
        parts += [
            f'<text x="{LABELS - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABELS}" y="{top + 2}" width="{length:.1f}" height="{BAR - 5}" fill="{colour}"/>',
            f'<text x="{LABELS + length + 6:.1f}" y="{top + 14}">{value:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(figures: Sequence[Figure]) -> Iterator[tuple[str, tuple[float, bool]]]:
    """Appends of 100 events would dwarf the others, and compare with nothing that the others do."""
    for figure in figures:
        is_append = figure.unit == "events/s" and figure.figure.startswith(("append_", "transact_"))
        if is_append and figure.figure != "append_100_events":
            yield figure.figure, (figure.value, True)
    for figure in figures:
        if figure.figure == "append_64" and figure.baseline and figure.baseline_value is not None:
            yield figure.baseline, (figure.baseline_value, False)
