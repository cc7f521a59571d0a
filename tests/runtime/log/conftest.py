"""Logs to be tried: the one in PostgreSQL and its twin in memory."""

from collections.abc import AsyncIterator, Callable

import pytest
from log_tools import T0, Appends

from commands.ports import Log
from runtime.ids import FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate


@pytest.fixture
def appends() -> Appends:
    return Appends()


@pytest.fixture
async def log_url(new_database: Callable[[], str]) -> str:
    url = new_database()
    await migrate(url, "log")
    return url


@pytest.fixture(params=["postgres", "memory"])
async def log(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog(FixedClock(T0))
        return
    url = new_database()
    await migrate(url, "log")
    async with PostgresLog.open(url) as opened:
        yield opened
