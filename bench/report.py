"""What was found of the log, as docs/benchmarks.md shows it: a table, and a plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.figures import AIMS, LIMITS
from bench.page import PAGE, Figure, at_most, measured_on, number, write_between

BEGIN: Final = "<!-- figures: written by `make bench-log` -->"
END: Final = "<!-- end of figures -->"

BAR: Final = 22
LABELS: Final = 230
WIDTH: Final = 760
RIGHT: Final = 90
FONT: Final = 'font-family="sans-serif" font-size="12"'
COLOURS: Final = {True: "#2b6cb0", False: "#a0aec0"}


def write_docs(docs: Path, figures: Sequence[Figure], around: Mapping[str, Any]) -> None:
    """ValueError if the page has no place for the table."""
    write_between(docs / PAGE.name, BEGIN, table(figures, around), END)
    (docs / "benchmarks").mkdir(exist_ok=True)
    (docs / "benchmarks" / "append.svg").write_text(plot(figures))


def table(figures: Sequence[Figure], around: Mapping[str, Any]) -> str:
    lines = [
        *measured_on(around),
        "",
        "| figure | value | against | its value | ratio | aim |",
        "|---|---:|---|---:|---:|---:|",
        *(f"| {' | '.join(_cells(figure))} |" for figure in figures),
    ]
    return "\n".join(lines) + "\n"


def _cells(figure: Figure) -> Iterator[str]:
    yield f"`{figure.figure}`"
    yield f"{number(figure.value)} {figure.unit}"
    yield f"`{figure.baseline}`" if figure.baseline else ""
    yield number(figure.baseline_value) if figure.baseline_value is not None else ""
    yield f"{figure.ratio}" if figure.ratio is not None else ""
    if aim := AIMS.get((figure.figure, figure.baseline)):
        yield f"≥ {aim}" + (" (missed)" if (figure.ratio or 0) < aim else "")
    elif limit := LIMITS.get(figure.figure):
        yield at_most(figure, limit)
    else:
        yield ""


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
    for place, (label, (value, is_ours)) in enumerate(bars.items(), start=1):
        top, length = BAR * place, (WIDTH - LABELS - RIGHT) * value / longest
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
