"""Serves the read door."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final

from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from api.auth import Tokens
from api.ports import Surroundings
from api.read import create_app
from projections import READ_MODELS
from runtime.cache import Cache
from runtime.ids import Uuid7s
from runtime.log.reading import LogReader
from runtime.process import serve_door
from runtime.read_models.past import PastRows
from runtime.read_models.rows import PostgresRows
from runtime.settings import Settings
from runtime.telemetry import DoorTelemetry

UNAVAILABLE: Final = (OperationalError, PoolTimeout)


async def run(settings: Settings) -> None:
    async with (
        Cache.open(settings.cache_url) if settings.cache_url else nullcontext() as held,
        PostgresRows.open(settings.read_database_url, held) as rows,
        LogReader.open(settings.database_url) as reader,
    ):
        past = PastRows(rows, reader)

        async def ready() -> Mapping[str, str | None]:
            return await readiness(rows)

        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(past, past, around, unavailable=UNAVAILABLE)
        await serve_door(app, host=settings.host, port=settings.read_port)


async def readiness(rows: PostgresRows) -> Mapping[str, str | None]:
    try:
        return {
            model.name: None if await rows.ready(model) else "has not caught up with the log yet"
            for model in READ_MODELS
        }
    except UNAVAILABLE:
        return {"read models": "cannot be reached"}
