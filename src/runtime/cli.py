"""The command `tallybook`: every process of the house is one of its sub-commands."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer
from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from commands.ports import LogUnavailable
from runtime.databases import require
from runtime.logs import PLAIN_LINE, configure_logging
from runtime.process import INTERRUPTED, CannotStart, run_process
from runtime.settings import Settings, load_settings, load_up_settings, variable_of

if TYPE_CHECKING:
    from runtime.importing.records import Record

LOWEST_BASE = 1024
HIGHEST_BASE = 65_000
SHORTEST_WATCH_S = 0.1

app = typer.Typer(
    name="tallybook",
    help="The backend of a shop whose every number can be proved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up(
    *,
    port_base: Annotated[
        int,
        typer.Option(
            min=LOWEST_BASE,
            max=HIGHEST_BASE,
            help="Doors on the three ports after it, services and figures on the next seven, "
            "further write doors from the eleventh on, the controller of Apache Kafka on the fortieth.",
        ),
    ] = 8000,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, one line of JSON on standard output.")
    ] = False,
    write_apis: Annotated[int, typer.Option(min=1, max=20, help="How many write doors.")] = 1,
    kafka: Annotated[
        Literal["embedded", "apache"],
        typer.Option(help="The broker in memory, or Apache Kafka, which needs Java and Maven."),
    ] = "embedded",
) -> None:
    """Run the whole house on this machine, in the foreground, with embedded services where none are given."""
    from runtime.up import Ports, run_house  # noqa: PLC0415 - a process loads its own rooms only

    configure_logging(line=PLAIN_LINE)
    ports = Ports(port_base, write_apis)
    _end(lambda: run_process(run_house(load_up_settings(), ports, kafka, as_json=as_json)))


@app.command()
def kafka(
    *,
    port: Annotated[
        int, typer.Option(min=LOWEST_BASE, max=HIGHEST_BASE, help="Its controller is on the next one.")
    ] = 9092,
    data: Annotated[Path, typer.Option(help="Where it keeps everything.")] = Path(".tallybook-kafka"),
) -> None:
    """Run one node of Apache Kafka on this machine, in the foreground; it needs Java and Maven."""
    from runtime.embedded.apache_kafka.alone import run_node  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: run_process(run_node(data.resolve(), port)))


@app.command()
def write_api() -> None:
    """Serve the write door: commands."""
    _serve("runtime.write_api")


@app.command()
def read_api() -> None:
    """Serve the read door: queries."""
    _serve("runtime.read_api")


@app.command()
def audit_api() -> None:
    """Serve the audit door: history."""
    _serve("runtime.audit_api")


@app.command()
def relay() -> None:
    """Publish the log to Kafka."""
    _serve("runtime.relay")


@app.command()
def projector() -> None:
    """Fold the log into the read models."""
    _serve("runtime.projector")


@app.command()
def policies() -> None:
    """React to events with commands, and keep the timers."""
    _serve("runtime.policies")


@app.command()
def verifier() -> None:
    """Compare the read models with the log, again and again, and raise an alarm when a row differs."""
    _serve("runtime.verifier")


@app.command()
def migrate() -> None:
    """Bring both databases to this version's schema."""
    _serve("runtime.migrate")


imports = typer.Typer(
    help="Send what was sold elsewhere, or before, through the write door.", no_args_is_help=True
)
app.add_typer(imports, name="import")


@imports.command("file")
def import_file(
    path: Annotated[Path, typer.Argument(help="NDJSON: locations, products, stock and past orders.")],
    *,
    source: Annotated[
        str | None, typer.Option(help="What this is an import of; the file's name if not said.")
    ] = None,
) -> None:
    """Import a file. The same command again goes on where it stopped, and doubles nothing."""
    from runtime.importing.records import count_in, records_in, source_of  # noqa: PLC0415 - see up

    _import(lambda: (records_in(path), source_of(path, source), count_in(path)))


@imports.command("complete-journey")
def import_complete_journey(
    *, baskets: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None
) -> None:
    """Import a year of a real grocer's baskets, from the package of the extra `sample`."""
    from runtime.importing.complete_journey import SOURCE, Journey  # noqa: PLC0415 - see up

    def records() -> tuple[Iterator[tuple[str, "Record"]], str, int]:
        journey = Journey(baskets)
        return journey.records(), SOURCE, journey.count

    _import(records)


def _import(records: Callable[[], tuple[Iterator[tuple[str, "Record"]], str, int]]) -> None:
    from runtime.importing.show import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: run(load_settings(), *records()))


@app.command()
def replay(
    fold: Annotated[Path, typer.Argument(help="A Python file with the functions keys and evolve.")],
    *,
    into: Annotated[Path, typer.Option(help="The SQLite file that is written.")],
    upto: Annotated[int | None, typer.Option(min=1, help="The last position; the head if not said.")] = None,
) -> None:
    """Run a fold of your own over the history, into a SQLite file."""
    from runtime.replay import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: run(_with_databases("database_url"), fold, into, upto))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="NDJSON, an event a line; its manifest is written beside it.")],
    *,
    first: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="The last position; the head if not said.")
    ] = None,
) -> None:
    """Write a range of the log to a file, with its digest."""
    from runtime.export import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: run(_with_databases("database_url"), file, first, last))


