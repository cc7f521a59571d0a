"""A read model made from the log alone: by a projector that begins with nothing, and by `tallybook rebuild`.

Beside them the `eventsourcing` library's runner, and PostgreSQL's own COPY of the same rows of the log.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from bench import backlog, projecting, rebuilds, runner
from bench.page import Figure
from bench.projections_plan import Plan
from bench.reads import copy_all
from bench.samples import Samples
from bench.server import Server
from bench.transport import EVENTS_S, FED, MB, Step, against, settings_on
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.embedded.child import LOOPBACK

SERVED: Final = "bench_served"
NO_TEMPLATE: Final = "template1"
_numbers: Final = count()


def measure(server: Server, directory: Path, plan: Plan, samples: Samples) -> None:
    """`rebuild` makes anew what an earlier catch-up has made."""
    log_url = server.service_url(backlog.LOG)
    model = (STOCK_AVAILABILITY.name,)
    with ExitStack() as stack:
        served = server.service_url(stack.enter_context(server.database(SERVED, backlog.EMPTY_READ)))
        projecting.caught_up(log_url, served, model)

        def caught_up(name: str, models: tuple[str, ...]) -> None:
            with server.database(f"caught_up_{next(_numbers)}", backlog.EMPTY_READ) as database:
                done = projecting.caught_up(log_url, server.service_url(database), models)
            samples.add(name, done.rate, EVENTS_S)
            samples.add("projector_memory_mb", done.peak_mb, MB)

        def ran() -> None:
            with server.database(f"runner_{next(_numbers)}", NO_TEMPLATE) as database:
                rate = runner.measure(server.url(database), plan.runner_events)
            samples.add("eventsourcing_runner", rate, EVENTS_S)

        def rebuilt() -> None:
            settings = settings_on(directory, log_url, served, LOOPBACK)
            done = rebuilds.remade(settings, STOCK_AVAILABILITY.name)
            samples.add("rebuild", plan.events / done.seconds, EVENTS_S)
            samples.add("rebuild_memory_mb", done.peak_mb, MB)

        def copied() -> None:
            samples.add("copy", copy_all(server.url(backlog.LOG)), "rows/s")

        steps: list[Step] = [
            partial(caught_up, "catch_up", model),
            ran,
            rebuilt,
            copied,
            partial(caught_up, "catch_up_all", FED),
        ]
        for number in range(plan.rounds):
            samples.progress.round(f"round {number + 1} of {plan.rounds}, from the log")
            for step in steps[:: -1 if number % 2 else 1]:
                samples.progress.look()
                step()


def figures_of(medians: Mapping[str, float]) -> Iterator[Figure]:
    for name in ("catch_up", "catch_up_all"):
        yield against(name, medians, EVENTS_S, "eventsourcing_runner", medians["eventsourcing_runner"])
    yield against("rebuild", medians, EVENTS_S, "copy", medians["copy"])
