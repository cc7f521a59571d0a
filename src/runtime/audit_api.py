"""Serves the audit door."""

from collections.abc import Mapping
from typing import Final

from api.audit import create_app
from api.auth import Tokens
from api.ports import Surroundings
from runtime.audit_log.threaded import HistoryAway, ThreadedHistory
from runtime.ids import Uuid7s
from runtime.process import serve_door
from runtime.settings import Settings
from runtime.telemetry import DoorTelemetry

UNAVAILABLE: Final = (HistoryAway,)


async def run(settings: Settings) -> None:
    async with ThreadedHistory.open(settings.database_url) as history:

        async def ready() -> Mapping[str, str | None]:
            return await readiness(history)

        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(history, around, unavailable=UNAVAILABLE)
        await serve_door(app, host=settings.host, port=settings.audit_port)


async def readiness(history: ThreadedHistory) -> Mapping[str, str | None]:
    try:
        await history.head()
    except HistoryAway:
        return {"log": "cannot be reached"}
    return {"log": None}
