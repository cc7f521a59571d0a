"""Serves the write door."""

from collections.abc import Mapping

from api.auth import Tokens
from api.ports import Surroundings
from api.write import create_app
from runtime.ids import Uuid7s
from runtime.log.postgres import PostgresLog
from runtime.log.snapshots import SnapshotStore
from runtime.process import serve_door
from runtime.settings import Settings
from runtime.shop import shop_on
from runtime.telemetry import DoorTelemetry


async def run(settings: Settings) -> None:
    async with (
        PostgresLog.open(settings.database_url) as log,
        SnapshotStore.open(settings.database_url) as snapshots,
    ):

        async def ready() -> Mapping[str, str | None]:
            return {"log": None if await log.ready() else "cannot be reached"}

        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(shop_on(log, snapshots, settings), around, read_url=settings.read_url)
        await serve_door(app, host=settings.host, port=settings.write_port)
