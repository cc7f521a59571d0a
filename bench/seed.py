"""The database that a run starts from a copy of: a log with 5,000 items in stock, and tables for pgbench."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg
import uvloop

from bench.payload import FINGERPRINT, LOCATION, PRODUCT, VARIANT, digest, ids, metadata, sku_of, stream_of
from bench.server import Server
from commands.ports import Append, Appended, Log, NewEvent
from domain.envelope import NOTHING
from domain.location import LOCATION as LOCATIONS
from domain.location import LocationRegistered
from domain.sku import SKU, SkuClaimed
from domain.stock import Reference, StockReceived
from domain.values import Event
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate

STREAMS: Final = 5_000
EMPTY: Final = "bench_empty"
SEEDED: Final = "bench_seeded"
AT_ONCE: Final = 1_000
"""Events in one append of the seed."""

# `like` copies columns, defaults, checks and indexes, whatever those of the log are. The tables are stored
# twice in the database, but a run fills either the log's or these.
_SAME_TABLES: Final = """
create schema same_work;
create table same_work.events (like log.events including all);
create table same_work.requests (like log.requests including all);
insert into same_work.events select * from log.events;
insert into same_work.requests select * from log.requests;
create sequence same_work.positions;
select setval('same_work.positions', (select max(position) from log.events));
create sequence same_work.versions minvalue 2;
"""


def make_templates(server: Server) -> None:
    for name in (EMPTY, SEEDED):
        server.create(name)
        asyncio.run(migrate(server.url(name), "log"))
    uvloop.run(seed(server.service_url(SEEDED), STREAMS))
    add_same_tables(server.url(SEEDED))
    with psycopg.connect(server.url(SEEDED), autocommit=True) as owner:
        owner.execute("vacuum (analyze)")


def add_same_tables(owner_url: str) -> None:
    with psycopg.connect(owner_url) as owner:
        owner.execute(_SAME_TABLES)


async def seed(url: str, items: int) -> None:
    async with PostgresLog.open(url) as log:
        await fill(log, items)


async def fill(log: Log, items: int) -> None:
    """A location, and `items` SKUs with some stock each: `2 * items + 1` events in an empty log."""
    for events in _in_appends(items):
        tips = dict.fromkeys((stream for stream, _ in events), NOTHING)
        new = [NewEvent(stream, ids.new(), event) for stream, event in events]
        verdict = await log.append(Append(tips, new, metadata(), digest(), FINGERPRINT))
        if not isinstance(verdict, Appended):
            raise TypeError(f"the log is not empty: {verdict}")


def _in_appends(items: int) -> Iterator[Sequence[tuple[str, Event]]]:
    yield [(LOCATIONS.stream(LOCATION), LocationRegistered(LOCATION, "The depot", "DE"))]
    for first in range(0, items, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, items))
        yield [
            (SKU.stream(sku_of(number)), SkuClaimed(sku_of(number), PRODUCT, VARIANT)) for number in numbers
        ]
        yield [(stream_of(number), _received(number)) for number in numbers]


def _received(number: int) -> StockReceived:
    return StockReceived(sku_of(number), LOCATION, PRODUCT, VARIANT, 1_000, Reference("initial", "count"))
