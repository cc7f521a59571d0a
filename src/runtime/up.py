"""`tallybook up`: a whole house on one machine."""

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import httpx

from runtime import migrate
from runtime.databases import require
from runtime.embedded.apache_kafka.node import ApacheKafka
from runtime.embedded.broker import broker_spec
from runtime.embedded.cache import cache_spec, new_cache_url
from runtime.embedded.child import LOOPBACK, ChildSpec, PortTaken
from runtime.embedded.postgres import SERVICE, EmbeddedPostgres, create_databases
from runtime.fork_server import OURS
from runtime.home import Home, write_private
from runtime.process import SUPERVISOR_VARIABLE, CannotStart
from runtime.secrets import Secrets, secrets_of
from runtime.settings import Settings, UpSettings, environment_of, url_of, variable_of
from runtime.supervisor import Stage, locked, supervise

logger = logging.getLogger(__name__)

LOG_DATABASE: Final = "tallybook_log"
READ_DATABASE: Final = "tallybook_read"
DATABASES: Final = (
    "migration_database_url",
    "read_migration_database_url",
    "database_url",
    "read_database_url",
)
Broker = Literal["embedded", "apache"]
"""The one in memory from a wheel, or Apache Kafka from its jars."""
PROBE_SECONDS: Final = 2.0
STOP_SECONDS: Final = 4.0  # of a process; the whole house stops within 10 s


class TwoBrokers(CannotStart):
    """A broker is named, and another is asked for."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All ports of a house follow from one number: doors, services, metrics, further write doors."""

    base: int
    write_apis: int

    @property
    def write(self) -> tuple[int, ...]:
        return (self.base + 1, *(self.base + 10 + n for n in range(1, self.write_apis)))

    @property
    def read(self) -> int:
        return self.base + 2

    @property
    def audit(self) -> int:
        return self.base + 3

    @property
    def postgres(self) -> int:
        return self.base + 4

    @property
    def broker(self) -> int:
        return self.base + 5

    @property
    def controller(self) -> int:
        """Apache Kafka's, which the embedded broker has no need of."""
        return self.base + 40

    @property
    def cache(self) -> int:
        return self.base + 9

    @property
    def metrics(self) -> dict[str, int]:
        return {
            "relay": self.base + 6,
            "projector": self.base + 7,
            "policies": self.base + 8,
            "verifier": self.base + 10,
        }


async def run_house(wishes: UpSettings, ports: Ports, broker: Broker, *, as_json: bool) -> None:
    """Run until cancelled. Raises CannotStart."""
    if broker == "apache" and wishes.kafka_bootstrap_servers is not None:
        raise TwoBrokers(
            f"{variable_of('kafka_bootstrap_servers')} names a broker, and --kafka apache asks for another: "
            "leave out one of them"
        )
    home = Home(wishes.home)
    with locked(home):
        plan = await plan_house(home, wishes, ports, broker)

        async def ready() -> None:
            announce(plan.settings, ports, as_json=as_json)

        stages: tuple[Stage, ...] = ((plan.services, plan.prepare), (plan.processes, ready))
        try:
            await supervise(home, stages)
        except PortTaken as taken:
            raise PortTaken(f"{taken} (`--port-base` moves all ports of a house)") from None


@dataclass(frozen=True, slots=True)
class HousePlan:
    """What is started: the services, then, after `prepare`, the processes."""

    settings: Settings
    services: Sequence[ChildSpec]
    prepare: Callable[[], Awaitable[None]]
    processes: Sequence[ChildSpec]


async def plan_house(home: Home, wishes: UpSettings, ports: Ports, broker: Broker) -> HousePlan:
    """Of a home that its caller has locked; writes its settings. Raises CannotStart."""
    secrets = secrets_of(home)
    settings, server = plan_settings(home, wishes, ports, secrets, broker)
    await require_databases(wishes)
    write_private(home.settings, settings.model_dump_json(indent=2))
    services: list[ChildSpec] = []
    if server:
        services.append(server.spec())
    if wishes.kafka_bootstrap_servers is None:
        services.append(await broker_of(home, ports, broker))
    if wishes.cache_url is None and settings.cache_url:
        services.append(cache_spec(settings.cache_url, ports.cache, home.cache, home.log("cache")))

    async def prepare() -> None:
        if server:
            await create_databases(server, (LOG_DATABASE, READ_DATABASE), secrets.service_password)
        logger.info("migrating")
        await migrate.run(settings)

    return HousePlan(settings, services, prepare, process_specs(home, settings, ports))


