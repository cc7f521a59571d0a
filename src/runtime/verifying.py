"""`tallybook verify`: are the read models what the log says?"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from projections import READ_MODELS
from runtime.audit_log.history import History
from runtime.process import CannotStart
from runtime.read_models.folding import Model
from runtime.read_models.verify import MAX_EVENTS_TOLD, MAX_TOLD, Difference, Verified, verify
from runtime.settings import Settings

MAX_VALUE_CHARS: Final = 200


class UnknownReadModel(CannotStart):
    """There is no read model of this name."""


async def run(settings: Settings, names: Sequence[str]) -> int:
    """0 when no row differs and no stream is parked, else 1. Raises UnknownReadModel, NothingServed."""
    wrong = 0
    for model in chosen(names):
        began = time.monotonic()
        verified = await _shown(settings, model)
        wrong += verified.differing + len(verified.parked)
        typer.echo(
            f"{verified.model}: {verified.rows:,} rows, {verified.differing:,} differ from the log "
            f"up to position {verified.head:,} ({time.monotonic() - began:.1f} s)"
        )
        for difference in verified.told:
            typer.echo(told(difference))
        for one in verified.parked[:MAX_TOLD]:
            typer.echo(f"  {one.stream} is parked, and compared up to version {one.version - 1}")
        if len(verified.parked) > MAX_TOLD:
            typer.echo(f"  {len(verified.parked)} streams are parked, which `tallybook parked` lists")
    return 1 if wrong else 0


def chosen(names: Sequence[str]) -> Sequence[Model]:
    """All of them where none is named."""
    known = {model.name: model for model in READ_MODELS}
    if unknown := sorted(set(names) - set(known)):
        raise UnknownReadModel(f"no read model {', '.join(unknown)}; there are {', '.join(known)}")
    return [model for name, model in known.items() if not names or name in names]


async def _shown(settings: Settings, model: Model) -> Verified:
    with events_shown(model.name) as progress, History.open(settings.database_url) as history:
        return await verify(history, settings.read_database_url, model, progress)


@contextmanager
def events_shown(name: str) -> Iterator[Callable[[int], None]]:
    """Shows how many events have been read, as it is told of them; to a terminal only."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,} events"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda events: progress.advance(task, events)


def told(difference: Difference) -> str:
    """The row, the fields that differ, and the first events that feed it."""
    lines = [f"  {difference.key}"]
    if difference.stored == difference.expected:
        lines.append("    its parts, from which it is folded on, are not those of the log")
    elif difference.stored is None or difference.expected is None:
        wrong, right = ("is served", "not be") if difference.expected is None else ("is not served", "be")
        lines.append(f"    {wrong}, and by the log it should {right}")
    else:
        for name, (stored, expected) in difference.fields().items():
            lines.append(f"    {name}: {_short(stored)}, by the log {_short(expected)}")
    lines += [
        f"    {event.position:>12}  {event.type:<28} {event.stream} version {event.version}"
        for event in difference.events
    ]
    if len(difference.events) == MAX_EVENTS_TOLD:
        lines.append(f"    (the first {MAX_EVENTS_TOLD} events that feed it; there may be more)")
    return "\n".join(lines)


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"
