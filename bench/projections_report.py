"""What was found of the way to the read models, as docs/benchmarks.md shows it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.page import Figure, at_most, measured_on, number

BEGIN: Final = "<!-- projections: written by `make bench-projections` -->"
END: Final = "<!-- end of projections -->"

AIMS: Final[Mapping[str, float]] = {
    "projector_kafka": 0.3,
    "catch_up": 60.0,
    "rebuild": 0.12,
}
"""What a ratio is meant to be at least."""
LIMITS: Final[Mapping[str, float]] = {
    "relay_memory_mb": 200.0,
    "projector_memory_mb": 200.0,
}
"""What a figure is meant to be at most."""


def told(figures: Sequence[Figure], around: Mapping[str, Any]) -> str:
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
    yield f"{figure.ratio:g}" if figure.ratio is not None else ""
    if (aim := AIMS.get(figure.figure)) is not None:
        yield f"≥ {aim:g}" + (" (missed)" if (figure.ratio or 0) < aim else "")
    elif (limit := LIMITS.get(figure.figure)) is not None:
        yield at_most(figure, limit)
    else:
        yield ""
