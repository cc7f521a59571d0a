"""`tallybook parked`, `retry` and `skip`: what stands still, and what an operator does about it."""

import getpass
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Final, LiteralString

import msgspec
import typer

from runtime.log.reading import LogReader
from runtime.postgres import Connection, connect
from runtime.process import CannotStart
from runtime.read_models.folding import Model
from runtime.read_models.parked import Parked, parked_streams
from runtime.read_models.resuming import MAX_REASON_CHARS, NotParked, Skip, parked_in, resume, skip
from runtime.read_models.tables import Table
from runtime.settings import Settings
from runtime.verifying import chosen

READER: Final = "tallybook_reader"
PROJECTOR: Final = "tallybook_projector"

_WAITING: Final[LiteralString] = """
select u.stream, 1 + e.version - u.version
from unnest(%s::text[], %s::bigint[]) as u (stream, version)
cross join lateral (
    select version from log.events where stream = u.stream order by version desc limit 1
) e
"""


class NoReason(CannotStart):
    """An event is skipped for a reason, in so many words at most."""


async def show(settings: Settings, *, as_json: bool) -> int:
    """Every stream that stands still, in every build; a line of JSON each, if asked for."""
    async with connect(settings.read_database_url, READER, timezone="UTC") as connection:
        parked = await parked_streams(connection)
        found = await connection.execute("select build, model from read.builds")
        models = dict(await found.fetchall())
    waiting = await _waiting(settings, parked)
    for one, events in zip(parked, waiting, strict=True):
        if as_json:
            told = {"model": models[one.build], **asdict(one), "waiting": events}
            typer.echo(msgspec.json.encode(told).decode())
        else:
            typer.echo(f"{models[one.build]}: {one.stream} since {one.parked_at:%Y-%m-%d %H:%M:%S} UTC")
            typer.echo(
                f"{_place(one)}\n    events that wait: {events}, tries: {one.tries}, build {one.build}"
            )
    if not parked and not as_json:
        typer.echo("no stream is parked")
    return 0


async def _waiting(settings: Settings, parked: Sequence[Parked]) -> list[int]:
    """How many events of each stream are not folded; versions have no gaps."""
    async with connect(settings.database_url, READER) as log:
        found = await log.execute(_WAITING, [[one.stream for one in parked], [one.version for one in parked]])
        rows = await found.fetchall()
    return [int(events) for _, events in rows]


async def retry(settings: Settings, name: str, stream: str | None) -> int:
    """0 when all of the model, or the one stream, resumed; 1 if one still stands still. Raises NotParked."""
    [model] = chosen([name])
    async with _both(settings) as (connection, reader):
        if stream is not None and not await parked_in(connection, Table(model), stream):
            raise NotParked(f"{stream} is not parked in {name}")
        return await _resume(connection, reader, model, stream)


async def skip_event(settings: Settings, name: str, stream: str, event_id: str, reason: str) -> int:
    """As `retry`, without this event, for ever. Raises NoReason, NotParked, NotInLog, TooManySkipped."""
    [model] = chosen([name])
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARS:
        raise NoReason(f"a reason has 1 to {MAX_REASON_CHARS} characters")
    async with _both(settings) as (connection, reader):
        await skip(connection, reader, Table(model), Skip(stream, event_id, reason, _operator()))
        typer.echo(f"{name} leaves out event {event_id} of {stream} for ever")
        return await _resume(connection, reader, model, stream)


@asynccontextmanager
async def _both(settings: Settings) -> AsyncIterator[tuple[Connection, LogReader]]:
    async with (
        connect(settings.read_database_url, PROJECTOR, timezone="UTC") as connection,
        LogReader.open(settings.database_url, PROJECTOR) as reader,
    ):
        yield connection, reader


async def _resume(connection: Connection, reader: LogReader, model: Model, stream: str | None) -> int:
    code = 0
    standing = await parked_in(connection, Table(model), stream)
    if not standing:
        typer.echo(f"no stream is parked in {model.name}")
    for parked in standing:
        still = await resume(connection, reader, Table(model), parked)
        if still is None:
            typer.echo(f"{parked.build}: {parked.stream} has resumed")
        else:
            typer.echo(f"{parked.build}: {parked.stream} stands still\n{_place(still)}")
            code = 1
    return code


def _place(parked: Parked) -> str:
    return (
        f"    at event {parked.event_id} ({parked.type}), version {parked.version},"
        f" position {parked.position}\n    {parked.error}"
    )


def _operator() -> str:
    """Who is logged in on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in a container
        return f"uid {os.getuid()}"
