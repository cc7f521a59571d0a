"""`python -m bench.log`: measures the log against others, and writes what was found.

Contenders alternate: each round runs every one of them once, every other round in reverse. Figures are
medians of the rounds.
"""

import argparse
import contextlib
import signal
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from bench import growth, memory, reads
from bench.contenders import Contender, contenders
from bench.figures import figures_of
from bench.loops import Measured
from bench.machine import Stolen, fdatasync_ms, machine, require_disk, versions
from bench.plan import FULL, QUICK, Plan
from bench.progress import Progress
from bench.report import write_docs, write_json
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
    parser.add_argument(
        "--directory", type=Path, default=tempfile.gettempdir(), help="the disk to measure on (%(default)s)"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    collect_rarely()  # as our processes do, for what is read in this one
    plan = QUICK if options.quick else FULL
    require_disk(options.directory, plan.disk_gb)
    with _directory(options.directory) as directory, server_in(directory) as server:
        _run(server, directory, plan)


def _end(_signal: int, _frame: FrameType | None) -> None:
    """As Ctrl-C does: stop the servers, remove the directory."""
    raise SystemExit("ended")


@contextlib.contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    """One that any account may enter: root's PostgreSQL is nobody's."""
    with tempfile.TemporaryDirectory(
        prefix="tallybook-bench-", dir=parent, ignore_cleanup_errors=True
    ) as made:
        Path(made).chmod(0o711)
        yield Path(made)


def _run(server: Server, directory: Path, plan: Plan) -> None:
    progress, stolen = Progress(), Stolen()
    around: dict[str, Any] = {
        "quick": plan.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(server.version()),
        "postgresql_settings": {**EMBEDDED_SETTINGS, **SETTINGS},
        "fdatasync_ms": fdatasync_ms(directory),
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
    results = ROOT / "bench" / "results" / ("quick" if plan.quick else "")
    write_json(results, figures, around)
    if not plan.quick:
        write_docs(ROOT / "docs", figures, around)
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
