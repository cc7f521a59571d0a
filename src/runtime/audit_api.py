"""Serves the audit door."""

from collections.abc import Mapping
from typing import Final

from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from api.audit import create_app
from api.auth import Tokens
from api.ports import Surroundings
from runtime.ids import Uuid7s
from runtime.log.reading import LogReader
from runtime.process import serve_door
from runtime.settings import Settings
from runtime.telemetry import DoorTelemetry

UNAVAILABLE: Final = (OperationalError, PoolTimeout)


async def run(settings: Settings) -> None:
    async with LogReader.open(settings.database_url) as reader:

        async def ready() -> Mapping[str, str | None]:
            return await readiness(reader)

        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(reader, around, unavailable=UNAVAILABLE)
        await serve_door(app, host=settings.host, port=settings.audit_port)


async def readiness(reader: LogReader) -> Mapping[str, str | None]:
    try:
        await reader.head()
    except UNAVAILABLE:
        return {"log": "cannot be reached"}
    return {"log": None}
