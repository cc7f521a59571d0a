"""A log that is full of stock events, and an empty database for what is made of them.

Every stream has a receipt and then adjustments, and the log goes over all streams again and again: hardly
ever are two events of one row near each other, as in a shop with many customers. A command makes three
events, as an order of three lines does of stock: what they share is told by each of them.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

import psycopg
import uvloop

from bench.payload import FINGERPRINT, LOCATION, NOTE, VARIANT, digest, ids, metadata, sku_of, stream_of
from bench.projections_plan import EVENTS_A_STREAM, SKUS_A_PRODUCT
from bench.server import Server
from commands.ports import Append, Appended, NewEvent
from domain.envelope import NOTHING, Tip
from domain.stock import Reference, StockAdjusted, StockReceived
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate

LOG: Final = "bench_backlog"
EMPTY_READ: Final = "bench_read"
OF_A_COMMAND: Final = 3
"""Events in one append."""
AT_ONCE: Final = 64
"""Appends."""


def make(server: Server, events: int) -> None:
    """The two databases."""
    for name, schema in ((LOG, "log"), (EMPTY_READ, "read")):
        server.create(name)
        asyncio.run(migrate(server.url(name), schema))
    uvloop.run(_fill(server.service_url(LOG), events // EVENTS_A_STREAM))
    with psycopg.connect(server.url(LOG), autocommit=True) as owner:
        owner.execute("vacuum (analyze)")


async def _fill(url: str, streams: int) -> None:
    tips: dict[str, Tip] = {}
    async with PostgresLog.open(url) as log:

        async def append(numbers: Iterable[int], turn: int) -> None:
            new = [NewEvent(stream_of(number), ids.new(), _event(number, turn)) for number in numbers]
            known = {one.stream: tips.get(one.stream, NOTHING) for one in new}
            verdict = await log.append(Append(known, new, metadata(), digest(), FINGERPRINT))
            if not isinstance(verdict, Appended):
                raise TypeError(f"the log is not empty: {verdict}")
            tips.update((one.stream, Tip(one.version, one.event_id)) for one in verdict.events)

        for turn in range(EVENTS_A_STREAM):
            commands = _runs(range(streams), OF_A_COMMAND)
            while some := list(islice(commands, AT_ONCE)):
                await asyncio.gather(*(append(numbers, turn) for numbers in some))


def _runs(numbers: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), length):
        yield numbers[first : first + length]


def _event(number: int, turn: int) -> StockReceived | StockAdjusted:
    sku, product = sku_of(number), str(UUID(int=number // SKUS_A_PRODUCT))
    if turn == 0:
        return StockReceived(sku, LOCATION, product, VARIANT, 1_000, Reference("initial", "count"))
    return StockAdjusted(sku, LOCATION, product, VARIANT, delta=1, reason="found", note=NOTE)
