"""`tallybook status`: what of a home runs, where the log's head is, and how far each reader is behind it."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, LiteralString

import typer
from psycopg import AsyncConnection
from psycopg.errors import UndefinedTable

from runtime.databases import DatabaseUnusable, naming
from runtime.home import Home
from runtime.settings import Settings, load_settings, load_up_settings, variable_of
from runtime.supervisor import ProcessRecord, records_of

CONNECT_SECONDS: Final = 5

HEAD: Final = "select coalesce(max(position), 0) from log.events"
RELAY: Final = """
    select 'relay ' || name, (select coalesce(max(position), 0) from log.events) - position
    from relay.checkpoint order by name
"""
POLICIES: Final = """
    select 'policy ' || policy, (select coalesce(max(position), 0) from log.events) - position
    from policies.checkpoint order by policy
"""
BUILDS: Final = """
    select 'build ' || build, context, lane, position
    from read.checkpoints order by build, context, lane
"""
BEHIND: Final = """
    select count(*)
    from unnest(%s::text[], %s::smallint[], %s::bigint[]) as reached (context, lane, position)
    join log.events on events.context = reached.context
        and events.lane = reached.lane and events.position > reached.position
"""


@dataclass(frozen=True, slots=True)
class Lag:
    reader: str
    events: int  # in the log, and not yet in what the reader makes of it


@dataclass(frozen=True, slots=True)
class Progress:
    head: int
    lags: tuple[Lag, ...]


async def show() -> int:
    """0 when everything that the home's supervisor started still runs, and the log answers."""
    wishes = load_up_settings()
    records = records_of(Home(wishes.home))
    running = [record for record in records if record.find()]
    for record in records:
        typer.echo(_line(record, runs=record in running))
    if not running:
        typer.echo(f"nothing runs in {wishes.home}")
        if wishes.database_url is None:
            return 1
    progress = await progress_of(load_settings())
    typer.echo(f"the log's head is {progress.head}")
    for lag in progress.lags:
        typer.echo(f"{lag.reader:<50} {lag.events} events behind")
    return 0 if len(running) == len(records) else 1


def _line(record: ProcessRecord, *, runs: bool) -> str:
    state = f"up for {time.time() - record.started_at:.0f} s" if runs else "ended"
    return f"{record.name:<12} process {record.pid:<8} port {record.port or '-':<6} {state}"


async def progress_of(settings: Settings) -> Progress:
    """Each reader asked with its own role: nobody else may see its checkpoint. Raises DatabaseUnusable."""
    log, read = partial(_rows, settings, "database_url"), partial(_rows, settings, "read_database_url")
    ((head,),) = await log("tallybook_reader", HEAD)
    lags = [Lag(reader, events) for reader, events in await log("tallybook_relay", RELAY)]
    lags += [Lag(reader, events) for reader, events in await log("tallybook_policies", POLICIES)]
    lanes: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for build, *reached in await read("tallybook_reader", BUILDS):
        lanes[build].append(tuple(reached))
    for build, reached_by_lane in lanes.items():
        columns = [list(column) for column in zip(*reached_by_lane, strict=True)]
        ((events,),) = await log("tallybook_reader", BEHIND, columns)
        lags.append(Lag(build, events))
    return Progress(head, tuple(lags))


async def _rows(
    settings: Settings, database: str, role: str, query: LiteralString, parameters: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    variable = variable_of(database)
    connecting = AsyncConnection.connect(
        getattr(settings, database), connect_timeout=CONNECT_SECONDS, options=f"-c role={role}"
    )
    with naming(variable):
        async with await connecting as connection:
            try:
                return await (await connection.execute(query, parameters)).fetchall()
            except UndefinedTable:
                raise DatabaseUnusable(variable, "it was never migrated: run `tallybook migrate`") from None
