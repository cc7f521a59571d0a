"""What was found of the way to the read models, as docs/benchmarks.md shows it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.page import Figure, at_most, measured_on, number

BEGIN: Final = "<!-- projections: written by `make bench-projections` -->"
END: Final = "<!-- end of projections -->"

TOLD_CORES: Final = 0.05

AIMS: Final[Mapping[str, float]] = {
    "projector_kafka": 0.3,
    "catch_up": 60.0,
    "rebuild": 0.12,
}
"""What a ratio is meant to be at least."""
LIMITS: Final[Mapping[str, float]] = {
    "visible_p99_ms_500": 100.0,
    "visible_embedded_p99_ms_500": 100.0,
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
        "",
        "What used the cores, as shares of one; from 0.9 on, a process of one thread is its own limit:",
        "",
        *(f"- `{name}`: {_busiest(shares)}." for name, shares in around["cores"].items()),
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


def _busiest(shares: Mapping[str, float]) -> str:
    in_turn = sorted(shares.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {share:.2f}" for name, share in in_turn if share >= TOLD_CORES)
