"""Reading: the whole log, one long stream, and what an event takes on disk.

The log that is read was written by the log itself, in appends of one event; the long stream beside it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

import psycopg
import uvloop

from bench import ours
from bench.payload import append_of, digest, stream_of
from bench.plan import Plan
from bench.progress import Progress
from bench.seed import SEEDED, STREAMS
from bench.server import Server
from commands._states import States
from commands.ports import Appended, NoSnapshots
from domain.envelope import NOTHING, Tip
from domain.stock import STOCK
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.log.snapshots import SnapshotStore

LONG: Final = 1_000
LONG_STREAM: Final = stream_of(STREAMS)
LONG_APPEND: Final = 100
KEPT_S: Final = 10.0
"""How long a snapshot may take to be written."""
WRITERS: Final = 64


@dataclass(frozen=True, slots=True)
class Reads:
    """Rates in events a second. Bytes on disk with indexes, of an event and of a command's request row."""

    log: float
    log_undecoded: float
    copy: float
    load_1000_ms: float
    load_1000_snapshot_ms: float
    bytes_per_event: float
    bytes_per_command: float


def measure(server: Server, plan: Plan, progress: Progress) -> Reads:
    with server.database("reads", SEEDED) as database:
        url, service_url = server.url(database), server.service_url(database)
        ours.measure(service_url, "spread", WRITERS, plan.window)
        uvloop.run(_write_long_stream(service_url))
        with psycopg.connect(url, autocommit=True) as owner:
            bytes_per_event = _bytes_a_row(owner, "log.events")
            bytes_per_command = _bytes_a_row(owner, "log.requests")
            owner.execute("vacuum (analyze)")
        rates: dict[str, list[float]] = {}
        readers: dict[str, Callable[[], float]] = {
            "read_log": lambda: uvloop.run(_read_all(service_url, decoded=True)),
            "read_log_undecoded": lambda: uvloop.run(_read_all(service_url, decoded=False)),
            "copy_binary": lambda: copy_all(url),
        }
        for _ in range(plan.read_rounds):
            for name, read in readers.items():
                progress.look()
                rates.setdefault(name, []).append(read())
                progress.says(f"  {name:<36} {rates[name][-1]:>10,.0f} events/s")
        loads: dict[str, list[float]] = {}
        for _ in range(plan.read_rounds):
            for name, snapshot in (("load_1000_ms", False), ("load_1000_snapshot_ms", True)):
                progress.look()
                took = uvloop.run(_load_long_stream(service_url, plan.loads, snapshot=snapshot))
                loads.setdefault(name, []).append(took)
                progress.says(f"  {name:<36} {took:>10.2f} ms")
        return Reads(
            log=median(rates["read_log"]),
            log_undecoded=median(rates["read_log_undecoded"]),
            copy=median(rates["copy_binary"]),
            load_1000_ms=median(loads["load_1000_ms"]),
            load_1000_snapshot_ms=median(loads["load_1000_snapshot_ms"]),
            bytes_per_event=bytes_per_event,
            bytes_per_command=bytes_per_command,
        )


async def _write_long_stream(url: str) -> None:
    tip = NOTHING
    async with PostgresLog.open(url) as log:
        for _ in range(0, LONG, LONG_APPEND):
            verdict = await log.append(append_of({LONG_STREAM: tip}, [LONG_STREAM] * LONG_APPEND, digest()))
            if not isinstance(verdict, Appended):
                raise TypeError(f"the long stream is not new: {verdict}")
            tip = Tip(verdict.events[-1].version, verdict.events[-1].event_id)


async def _read_all(url: str, *, decoded: bool) -> float:
    """In batches, in order, as the relay reads; decoded, as a rebuild does."""
    events = after = 0
    async with LogReader.open(url) as reader:
        began = time.perf_counter()
        while batch := await reader.read(after):
            if decoded:
                for stored in batch:
                    reader.decode(stored)
            events += len(batch)
            after = batch[-1].position
        return events / (time.perf_counter() - began)


def copy_all(url: str) -> float:
    """The limit: the same rows as fast as PostgreSQL hands them out, looked at by nobody."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        with cursor.copy(
            "copy (select * from log.events order by position) to stdout (format binary)"
        ) as rows:
            for _ in rows:
                pass
        took = time.perf_counter() - began
        [(events,)] = cursor.execute("select count(*) from log.events").fetchall()
        return float(events / took)


async def _load_long_stream(url: str, times: int, *, snapshot: bool) -> float:
    """The median of loading it as a command does that knows nothing yet, in milliseconds.

    With a snapshot, it is of the stream's last event.
    """
    took = []
    async with PostgresLog.open(url) as log, SnapshotStore.open(url) as snapshots:
        if snapshot:
            await _keep(log, snapshots)
        for _ in range(times):
            states = States(log, snapshots if snapshot else NoSnapshots())
            began = time.perf_counter()
            await states.load({LONG_STREAM: STOCK})
            took.append(1_000 * (time.perf_counter() - began))
            known = states.get(LONG_STREAM)
            if known is None or known.state.on_hand != LONG:
                raise AssertionError(f"{LONG} events of one unit each make {known}")
    return median(took)


async def _keep(log: PostgresLog, snapshots: SnapshotStore) -> None:
    await States(log, snapshots).load({LONG_STREAM: STOCK})
    async with asyncio.timeout(KEPT_S):
        while not await snapshots.read({LONG_STREAM: STOCK}):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(KEPT_S / 100)


def _bytes_a_row(owner: psycopg.Connection, table: str) -> float:
    [(size,)] = owner.execute("select pg_total_relation_size(%s::regclass)", (table,)).fetchall()
    [(rows,)] = owner.execute(
        "select count(*) from log.events" if table == "log.events" else "select count(*) from log.requests"
    ).fetchall()
    return float(size / rows)
