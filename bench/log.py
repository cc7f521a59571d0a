"""`python -m bench.log`: measures the log against others, and writes what was found.

Contenders alternate: each round runs every one of them once, every other round in reverse. Figures are
medians of the rounds.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench import growth, memory, reads
from bench.contenders import Contender, contenders
from bench.figures import figures_of
from bench.loops import Measured
from bench.machine import Stolen, require_disk, surroundings
from bench.page import PAGE, QUICK_RESULTS, RESULTS, write_json
from bench.plan import FULL, QUICK, Plan
from bench.progress import Progress
from bench.report import write_docs
from bench.scratch import add_directory, end_on_sigterm, scratch_in
from bench.seed import make_templates
from bench.server import SETTINGS, Server, server_in
from bench.worker import ROOT
from runtime.embedded.postgres import SETTINGS as EMBEDDED_SETTINGS
from runtime.process import collect_rarely


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-log", description="Measure the log against others.")
    parser.add_argument(
        "--quick", action="store_true", help="only try that it works; what it finds means nothing"
    )
    add_directory(parser)
    options = parser.parse_args()
    end_on_sigterm()
    collect_rarely()  # as our processes do, for what is read in this one
    plan = QUICK if options.quick else FULL
    require_disk(options.directory, plan.disk_gb)
    with scratch_in(options.directory) as directory, server_in(directory) as server:
        _run(server, directory, plan)


def _run(server: Server, directory: Path, plan: Plan) -> None:
    progress, stolen = Progress(), Stolen()
    around: dict[str, Any] = {
        "quick": plan.quick,
        **surroundings(directory, "umadb"),
        "postgresql_settings": {**EMBEDDED_SETTINGS, **SETTINGS},
    }
    for name, value in around.items():
        progress.says(f"{name}: {value}")
    make_templates(server)
    appends = _rounds(contenders(server, directory, plan.window), plan, progress)
    progress.round("reads")
    read = reads.measure(server, plan, progress)
    progress.round("growth")
    grown = growth.measure(server, plan, progress)
    progress.round(f"memory, {plan.memory_seconds:.0f} s at full load")
    memory_mb, commands = memory.measure(server, plan.memory_items, plan.memory_seconds)
    progress.says(f"  {'memory_mb':<36} {memory_mb:>10.1f} MB at {commands:,.0f} commands/s")

    figures = figures_of(appends, grown, read, memory_mb)
    around |= {"runs": progress.runs, "disturbed_runs": progress.disturbed, "stolen": stolen.share()}
    around |= {"plan": {name: str(getattr(plan, name)) for name in plan.__slots__}}
    results = QUICK_RESULTS if plan.quick else RESULTS
    write_json(results, "log", figures, around)
    if not plan.quick:
        write_docs(PAGE.parent, figures, around)
    progress.says(f"written to {results.relative_to(ROOT)}")


def _rounds(ways: Mapping[str, Contender], plan: Plan, progress: Progress) -> dict[str, Measured]:
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for number in range(plan.rounds):
        progress.round(f"round {number + 1} of {plan.rounds}")
        for name in list(ways)[:: -1 if number % 2 else 1]:
            progress.look()
            found[name].append(progress.ran(name, ways[name]()))
    return {name: _median(runs) for name, runs in found.items()}


def _median(runs: list[Measured]) -> Measured:
    halves = [one.p50_ms for one in runs if one.p50_ms is not None]
    longest = [one.p99_ms for one in runs if one.p99_ms is not None]
    return Measured(
        rate=median(one.rate for one in runs),
        p50_ms=median(halves) if halves else None,
        p99_ms=median(longest) if longest else None,
        conflicts=sum(one.conflicts for one in runs),
    )


if __name__ == "__main__":
    main()
