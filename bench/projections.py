"""`python -m bench.projections`: measures the way from the log to the read models, and what they answer.

Contenders alternate: each round runs every one of them once, every other round in reverse. Figures are
medians of the rounds. Parts may be measured one by one: the others' figures stay as they were.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import backlog, from_log, projections_report, queries, transport, visible
from bench.machine import Stolen, require_disk, surroundings
from bench.page import PAGE, QUICK_RESULTS, RESULTS, Figure, read_json, write_between, write_json
from bench.progress import Progress
from bench.projections_plan import FULL, QUICK, Plan
from bench.projections_report import BEGIN, END
from bench.samples import Samples
from bench.scratch import add_directory, end_on_sigterm, scratch_in
from bench.server import SETTINGS, server_in
from bench.worker import ROOT
from runtime.embedded.postgres import SETTINGS as EMBEDDED_SETTINGS
from runtime.process import collect_rarely

NAME: Final = "projections"
MEMORY: Final = "_memory_mb"
Part = Callable[[Path, Plan, Samples], Iterable[Figure]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-projections", description="Measure the way from the log to the read models."
    )
    parser.add_argument(
        "--quick", action="store_true", help="only try that it works; what it finds means nothing"
    )
    parser.add_argument(
        "--only",
        type=_parts,
        default=tuple(PARTS),
        help=f"of {','.join(PARTS)}; the others stay as they were",
    )
    add_directory(parser)
    options = parser.parse_args()
    end_on_sigterm()
    collect_rarely()  # as our processes do, for what is read in this one
    plan = QUICK if options.quick else FULL
    require_disk(options.directory, plan.disk_gb)
    progress = Progress()
    with scratch_in(options.directory) as directory:
        figures, around = measured(directory, plan, options.only, progress)
    results = QUICK_RESULTS if plan.quick else RESULTS
    figures, around = merged(results, figures, around)
    write_json(results, NAME, figures, around)
    if not plan.quick:
        write_between(PAGE, BEGIN, projections_report.told(figures, around), END)
    progress.says(f"written to {results.relative_to(ROOT)}")


def _parts(given: str) -> Sequence[str]:
    chosen = given.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}")
    return [name for name in PARTS if name in chosen]


def measured(
    directory: Path, plan: Plan, parts: Sequence[str], progress: Progress
) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of these parts, and what they were measured on."""
    stolen = Stolen()
    around: dict[str, Any] = {
        "quick": plan.quick,
        **surroundings(directory, "kafka-python", "crc32c"),
        "postgresql_settings": {**EMBEDDED_SETTINGS, **SETTINGS},
        "plan": {name: str(getattr(plan, name)) for name in plan.__slots__},
    }
    for name, value in around.items():
        progress.says(f"{name}: {value}")
    figures: list[Figure] = []
    samples = Samples(progress)
    for name in parts:
        figures += PARTS[name](directory, plan, samples)
    figures += _memory(samples)
    around |= {"runs": progress.runs, "disturbed_runs": progress.disturbed, "stolen": stolen.share()}
    around["cores"] = samples.cores
    return figures, around | {"parts": dict.fromkeys(parts, around["date"])}


def _with_backlog(
    measure: Callable[[Any, Path, Plan, Samples], None],
    figures_of: Callable[[Mapping[str, float]], Iterable[Figure]],
) -> Part:
    def part(directory: Path, plan: Plan, samples: Samples) -> Iterable[Figure]:
        place = directory / measure.__module__
        place.mkdir(mode=0o711)
        with server_in(place) as server:
            samples.progress.round(f"a backlog of {plan.events:,} events")
            backlog.make(server, plan.events)
            measure(server, place, plan, samples)
        return figures_of(samples.medians())

    return part


def _visible(directory: Path, plan: Plan, samples: Samples) -> Iterable[Figure]:
    visible.measure(directory, plan, samples)
    return visible.figures_of(samples.medians())


def _queries(directory: Path, plan: Plan, samples: Samples) -> Iterable[Figure]:
    queries.measure(directory, plan, samples)
    return queries.figures_of(samples.medians())


def _memory(samples: Samples) -> Iterator[Figure]:
    for name, most in samples.highest().items():
        if name.endswith(MEMORY):
            yield Figure(name, round(most, 1), "MB")


def merged(
    results: Path, figures: Sequence[Figure], around: dict[str, Any]
) -> tuple[list[Figure], dict[str, Any]]:
    """With what was found before of parts that were not measured now; of the memory the higher counts."""
    there, told = read_json(results, NAME)
    if around["parts"].keys() == PARTS.keys() or not there:
        return list(figures), around
    before = {figure.figure: figure for figure in there}
    now = {
        figure.figure: max(figure, before.get(figure.figure, figure), key=lambda one: one.value)
        if figure.figure.endswith(MEMORY)
        else figure
        for figure in figures
    }
    both = {name: told.get(name, {}) | around[name] for name in ("parts", "cores")}
    return list((before | now).values()), around | both


PARTS: Final[Mapping[str, Part]] = {
    "transport": _with_backlog(transport.measure, transport.figures_of),
    "log": _with_backlog(from_log.measure, from_log.figures_of),
    "visible": _visible,
    "query": _queries,
}


if __name__ == "__main__":
    main()
