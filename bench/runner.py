"""The `eventsourcing` library's ProjectionRunner: a subscription, a thread, one transaction an event.

It makes the same rows as the read model `stock_availability` from as many kinds of facts: each event is an
upsert, beside which the transaction moves the library's own tracking. Its log is its recorder's.
"""

import time
from collections.abc import Mapping
from functools import singledispatchmethod
from typing import Any, ClassVar, Final
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL, Identifier

from bench import worker
from bench.payload import LOCATION, NOTE, PRODUCT, VARIANT, sku_of
from bench.projections_plan import EVENTS_A_STREAM

LIMIT_S: Final = 120.0
AT_ONCE: Final = 100
"""Streams that are saved together."""
_UPSERT: Final = SQL(
    "insert into {0}.{1} as row (id, sku, location, product_id, variant_id, on_hand, available, version)"
    " values (%(id)s, %(sku)s, %(location)s, %(product)s, %(variant)s, %(delta)s, %(delta)s, %(version)s)"
    " on conflict (id) do update set on_hand = row.on_hand + excluded.on_hand,"
    " available = row.available + excluded.available, version = excluded.version"
)


class Stock(Aggregate):
    class Received(Aggregate.Created):
        sku: str
        location: str
        product_id: str
        variant_id: str
        qty: int

    class Adjusted(Aggregate.Event):
        sku: str
        location: str
        product_id: str
        variant_id: str
        delta: int
        reason: str
        note: str

        def apply(self, aggregate: "Stock") -> None:
            aggregate.on_hand += self.delta

    @event(Received)
    def __init__(self, sku: str, location: str, product_id: str, variant_id: str, qty: int) -> None:
        self.item = {"sku": sku, "location": location, "product_id": product_id, "variant_id": variant_id}
        self.on_hand = qty

    def adjust(self) -> None:
        self.trigger_event(self.Adjusted, **self.item, delta=1, reason="found", note=NOTE)


class Stocks(Application[UUID]):
    pass


class StockView(PostgresTrackingRecorder):
    TABLE: ClassVar[str] = "stock_availability"

    def __init__(self, datastore: PostgresDatastore, **kwargs: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(datastore, **kwargs)
        self._upsert = _UPSERT.format(Identifier(datastore.schema), Identifier(self.TABLE))
        self.sql_create_statements.append(
            SQL(
                "create table if not exists {0}.{1} (id text primary key, sku text, location text,"
                " product_id text, variant_id text, on_hand bigint, reserved bigint default 0,"
                " committed bigint default 0, available bigint, version bigint)"
            ).format(Identifier(datastore.schema), Identifier(self.TABLE))
        )

    def move(self, row: Mapping[str, object], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(self._upsert, row, prepare=True)


class StockProjection(Projection[StockView]):
    name = "stock"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # noqa: ANN401, ARG002 - the library's
        raise TypeError(f"not an event of stock: {domain_event}")

    @process_event.register
    def received(self, domain_event: Stock.Received, tracking: Tracking) -> None:
        self._move(domain_event, domain_event.qty, tracking)

    @process_event.register
    def adjusted(self, domain_event: Stock.Adjusted, tracking: Tracking) -> None:
        self._move(domain_event, domain_event.delta, tracking)

    def _move(self, fact: Stock.Received | Stock.Adjusted, delta: int, tracking: Tracking) -> None:
        row = {
            "id": f"{fact.sku}@{fact.location}",
            "sku": fact.sku,
            "location": fact.location,
            "product": fact.product_id,
            "variant": fact.variant_id,
            "delta": delta,
            "version": fact.originator_version,
        }
        self.view.move(row, tracking)


def measure(url: str, events: int) -> float:
    """Events a second. `url`: of the owner of an empty database."""
    [answer] = worker.run(__name__, [{"url": url, "events": events}], LIMIT_S)
    return float(answer["rate"])


def _run(task: dict[str, Any]) -> float:
    parts = psycopg.conninfo.conninfo_to_dict(task["url"])
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts["dbname"]),
        "POSTGRES_HOST": str(parts["host"]),
        "POSTGRES_PORT": str(parts["port"]),
        "POSTGRES_USER": str(parts["user"]),
        "POSTGRES_PASSWORD": str(parts["password"]),
    }
    events = task["events"]
    _fill(env, events // EVENTS_A_STREAM)
    worker.wait_for_go()
    began = time.perf_counter()
    with ProjectionRunner[Stocks, StockView](
        application_class=Stocks, projection_class=StockProjection, view_class=StockView, env=env
    ) as runner:
        runner.wait(events, timeout=LIMIT_S)
        return float(events / (time.perf_counter() - began))


def _fill(env: Mapping[str, str], streams: int) -> None:
    with Stocks(env) as stocks:
        for first in range(0, streams, AT_ONCE):
            items = [
                Stock(sku_of(number), LOCATION, PRODUCT, VARIANT, 1_000)
                for number in range(first, min(first + AT_ONCE, streams))
            ]
            for turn in range(EVENTS_A_STREAM):
                if turn:
                    for item in items:
                        item.adjust()
                stocks.save(*items)


if __name__ == "__main__":
    worker.answer({"rate": _run(worker.told())})
