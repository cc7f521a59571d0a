"""A whole house, with each broker, while commands come at several rates; and which process is the limit."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import uvloop

from bench import catalogue
from bench.brokers import BROKERS
from bench.house import House, caught_up, house_in
from bench.page import Figure
from bench.processes import Used
from bench.projections_plan import Plan
from bench.samples import Samples
from bench.visibility import seen

MS: Final = "ms"
ANSWERS: Final = "answers"
CLIENTS: Final = "clients"
NAMES: Final[Mapping[str, str]] = {"kafka": "visible", "embedded": "visible_embedded"}
"""Production has Apache Kafka."""


def measure(directory: Path, plan: Plan, samples: Samples) -> None:
    for broker, name in NAMES.items():
        samples.progress.look()
        samples.progress.round(f"an empty house with the {broker} broker, and {plan.skus:,} SKUs")
        place = directory / name
        place.mkdir(mode=0o711)
        with house_in(place, "--kafka", BROKERS[broker]) as house:
            uvloop.run(catalogue.fill(house.settings.database_url, plan.skus))
            uvloop.run(caught_up(house.settings))
            for number in range(plan.house_rounds):
                samples.progress.round(f"round {number + 1} of {plan.house_rounds}, {name}")
                for rate in plan.rates[:: -1 if number % 2 else 1]:
                    _at(house, name, rate, plan, samples)
            used = house.used()
            for process in ("relay", "projector"):
                samples.add(f"{process}_memory_mb", used[process].peak_mb or 0, "MB")


def _at(house: House, name: str, rate: int, plan: Plan, samples: Samples) -> None:
    before = house.used()
    found = seen(house, plan.skus, rate, plan.visible_warm, plan.visible_seconds)
    cores = dict(_cores(before, house.used(), found.seconds)) | {CLIENTS: found.cpu_s / found.seconds}
    samples.cores[f"{name}_{rate}"] = {one: round(share, 2) for one, share in cores.items()}
    samples.add(f"{name}_p50_ms_{rate}", found.p50_ms, MS)
    samples.add(f"{name}_p99_ms_{rate}", found.p99_ms, MS)
    samples.add(f"{name}_written_p99_ms_{rate}", found.written_p99_ms, MS)
    samples.add(f"{name}_late_p99_ms_{rate}", found.late_p99_ms, MS)
    samples.add(f"{name}_refused_{rate}", found.refused, ANSWERS)
    busiest = sorted(cores.items(), key=lambda one: -one[1])[:4]
    samples.progress.says("    of a core: " + ", ".join(f"{one} {share:.2f}" for one, share in busiest))


def _cores(
    before: Mapping[str, Used], after: Mapping[str, Used], seconds: float
) -> Iterator[tuple[str, float]]:
    for process, used in after.items():
        if process in before:
            yield process, (used.cpu_s - before[process].cpu_s) / seconds


def figures_of(medians: Mapping[str, float]) -> Iterator[Figure]:
    for name, value in medians.items():
        if name.startswith(tuple(NAMES.values())):
            yield Figure(name, round(value, 2), ANSWERS if "_refused_" in name else MS)
