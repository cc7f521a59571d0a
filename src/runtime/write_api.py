"""Serves the write door."""

from collections.abc import Mapping

from api.auth import Tokens
from api.ports import Surroundings
from api.write import create_app
from commands.ports import Rules
from commands.shop import Shop
from runtime.ids import SystemClock, Uuid7s
from runtime.log.postgres import PostgresLog
from runtime.points import reached
from runtime.process import serve_door
from runtime.settings import Settings
from runtime.telemetry import DoorTelemetry


async def run(settings: Settings) -> None:
    async with PostgresLog.open(settings.database_url) as log:

        async def ready() -> Mapping[str, str | None]:
            return {"log": None if await log.ready() else "cannot be reached"}

        shop = Shop(
            log=log,
            clock=SystemClock(),
            ids=Uuid7s(),
            digest_key=settings.digest_key,
            rules=Rules(),
            reached=reached,
        )
        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(shop, around, read_url=settings.read_url)
        await serve_door(app, host=settings.host, port=settings.write_port)