async def broker_of(home: Home, ports: Ports, broker: Broker) -> ChildSpec:
    """Raises ApacheKafkaUnusable."""
    log = home.log("broker")
    match broker:
        case "embedded":
            return broker_spec(ports.broker, log)
        case "apache":
            node = ApacheKafka(
                directory=home.kafka, port=ports.broker, controller_port=ports.controller, log=log
            )
            return await node.spec()


async def require_databases(wishes: UpSettings) -> None:
    """Before anything is started: those that are named let us in. Raises DatabaseUnusable."""
    for name in DATABASES:
        if url := getattr(wishes, name):
            await require(variable_of(name), url)


def plan_settings(
    home: Home, wishes: UpSettings, ports: Ports, secrets: Secrets, broker: Broker
) -> tuple[Settings, EmbeddedPostgres | None]:
    """What the processes are told, and the server that `up` itself must run, if any."""
    given = wishes.model_dump(exclude_none=True)
    server = None
    if wishes.database_url is None or wishes.read_database_url is None:
        password, log = secrets.postgres_password, home.log("postgres")
        server = EmbeddedPostgres(directory=home.postgres, port=ports.postgres, password=password, log=log)
        service = partial(server.url, user=SERVICE, password=secrets.service_password)
        if wishes.database_url is None:
            given |= {
                "database_url": service(LOG_DATABASE),
                "migration_database_url": server.url(LOG_DATABASE),
            }
        if wishes.read_database_url is None:
            given |= {"read_database_url": service(READ_DATABASE)}
            given |= {"read_migration_database_url": server.url(READ_DATABASE)}
    if wishes.kafka_bootstrap_servers is None:
        given |= {"kafka_bootstrap_servers": f"{LOOPBACK}:{ports.broker}"}
        # Apache Kafka makes no topic by itself: one with a wrong number of partitions is somebody's mistake.
        given.setdefault("kafka_recreate_topics", broker == "embedded")
    given.setdefault("cache_url", new_cache_url(ports.cache))
    settings = Settings(
        **given,
        write_port=ports.write[0],
        read_port=ports.read,
        audit_port=ports.audit,
        digest_key=bytes.fromhex(secrets.digest_key),
        tokens=secrets.tokens,
    )
    return settings, server


def process_specs(home: Home, settings: Settings, ports: Ports) -> Sequence[ChildSpec]:
    doors = {
        **{_numbered("write-api", n): {"write_port": port} for n, port in enumerate(ports.write, start=1)},
        "read-api": {"read_port": ports.read},
        "audit-api": {"audit_port": ports.audit},
    }
    workers = {name: {"metrics_port": port} for name, port in ports.metrics.items()}
    specs = []
    for name, own in (doors | workers).items():
        (port,) = own.values()
        specs.append(
            ChildSpec(
                name=name,
                command=(*OURS, name.partition(" ")[0]),
                environment={
                    **environment_of(settings.model_copy(update=own)),
                    SUPERVISOR_VARIABLE: str(os.getpid()),
                },
                log=home.log(name.replace(" ", "-")),
                host=settings.host,
                port=port,
                ready=partial(_answers, f"{url_of(settings.host, port)}/readyz") if name in doors else None,
                stop_seconds=STOP_SECONDS,
            )
        )
    return specs


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} {number}"


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=PROBE_SECONDS, trust_env=False) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def announce(settings: Settings, ports: Ports, *, as_json: bool) -> None:
    """Where everything listens: one line of JSON, or words and a first command to paste."""
    write = [url_of(settings.host, port) for port in ports.write]
    doors = {
        "write": write[0],
        "read": url_of(settings.host, settings.read_port),
        "audit": url_of(settings.host, settings.audit_port),
    }
    if as_json:
        told = {**doors, "tokens": settings.tokens, "home": str(settings.home), "write_all": write}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        listening = "\n".join(f"  {name} door: {url}" for name, url in doors.items())
        sys.stdout.write(
            f"\nTallybook is up.\n{listening}\n  further write doors: {', '.join(write[1:]) or 'none'}\n"
            f"  each has /openapi.json, /readyz and /metrics\n  home: {settings.home}\n\n"
            f"A first command:\n\n{first_command(doors['write'], settings.tokens['catalogue'])}\n\n"
            "Ctrl-C stops everything.\n"
        )
    sys.stdout.flush()


def first_command(write_url: str, token: str) -> str:
    body = {"slug": "first-product", "title": {"en": "First product"}, "tax_class": "standard"}
    return (
        f"curl -sS {write_url}/v1/products \\\n"
        f"  -H 'Authorization: Bearer {token}' \\\n"
        "  -H 'Idempotency-Key: my-first-product' -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body)}'"
    )
