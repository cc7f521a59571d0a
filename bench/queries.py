"""The read door at many products, with its cache and without, beside a door that does nothing.

Two read doors stand before the same read models: the house's own, and one that is told of no cache.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import uvloop

from bench import catalogue
from bench.asking import Kind, asked
from bench.house import CLI, House, caught_up, house_in
from bench.page import Figure
from bench.processes import peak_mb
from bench.projections_plan import Plan
from bench.samples import Samples
from bench.server import free_port
from bench.transport import Step, against
from bench.worker import ROOT
from runtime.embedded.child import LOOPBACK
from runtime.settings import PREFIX, environment_of, url_of, variable_of

REQUESTS_S: Final = "requests/s"
READY_S: Final = 30.0
LOOK_S: Final = 0.05
STOP_S: Final = 10.0
RARELY: Final = "86400"
"""Seconds between the verifier's rounds: while queries are measured, it does not use the cores."""
KINDS: Final[Sequence[Kind]] = ("query", "list")


def measure(directory: Path, plan: Plan, samples: Samples) -> None:
    samples.progress.look()
    samples.progress.round(f"an empty house, and {plan.products:,} products")
    place = directory / "queries"
    place.mkdir(mode=0o711)
    with ExitStack() as stack:
        house = stack.enter_context(house_in(place, **{variable_of("verify_every_s"): RARELY}))
        uvloop.run(catalogue.fill(house.settings.database_url, plan.products))
        uvloop.run(caught_up(house.settings, relayed=True))
        doors = {"cached": house.read, "uncached": stack.enter_context(_uncached(house, place))}
        nothing = stack.enter_context(_noop())

        def ask(name: str, kind: Kind, url: str) -> None:
            token = house.tokens["admin"]
            found = asked(url, token, kind, plan.products, plan.connections, plan.asking)
            samples.add(name, found.rate, REQUESTS_S)
            samples.add(f"{name}_p99_ms", found.p99_ms or 0, "ms")

        steps: list[Step] = [
            *(partial(ask, f"{kind}_{door}", kind, url) for kind in KINDS for door, url in doors.items()),
            partial(ask, "noop", "noop", nothing),
        ]
        for number in range(plan.house_rounds):
            samples.progress.round(f"round {number + 1} of {plan.house_rounds}, queries")
            for step in steps[:: -1 if number % 2 else 1]:
                step()
        samples.add("read_door_memory_mb", peak_mb(house.pids()["read-api"]), "MB")


def figures_of(medians: Mapping[str, float]) -> Iterator[Figure]:
    for kind in KINDS:
        for door in ("cached", "uncached"):
            name = f"{kind}_{door}"
            yield against(name, medians, REQUESTS_S, "noop", medians["noop"])
            yield Figure(f"{name}_p99_ms", round(medians[f"{name}_p99_ms"], 2), "ms")
    yield Figure("noop_p99_ms", round(medians["noop_p99_ms"], 2), "ms")


@contextmanager
def _uncached(house: House, place: Path) -> Iterator[str]:
    """A read door whose home is another: the house's settings would name its cache."""
    settings = house.settings.model_copy(
        update={"cache_url": None, "home": place / "no_home", "read_port": free_port()}
    )
    url = url_of(settings.host, settings.read_port)
    with _process([*CLI, "read-api"], environment_of(settings), f"{url}/readyz"):
        yield url


@contextmanager
def _noop() -> Iterator[str]:
    port = free_port()
    url = url_of(LOOPBACK, port)
    with _process([sys.executable, "-m", "bench.noop", str(port)], {}, f"{url}/v1/nothing/0"):
        yield url


@contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str], ready: str) -> Iterator[None]:
    """RuntimeError if it does not answer there in time."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    door = subprocess.Popen(command, cwd=ROOT, env=ours | dict(environment))  # noqa: S603 - our own
    try:
        _wait(ready, door)
        yield
    finally:
        door.terminate()
        try:
            door.wait(STOP_S)
        finally:
            door.kill()
            door.wait()


def _wait(url: str, door: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, timeout=READY_S) as client:
        while time.monotonic() < deadline and door.poll() is None:
            try:
                if client.get(url).is_success:
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            time.sleep(LOOK_S)
    raise RuntimeError(f"nothing answers at {url}")
