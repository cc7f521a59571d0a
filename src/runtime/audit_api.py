"""Serves the audit door."""

import asyncio
from collections.abc import Mapping
from typing import Final

from api.audit import create_app
from api.auth import Tokens
from api.ports import Surroundings
from runtime.audit_index import AuditIndex
from runtime.audit_log.threaded import HistoryAway, ThreadedHistory
from runtime.ids import Uuid7s
from runtime.process import serve_door
from runtime.settings import Settings
from runtime.telemetry import DoorTelemetry

UNAVAILABLE: Final = (HistoryAway,)


async def run(settings: Settings) -> None:
    async with (
        ThreadedHistory.open(settings.database_url) as history,
        AuditIndex.open(settings.read_database_url, history) as index,
    ):

        async def ready() -> Mapping[str, str | None]:
            return await readiness(history, index)

        around = Surroundings(Tokens(settings.tokens), Uuid7s().new, DoorTelemetry(), ready)
        app = create_app(history, index, around, unavailable=UNAVAILABLE)
        await serve_door(app, host=settings.host, port=settings.audit_port)


async def readiness(history: ThreadedHistory, index: AuditIndex) -> Mapping[str, str | None]:
    """Without its index the door is slower, and ready all the same."""
    log, wrong = await asyncio.gather(_log(history), index.wrong())
    return {"log": log, "event index": wrong}


async def _log(history: ThreadedHistory) -> str | None:
    try:
        await history.head()
    except HistoryAway:
        return "cannot be reached"
    return None
