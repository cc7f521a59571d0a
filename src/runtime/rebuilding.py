"""`tallybook rebuild`: read models made anew from the log, and served in place of what was."""

import time
from collections.abc import Sequence

import typer

from runtime.audit_log.history import History
from runtime.log.reading import LogReader
from runtime.process import collect_rarely
from runtime.read_models import rebuild
from runtime.read_models.folding import Model
from runtime.read_models.rebuild import ROLE, Rebuild, Rebuilt
from runtime.settings import Settings
from runtime.verifying import chosen, events_shown, told


async def run(settings: Settings, names: Sequence[str], *, serve: bool) -> int:
    """0 when what was served was what the log says, else 1. Raises as `Rebuild.run` and `chosen`."""
    collect_rarely()
    wrong = 0
    for model in chosen(names):
        began = time.monotonic()
        rebuilt = await _rebuilt(settings, model, serve=serve)
        wrong += rebuilt.differing + len(rebuilt.strayed)
        compared = f"{rebuilt.differing:,} differed" if rebuilt.compared else "nothing was served before"
        typer.echo(
            f"{rebuilt.model}: {rebuilt.rows:,} rows from the log up to position {rebuilt.head:,}, {compared}"
            f" ({time.monotonic() - began:.1f} s)"
        )
        for (context, lane), mark in rebuilt.strayed.items():
            typer.echo(
                f"  what was served had applied event {mark.event_id} at position {mark.position} "
                f"({context}, lane {lane}), which the log does not have"
            )
        for difference in rebuilt.told:
            typer.echo(told(difference))
        if rebuilt.compared and not serve:
            typer.echo(f"{rebuilt.build} is fed beside what is served; `tallybook switch {rebuilt.model}`")
    return 1 if wrong else 0


async def switch(settings: Settings, names: Sequence[str], *, back: bool) -> int:
    """Raises as `rebuild.switch` and `chosen`."""
    async with LogReader.open(settings.database_url, ROLE) as reader:
        for model in chosen(names):
            before, now = await rebuild.switch(settings.read_database_url, reader, model, back=back)
            typer.echo(f"{model.name}: {now} is served; {before} is fed beside it")
    return 0


async def drop(settings: Settings, names: Sequence[str]) -> int:
    """Raises as `rebuild.drop` and `chosen`."""
    for model in chosen(names):
        dropped = await rebuild.drop(settings.read_database_url, model)
        typer.echo(f"{model.name}: dropped {', '.join(dropped) or 'nothing'}")
    return 0


async def _rebuilt(settings: Settings, model: Model, *, serve: bool) -> Rebuilt:
    with events_shown(model.name) as progress, History.open(settings.database_url) as history:
        async with LogReader.open(settings.database_url, ROLE) as reader:
            return await Rebuild(settings.read_database_url, reader, history, model, progress).run(
                serve=serve
            )
