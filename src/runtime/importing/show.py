"""An import as the command line shows it."""

import asyncio
import time
from collections.abc import Callable, Iterator

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from runtime.importing.door import BulkDoor
from runtime.importing.records import Record
from runtime.importing.run import Report, import_records
from runtime.process import INTERRUPTED
from runtime.settings import Settings, url_of

ROLE = "admin"


def run(settings: Settings, records: Iterator[tuple[str, Record]], source: str, count: int) -> int:
    """The exit code: 0 when nothing was refused."""
    began = time.monotonic()
    shown = Progress(
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    try:
        with shown:
            task = shown.add_task("", total=count)
            report = asyncio.run(_send(settings, records, source, lambda done: shown.advance(task, done)))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command again goes on from here", err=True)
        return INTERRUPTED
    seconds = time.monotonic() - began
    typer.echo(
        f"{report.records:,} records, {report.commands:,} commands in {seconds:.1f} s "
        f"({report.commands / seconds:,.0f} a second), {report.refused:,} refused"
    )
    for line in report.told:
        typer.echo(line, err=True)
    return 1 if report.refused else 0


async def _send(
    settings: Settings, records: Iterator[tuple[str, Record]], source: str, progress: Callable[[int], None]
) -> Report:
    async with BulkDoor.open(url_of(settings.host, settings.write_port), settings.tokens[ROLE]) as door:
        return await import_records(records, source, door, progress)
