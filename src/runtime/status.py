"""`tallybook status`: what of a home runs, where the log's head is, and how far each reader is behind it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, LiteralString

import msgspec
import typer
from psycopg import AsyncConnection
from psycopg.errors import UndefinedTable
from rich.console import Console
from rich.live import Live
from rich.text import Text

from runtime.databases import DatabaseUnusable, naming
from runtime.home import Home
from runtime.lag import LANES, NONE, POLICIES, RELAYS, Lag, columns_of, lags_of
from runtime.process import CannotStart
from runtime.settings import Settings, load_settings, load_up_settings, variable_of
from runtime.supervisor import ProcessRecord, records_of

CONNECT_SECONDS: Final = 5

HEAD: Final = "select coalesce(max(position), 0) from log.events"
BUILDS: Final = """
    select model, build, served, context, lane, position, parked
    from read.checkpoints join read.builds using (build) order by model, number, context, lane
"""


@dataclass(frozen=True, slots=True)
class Process:
    """`up_s`: for how many seconds it has run; None: it has ended."""

    name: str
    pid: int
    port: int | None
    up_s: float | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Of all of the log."""

    name: str
    positions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lane:
    context: str
    lane: int
    positions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Build:
    """Of a read model. `positions` and `seconds`: the most that any lane is behind; `parked`: streams."""

    model: str
    build: str
    served: bool
    positions: int
    seconds: float
    parked: int
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    head: int
    relays: tuple[Reader, ...]
    policies: tuple[Reader, ...]
    builds: tuple[Build, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """`log`: None where there is no telling which log it would be."""

    processes: tuple[Process, ...]
    log: Progress | None

    @property
    def well(self) -> bool:
        """Everything that the home's supervisor started still runs, and the log answers."""
        return self.log is not None and all(process.up_s is not None for process in self.processes)


async def show(*, lanes: bool, as_json: bool) -> int:
    """0 when all is well, else 1. Raises DatabaseUnusable, SettingsInvalid."""
    processes = _processes()
    if not as_json:
        typer.echo("\n".join(_process_lines(processes)))
    status = Status(processes, await _log(processes))
    if as_json:
        typer.echo(msgspec.json.encode(status))
    elif status.log is not None:
        typer.echo("\n".join(_log_lines(status.log, lanes=lanes)))
    return 0 if status.well else 1


async def watch(every_s: float, *, lanes: bool) -> int:
    """Shows it anew every so many seconds, until cancelled; whatever is away is looked for again."""
    console = Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            page = Text("\n".join(await _page(lanes=lanes)), no_wrap=True, overflow="crop")
            if console.is_terminal:
                live.update(page, refresh=True)
            else:
                console.print(page, soft_wrap=True)
            await asyncio.sleep(every_s)


async def _page(*, lanes: bool) -> list[str]:
    processes = _processes()
    lines = [time.strftime("%H:%M:%S"), "", *_process_lines(processes)]
    try:
        log = await _log(processes)
    except CannotStart as away:
        return [*lines, "", str(away)]
    return lines if log is None else [*lines, *_log_lines(log, lanes=lanes)]


def _processes() -> tuple[Process, ...]:
    return tuple(_process(record) for record in records_of(Home(load_up_settings().home)))


def _process(record: ProcessRecord) -> Process:
    up_s = time.time() - record.started_at if record.find() else None
    return Process(record.name, record.pid, record.port, up_s)


async def _log(processes: Iterable[Process]) -> Progress | None:
    """That of the home if anything runs there, or the one that is named."""
    runs = any(process.up_s is not None for process in processes)
    return await progress_of(load_settings()) if runs or load_up_settings().database_url else None


async def progress_of(settings: Settings) -> Progress:
    """Each reader asked with its own role: nobody else may see its checkpoint. Raises DatabaseUnusable."""
    log, read = partial(_rows, settings, "database_url"), partial(_rows, settings, "read_database_url")
    ((head,),) = await log("tallybook_reader", HEAD)
    relays = [Reader(*row) for row in await log("tallybook_relay", RELAYS)]
    policies = [Reader(*row) for row in await log("tallybook_policies", POLICIES)]
    places: dict[tuple[str, str, bool], list[tuple[str, int, int, int]]] = defaultdict(list)
    for model, build, served, *place in await read("tallybook_reader", BUILDS):
        places[model, build, served].append(tuple(place))
    everywhere = {place[:3] for those in places.values() for place in those}
    lags = lags_of(await log("tallybook_reader", LANES, columns_of(everywhere)))
    builds = [_build(*build, places=those, lags=lags) for build, those in places.items()]
    return Progress(head, tuple(relays), tuple(policies), tuple(builds))


def _build(
    model: str,
    build: str,
    served: bool,  # noqa: FBT001 - a column
    places: Sequence[tuple[str, int, int, int]],
    lags: Mapping[tuple[str, int, int], Lag],
) -> Build:
    found = [(*place[:2], lags.get(place[:3], NONE)) for place in places]
    return Build(
        model,
        build,
        served,
        max(lag.positions for _, _, lag in found),
        max(lag.seconds for _, _, lag in found),
        sum(parked for *_, parked in places),
        tuple(Lane(context, lane, lag.positions, lag.seconds) for context, lane, lag in found),
    )


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


def _process_lines(processes: Sequence[Process]) -> Iterator[str]:
    for process in processes:
        state = "ended" if process.up_s is None else f"up for {process.up_s:,.0f} s"
        yield f"{process.name:<12} process {process.pid:<8} port {process.port or '-':<6} {state}"
    if all(process.up_s is None for process in processes):
        yield f"nothing runs in {load_up_settings().home}"


def _log_lines(log: Progress, *, lanes: bool) -> Iterator[str]:
    """A line for each reader: of a read model, the most that any lane is behind, and which."""
    yield ""
    yield f"the log's head is {log.head:,}"
    yield ""
    yield _line("behind the log", "positions", "seconds", "lanes, the furthest")
    for kind, readers in (("relay", log.relays), ("policy", log.policies)):
        for reader in readers:
            yield _line(f"{kind} {reader.name}", f"{reader.positions:,}", f"{reader.seconds:,.1f}", "")
    for build in log.builds:
        behind = [lane for lane in build.lanes if lane.positions]
        last = max(behind, key=lambda lane: lane.seconds, default=None)
        words = f"{len(behind)} of {len(build.lanes)}, {last.context} {last.lane}" if last else ""
        name = build.build if build.served else f"{build.build} (not served)"
        yield _line(name, f"{build.positions:,}", f"{build.seconds:,.1f}", words)
        if build.parked:
            yield f"  PARKED streams: {build.parked:,}, which `tallybook parked` lists"
        for lane in build.lanes if lanes else ():
            yield _line(f"  {lane.context} {lane.lane}", f"{lane.positions:,}", f"{lane.seconds:,.1f}", "")


def _line(reader: str, positions: str, seconds: str, words: str) -> str:
    return f"{reader:<48} {positions:>10} {seconds:>8}  {words}".rstrip()
