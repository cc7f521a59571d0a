"""The year, as docs/benchmarks.md shows it: the figures, and where the time went, process by process."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.answers import LISTS
from bench.page import Figure, at_most, measured_on, number

BEGIN: Final = "<!-- year: written by `make bench-year` -->"
END: Final = "<!-- end of year -->"
IMPORTER: Final = "import"
BUSY_CORES: Final = 0.9
"""A process of one thread that uses so much of a core is its own limit."""

LIMITS: Final[Mapping[str, float]] = {
    "year_seconds": 360,
    "restarts": 0,
    "feed_growth_mb": 50,
    "verify_differing": 0,
    "rebuild_differing": 0,
    **{f"list_{name}_p99_ms": 30 for name in LISTS},
}
"""What a figure is meant to be at most."""
AIMS: Final[Mapping[str, float]] = {"replay_events_per_second": 50_000}
"""What a figure is meant to be at least."""


def told(figures: Sequence[Figure], around: Mapping[str, Any]) -> str:
    values = {figure.figure: figure.value for figure in figures}
    lines = [
        *measured_on(around),
        "",
        "| figure | value | aim |",
        "|---|---:|---:|",
        *(f"| `{one.figure}` | {number(one.value)} {one.unit} | {_aim(one)} |" for one in figures),
        "",
        _limit_of_replay(values["replay_cores"]),
        "",
        "Where the time goes until the read models have the year, process by process:",
        "",
        "| process | user | system | of a core | memory |",
        "|---|---:|---:|---:|---:|",
        *_processes(around["processes"], values["year_seconds"]),
    ]
    return "\n".join(lines) + "\n"


def _aim(figure: Figure) -> str:
    if figure.figure in LIMITS:
        return at_most(figure, LIMITS[figure.figure])
    if figure.figure in AIMS:
        aim = AIMS[figure.figure]
        return f"≥ {number(aim)} {figure.unit}" + (" (missed)" if figure.value < aim else "")
    return ""


def _limit_of_replay(cores: float) -> str:
    limit = "its own process" if cores >= BUSY_CORES else "waiting for PostgreSQL, on top of its own process"
    return f"The replay uses {cores:g} of a core: what limits it is {limit}."


def _processes(used: Mapping[str, Mapping[str, Any]], seconds: float) -> Iterator[str]:
    def cpu(one: Mapping[str, Any]) -> float:
        return float(one["user_s"] + one["system_s"])

    for name, one in sorted(used.items(), key=lambda each: -cpu(each[1])):
        memory = "" if one["peak_mb"] is None else f"{number(round(one['peak_mb']))} MB"
        share = cpu(one) / seconds
        yield f"| {name} | {one['user_s']:.1f} s | {one['system_s']:.1f} s | {share:.2f} | {memory} |"
