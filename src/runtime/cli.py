"""The command `tallybook`: every process of the house is one of its sub-commands."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
            help="Doors on the three ports after it, services and figures on the next six, "
            "further write doors from the eleventh on.",
        ),
    ] = 8000,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, one line of JSON on standard output.")
    ] = False,
    write_apis: Annotated[int, typer.Option(min=1, max=20, help="How many write doors.")] = 1,
) -> None:
    """Run the whole house on this machine, in the foreground, with embedded services where none are given."""
    from runtime.up import Ports, run_house  # noqa: PLC0415 - a process loads its own rooms only

    configure_logging(line=PLAIN_LINE)
    _end(lambda: run_process(run_house(load_up_settings(), Ports(port_base, write_apis), as_json=as_json)))


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
def rebuild(models: Models = None) -> None:
    """Make read models anew from the log, and serve these; exit code 1 if a row was not what the log says."""
    from runtime.rebuilding import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(run(_with_databases("database_url", "read_database_url"), models or [])))


@app.command()
def verify(models: Models = None) -> None:
    """Fold the log anew, up to what is served, and compare row by row; exit code 1 if one differs."""
    from runtime.verifying import run  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(run(_with_databases("database_url", "read_database_url"), models or [])))


@app.command()
def status() -> None:
    """Say what runs, where the log's head is, and how far each reader has come."""
    from runtime.status import show  # noqa: PLC0415 - see up

    configure_logging(line=PLAIN_LINE)
    _end(lambda: asyncio.run(show()))


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
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    app()