Models = Annotated[list[str] | None, typer.Argument(help="Read models; all of them if none is named.")]


@app.command()
def rebuild(
    models: Models = None,
    *,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare only: what is served stays, the new one is beside it.")
    ] = False,
) -> None:
    """Make read models anew from the log, and serve these; exit code 1 if a row was not what the log says."""
    from runtime.rebuilding import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    settings = partial(_with_databases, "database_url", "read_database_url")
    _end(lambda: asyncio.run(run(settings(), models or [], serve=not diff)))


ModelNames = Annotated[list[str], typer.Argument(help="Read models.")]


@app.command()
def switch(models: ModelNames) -> None:
    """Serve the newest build that is fed beside the one that is served."""
    _switch(models, back=False)


@app.command()
def back(models: ModelNames) -> None:
    """Serve again what was served before."""
    _switch(models, back=True)


def _switch(models: list[str], *, back: bool) -> None:
    from runtime.rebuilding import switch  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    settings = partial(_with_databases, "database_url", "read_database_url")
    _end(lambda: asyncio.run(switch(settings(), models, back=back)))


@app.command()
def drop(models: ModelNames) -> None:
    """Drop the builds of read models that are not served, and feed them no more."""
    from runtime.rebuilding import drop  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(drop(_with_databases("read_database_url"), models)))


@app.command()
def verify(models: Models = None) -> None:
    """Fold the log anew, up to what is served, and compare row by row; exit code 1 if one differs."""
    from runtime.verifying import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(run(_with_databases("database_url", "read_database_url"), models or [])))


@app.command()
def parked(
    *, as_json: Annotated[bool, typer.Option("--json", help="A line of JSON a stream.")] = False
) -> None:
    """List the streams that stand still in a read model, at an event that its fold refuses."""
    from runtime.parking import show  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(show(_with_databases("database_url", "read_database_url"), as_json=as_json)))


Parking = Annotated[str, typer.Argument(metavar="MODEL", help="The read model.")]


@app.command()
def retry(
    model: Parking,
    stream: Annotated[str | None, typer.Argument(help="The stream; all of them if none is named.")] = None,
) -> None:
    """Fold on from the log what is parked; exit code 1 if the fold still refuses."""
    from runtime.parking import retry  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(retry(_with_databases("database_url", "read_database_url"), model, stream)))


@app.command()
def skip(
    model: Parking,
    stream: Annotated[str, typer.Argument(help="The stream that stands still.")],
    *,
    event: Annotated[UUID, typer.Option(help="The id of the event at which it does.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept for ever.")],
) -> None:
    """Leave an event out of a read model for ever, and fold on behind it; exit code as of retry."""
    from runtime.parking import skip_event  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    wanted = (model, stream, str(event), reason)
    _end(lambda: asyncio.run(skip_event(_with_databases("database_url", "read_database_url"), *wanted)))


@app.command()
def status(
    *,
    lanes: Annotated[bool, typer.Option("--lanes", help="Every lane of every read model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one document of JSON.")] = False,
    every_s: Annotated[
        float | None,
        typer.Option("--watch", min=SHORTEST_WATCH_S, metavar="SECONDS", help="Anew so often, until Ctrl-C."),
    ] = None,
) -> None:
    """Say what runs, where the log's head is, and how far each reader is behind it."""
    from runtime.status import show, watch  # noqa: PLC0415 - see up

    if as_json and every_s is not None:
        raise typer.BadParameter("one document is not told anew: --json or --watch")
    configure_logging(line=PLAIN_LINE)
    showing = show(lanes=lanes, as_json=as_json) if every_s is None else watch(every_s, lanes=lanes)
    _end(lambda: asyncio.run(showing))


def _serve(module: str) -> None:
    configure_logging()

    def work() -> int:
        settings = load_settings()
        run: Callable[[Settings], Coroutine[Any, Any, None]] = importlib.import_module(module).run
        return run_process(_naming_what_is_away(run(settings), settings))

    _end(work)


async def _naming_what_is_away(work: Coroutine[Any, Any, None], settings: Settings) -> None:
    """A process that cannot begin without a database says which one it is."""
    try:
        await work
    except (LogUnavailable, OperationalError, PoolTimeout):
        for name in ("database_url", "read_database_url"):
            await require(variable_of(name), getattr(settings, name))
        raise  # they are there: it was something else


def _with_databases(*names: str) -> Settings:
    """The settings, whose databases of these names are there. Raises DatabaseUnusable."""
    settings = load_settings()
    for name in names:
        asyncio.run(require(variable_of(name), getattr(settings, name)))
    return settings


def _end(work: Callable[[], int]) -> None:
    try:
        code = work()
    except CannotStart as refused:
        typer.echo(f"tallybook: {refused}", err=True)
        code = 1
    except (OperationalError, PoolTimeout) as lost:
        why = str(lost).partition("\n")[0]
        typer.echo(f"tallybook: the database went away ({why}); once it is back, run this again", err=True)
        code = 1
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    app()
