"""The house that is struck: all of `tallybook up`, with a second relay and a second projector.

Its supervisor, the one of `up`, runs in this process, so that a process can be started again with a variable
more in its environment, and a broker without what it knew.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from bench.campaign.schedule import BROKER, PROJECTOR, RELAY
from bench.house import free_port_base
from runtime.embedded.child import ChildSpec
from runtime.home import Home
from runtime.settings import Settings, UpSettings, url_of, variable_of
from runtime.supervisor import ProcessRecord, locked, records_of, supervise
from runtime.up import Broker, Ports, plan_house

WRITE_APIS: Final = 2
VERIFY_EVERY_S: Final = 15.0
START_S: Final = 90.0
SECOND_PORTS: Final = {RELAY: 20, PROJECTOR: 21}
"""After the base: where the second one tells its figures."""
POINT: Final = "TALLYBOOK_CRASH_AT"


@dataclass(slots=True)
class House:
    """`environments`: by process, what it is started with the next time."""

    home: Home
    settings: Settings
    ports: Ports
    broker: Broker
    specs: Mapping[str, ChildSpec]
    environments: Mapping[str, dict[str, str]]
    forgets: bool = False

    @property
    def write_urls(self) -> Sequence[str]:
        return [url_of(self.settings.host, port) for port in self.ports.write]

    def door_of(self, role: str) -> str:
        """Where it asks: auditors at the audit door, all others at the read door."""
        port = self.settings.audit_port if role == "auditor" else self.settings.read_port
        return url_of(self.settings.host, port)

    def record(self, name: str) -> ProcessRecord | None:
        """Of the process of this name, if it runs."""
        return next((one for one in records_of(self.home) if one.name == name and one.find()), None)

    def process(self, name: str) -> psutil.Process:
        """LookupError if it does not run."""
        record = self.record(name)
        if record is None or (found := record.find()) is None:
            raise LookupError(f"{name} does not run")
        return found

    def metrics_url(self, name: str) -> str:
        return f"{url_of(self.settings.host, self.specs[name].port or 0)}/metrics"

    def crash_at(self, name: str, point: str) -> None:
        """The next time it is started, and until `crash_nowhere`."""
        self.environments[name][POINT] = point

    def crash_nowhere(self, name: str) -> None:
        self.environments[name].pop(POINT, None)

    async def until_other(self, name: str, than: int, seconds: float) -> int:
        """The process id of the next one. TimeoutError."""
        async with asyncio.timeout(seconds):
            while (record := self.record(name)) is None or record.pid == than:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
            return record.pid


@asynccontextmanager
async def house_in(directory: Path, broker: Broker) -> AsyncIterator[House]:
    """Empty and ready. Whatever happens, nothing of it is left running. Raises CannotStart."""
    for name in [name for name in os.environ if name.startswith(variable_of(""))]:
        del os.environ[name]  # what it says of another house
    home = Home(directory / "home")
    wishes = UpSettings(home=home.path, kafka_recreate_topics=True, verify_every_s=VERIFY_EVERY_S)
    ports = Ports(free_port_base(), WRITE_APIS)
    ready = asyncio.Event()
    with locked(home):
        plan = await plan_house(home, wishes, ports, broker)
        processes = [
            *plan.processes,
            *(_second(spec, home, ports) for spec in plan.processes if spec.name in SECOND_PORTS),
        ]
        processes = [replace(spec, environment=dict(spec.environment)) for spec in processes]
        house = House(
            home,
            plan.settings,
            ports,
            broker,
            {spec.name: spec for spec in (*plan.services, *processes)},
            {spec.name: _own(spec) for spec in processes},
        )
        services = [_forgetful(house, spec) if spec.name == BROKER else spec for spec in plan.services]

        async def all_ready() -> None:
            ready.set()

        running = asyncio.create_task(supervise(home, ((services, plan.prepare), (processes, all_ready))))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({running, waiting}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if not ready.is_set():
                await _end(running)
                raise TimeoutError(f"the house was not ready in {START_S:.0f} s")
            yield house
        finally:
            waiting.cancel()
            await _end(running)


async def _end(running: asyncio.Task[None]) -> None:
    """Cancelled once, it ends what it has started; again, it would leave that. Raises what it failed with."""
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def _own(spec: ChildSpec) -> dict[str, str]:
    """The environment that a specification was given, to be changed."""
    if not isinstance(spec.environment, dict):
        raise TypeError(f"the environment of {spec.name} cannot be changed")
    return spec.environment


def _second(spec: ChildSpec, home: Home, ports: Ports) -> ChildSpec:
    name, port = f"{spec.name} 2", ports.base + SECOND_PORTS[spec.name]
    environment = {**spec.environment, variable_of("metrics_port"): str(port)}
    return replace(spec, name=name, environment=environment, port=port, log=home.log(name.replace(" ", "-")))


def _forgetful(house: House, spec: ChildSpec) -> ChildSpec:
    """Starts without what it knew, if it was told to forget."""

    async def before_start() -> None:
        if house.forgets:
            await asyncio.to_thread(shutil.rmtree, house.home.kafka / "data", ignore_errors=True)
            house.forgets = False
        if spec.before_start:
            await spec.before_start()

    return replace(spec, before_start=before_start)


def figure_of(text: str, name: str) -> float:
    """The sum of a metric's samples, in Prometheus's text."""
    lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)
