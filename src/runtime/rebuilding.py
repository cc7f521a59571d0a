"""`tallybook rebuild`: read models made anew from the log, and served in place of what was."""

import time
from collections.abc import Sequence

import typer

from runtime.audit_log.history import History
from runtime.log.reading import LogReader
from runtime.read_models.folding import Model
from runtime.read_models.rebuild import ROLE, Rebuild, Rebuilt
from runtime.settings import Settings
from runtime.verifying import chosen, events_shown, told


async def run(settings: Settings, names: Sequence[str]) -> int:
    """0 when no row differed from what was served, 1 when some did. Raises as `Rebuild.run` and `chosen`."""
    differing = 0
    for model in chosen(names):
        began = time.monotonic()
        rebuilt = await _rebuilt(settings, model)
        differing += rebuilt.differing
        compared = f"{rebuilt.differing:,} differed" if rebuilt.compared else "nothing was served before"
        typer.echo(
            f"{rebuilt.model}: {rebuilt.rows:,} rows from the log up to position {rebuilt.head:,}, {compared}"
            f" ({time.monotonic() - began:.1f} s)"
        )
        for difference in rebuilt.told:
            typer.echo(told(difference))
    return 1 if differing else 0


async def _rebuilt(settings: Settings, model: Model) -> Rebuilt:
    with events_shown(model.name) as progress, History.open(settings.database_url) as history:
        async with LogReader.open(settings.database_url, ROLE) as reader:
            return await Rebuild(settings.read_database_url, reader, history, model, progress).run()
