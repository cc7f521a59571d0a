"""Does an append cost more when the log is large?

A log is filled as a shop's history would fill it: streams of ten events, a thousand of them at a time, then
the next thousand; names in no order, ids and digests in the order of time, one request an event, all indexes
there from the beginning. What is measured then are appends to old streams chosen at random over the whole
history. The tips follow from how the log was filled, so that nothing warms the cache by looking them up.
"""

import hashlib
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Any, Final

import psycopg
import uvloop

from bench import worker
from bench.loads import Spread
from bench.loops import Measured, Window, in_tasks
from bench.payload import FINGERPRINT, LOCATION, digest, event, metadata, random_digest, stream_of
from bench.plan import Plan
from bench.progress import Progress
from bench.seed import EMPTY
from bench.server import Server
from domain.envelope import Tip
from domain.stock import STOCK
from runtime.codec import encode, encode_metadata
from runtime.log.postgres import PostgresLog

CALLERS: Final = 64
STREAM_EVENTS: Final = 10
BLOCK_STREAMS: Final = 1_000
BLOCK_EVENTS: Final = STREAM_EVENTS * BLOCK_STREAMS
ANSWER_S: Final = 60.0

# The migration's owner may insert; the log would refuse an append that did not fit what is inserted here.
_FILL_EVENTS: Final = """
with streams as materialized (
    select i, 'stock-' || upper(left(md5((%(block)s * 1000 + i)::text), 12)) || '@' || %(location)s as stream
    from generate_series(0, 999) as i
), laned as materialized (
    select i, stream, log.lane_of(stream, s.lanes) as lane from streams cross join log.settings s
)
insert into log.events
    (position, stream, version, event_id, type, context, lane, data, metadata, recorded_at)
select position, stream, version,
    (lpad(to_hex(position), 12, '0') || '70008000' || lpad(to_hex(position), 12, '0'))::uuid,
    'stock.adjusted.v1', 'inventory', lane, %(data)s, %(metadata)s,
    timestamptz '2025-01-01 00:00:00+00' + position * interval '1 ms'
from laned cross join generate_series(1, 10) as version
    cross join lateral (select %(block)s::bigint * 10000 + (version - 1) * 1000 + i + 1 as position) p
order by position
"""
_FILL_REQUESTS: Final = """
insert into log.requests (digest, fingerprint, first_position, count)
select decode(lpad(to_hex(position), 12, '0') || left(md5(position::text), 20), 'hex'), %(fingerprint)s,
    position, 1
from generate_series(%(block)s::bigint * 10000 + 1, (%(block)s::bigint + 1) * 10000) as position
"""


def measure(server: Server, plan: Plan, progress: Progress) -> dict[str, Measured]:
    """By name; the small log is measured beside each of the others, and begins anew every time."""
    figures: dict[str, Measured] = {}
    with server.database("growth_small", EMPTY) as small:
        progress.says(f"filling a log with {plan.small:,} events")
        fill(server.url(small), plan.small)
        for name, events, random_too in (("1m", plan.middle, False), ("10m", plan.large, True)):
            with server.database(f"growth_{name}", EMPTY) as large:
                progress.says(f"filling a log with {events:,} events")
                fill(server.url(large), events)
                figures |= _compare(server, plan, progress, name, events, random_too=random_too)
    return figures


def _compare(
    server: Server, plan: Plan, progress: Progress, name: str, events: int, *, random_too: bool
) -> dict[str, Measured]:
    """Each run appends to streams that none before it on the same log appended to."""
    shares = plan.growth_rounds * (1 + random_too)
    share = count()
    found: dict[str, list[Measured]] = {}

    def run(label: str, database: str, streams: range, *, random: bool = False) -> None:
        progress.look()
        measured = _append(server.service_url(database), plan.growth_window, streams, random=random)
        found.setdefault(label, []).append(progress.ran(label, measured))

    with ExitStack() as stack:
        for number in range(plan.growth_rounds):
            # Dropped at the end: a drop writes a checkpoint, after which a large log pays for each page.
            copy = stack.enter_context(server.database(f"growth_copy_{number}", "growth_small"))
            run(f"append_at_100k beside {name}", copy, range(plan.small // STREAM_EVENTS))
            for random in (False, True)[: 1 + random_too]:
                label = f"append_at_{name}" + "_random_digests" * random
                streams = range(next(share), events // STREAM_EVENTS, shares)
                run(label, f"growth_{name}", streams, random=random)
    return {label: Measured(median(one.rate for one in runs)) for label, runs in found.items()}


def fill(owner_url: str, events: int) -> None:
    """An empty log."""
    values: dict[str, Any] = {
        "location": LOCATION,
        "data": encode(event(stream_of(0))),
        "metadata": encode_metadata(metadata()),
        "fingerprint": FINGERPRINT,
    }
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("set synchronous_commit = off")
        for block in range(events // BLOCK_EVENTS):
            owner.execute(_FILL_EVENTS, values | {"block": block}, prepare=True)
            owner.execute(_FILL_REQUESTS, values | {"block": block}, prepare=True)
        owner.execute("vacuum (analyze)")
        owner.execute("checkpoint")


def stream_of_fill(number: int) -> str:
    hashed = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return STOCK.stream(f"{hashed[:12].upper()}@{LOCATION}")


def tip_of_fill(number: int) -> Tip:
    """Of a stream as it was filled."""
    block, i = divmod(number, BLOCK_STREAMS)
    position = f"{block * BLOCK_EVENTS + (STREAM_EVENTS - 1) * BLOCK_STREAMS + i + 1:012x}"
    return Tip(STREAM_EVENTS, f"{position[:8]}-{position[8:]}-7000-8000-{position}")


def _append(url: str, window: Window, streams: range, *, random: bool) -> Measured:
    numbers = {"first": streams.start, "end": streams.stop, "step": streams.step}
    task = {"url": url, "random": random} | numbers | asdict(window)
    [answer] = worker.run(__name__, [task], window.warm + window.seconds + ANSWER_S)
    return Measured(**answer)


async def _run(task: dict[str, Any]) -> Measured:
    tips = {
        stream_of_fill(number): tip_of_fill(number)
        for number in range(task["first"], task["end"], task["step"])
    }
    async with PostgresLog.open(task["url"]) as log:
        spread = Spread(log, tips, events=1, digest=random_digest if task["random"] else digest)
        worker.wait_for_go()
        return await in_tasks(spread.once, CALLERS, Window(task["warm"], task["seconds"]))


if __name__ == "__main__":
    worker.answer(asdict(uvloop.run(_run(worker.told()))))
