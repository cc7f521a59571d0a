"""From the log to a topic, and from there to a read model; beside kafka-python with nothing around it.

Each round has a new broker of each kind, warmed by messages that do not count. There the relay publishes the
backlog, and what it has published is consumed by the projector and by the raw consumer.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from bench import backlog, projecting, raw_kafka
from bench.brokers import BROKERS, broker_in
from bench.page import Figure
from bench.projections_plan import Plan
from bench.relaying import relayed
from bench.samples import Samples, best_of
from bench.server import Server
from domain import CONTEXTS
from domain.stock import STOCK
from projections import READ_MODELS
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.messages import topic_of
from runtime.read_models.folding import contexts_of
from runtime.secrets import ROLES, SECRET_BYTES
from runtime.settings import Settings

Step = Callable[[], None]
MESSAGES_S: Final = "messages/s"
EVENTS_S: Final = "events/s"
MB: Final = "MB"
CONTEXT: Final = CONTEXTS[STOCK.category]
FED: Final = tuple(model.name for model in READ_MODELS if CONTEXT in contexts_of(model))
"""The read models that the backlog feeds."""
_numbers: Final = count()


def settings_on(directory: Path, log_url: str, read_url: str, servers: str) -> Settings:
    """Of a process that is started beside no house."""
    return Settings(
        home=directory,
        database_url=log_url,
        read_database_url=read_url,
        kafka_bootstrap_servers=servers,
        digest_key=b"b" * SECRET_BYTES,
        tokens={role: role for role in ROLES},
    )


def measure(server: Server, directory: Path, plan: Plan, samples: Samples) -> None:
    for number in range(plan.rounds):
        for name, kind in list(BROKERS.items())[:: -1 if number % 2 else 1]:
            samples.progress.round(f"round {number + 1} of {plan.rounds}, the {name} broker")
            place = directory / f"broker_{next(_numbers)}"
            with broker_in(place, kind) as servers:
                _Round(server, place, plan, samples, name, servers).run(reverse=bool(number % 2))


class _Round:
    def __init__(
        self, server: Server, directory: Path, plan: Plan, samples: Samples, broker: str, servers: str
    ) -> None:
        self._server = server
        self._directory = directory
        self._plan = plan
        self._samples = samples
        self._broker = broker
        self._servers = servers
        self._log_url = server.service_url(backlog.LOG)

    def run(self, *, reverse: bool) -> None:
        self._produced(next(iter(raw_kafka.PRODUCING)), self._plan.warming)
        raw = [partial(self._raw_produce, name) for name in raw_kafka.PRODUCING]
        publishing: list[Step] = [self._relay, *raw]
        consuming: list[Step] = [
            partial(self._projector, f"projector_{self._broker}", (STOCK_AVAILABILITY.name,)),
            *(partial(self._raw_consume, name) for name in raw_kafka.CONSUMING),
        ]
        if self._broker == "kafka":
            consuming.append(partial(self._projector, "projector_kafka_all", FED))
        turn = -1 if reverse else 1
        for step in (*publishing[::turn], *consuming[::turn]):
            self._samples.progress.look()
            step()

    def _relay(self) -> None:
        owner = self._server.url(backlog.LOG)
        settings = settings_on(self._directory, self._log_url, self._log_url, self._servers)
        done = relayed(settings, owner, self._plan.events)
        self._samples.add(f"relay_{self._broker}", done.rate, MESSAGES_S)
        self._samples.add("relay_memory_mb", done.peak_mb, MB)

    def _raw_produce(self, settings: str) -> None:
        rate = self._produced(settings, self._plan.events)
        self._samples.add(_raw("raw_produce", self._broker, settings), rate, MESSAGES_S)

    def _produced(self, settings: str, events: int) -> float:
        topic = f"raw.{next(_numbers)}"
        return raw_kafka.produced(self._servers, self._log_url, topic, events, settings)

    def _projector(self, name: str, models: tuple[str, ...]) -> None:
        with self._server.database(f"run_{next(_numbers)}", backlog.EMPTY_READ) as database:
            read_url = self._server.service_url(database)
            done = projecting.heard(self._log_url, read_url, self._servers, models)
        self._samples.add(name, done.rate, EVENTS_S)
        self._samples.add("projector_memory_mb", done.peak_mb, MB)

    def _raw_consume(self, settings: str) -> None:
        rate = raw_kafka.consumed(self._servers, topic_of(CONTEXT), self._plan.events, settings)
        self._samples.add(_raw("raw_consume", self._broker, settings), rate, MESSAGES_S)


def figures_of(medians: Mapping[str, float]) -> Iterator[Figure]:
    for broker in BROKERS:
        produce = best_of(medians, [_raw("raw_produce", broker, one) for one in raw_kafka.PRODUCING])
        consume = best_of(medians, [_raw("raw_consume", broker, one) for one in raw_kafka.CONSUMING])
        yield against(f"relay_{broker}", medians, MESSAGES_S, "raw_produce", produce)
        yield against(f"projector_{broker}", medians, EVENTS_S, "raw_consume", consume)
        if broker == "kafka":
            yield against("projector_kafka_all", medians, EVENTS_S, "raw_consume", consume)


def against(name: str, medians: Mapping[str, float], unit: str, baseline: str, other: float) -> Figure:
    return Figure(name, round(medians[name]), unit, baseline, round(other), round(medians[name] / other, 3))


def _raw(name: str, broker: str, settings: str) -> str:
    return f"{name} ({broker}, {settings})"
