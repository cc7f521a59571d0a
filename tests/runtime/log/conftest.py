"""Logs to be tried: the one in PostgreSQL and its twin in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from log_tools import T0, Appends
from tests.conftest import SERVICE_PASSWORD

from commands.ports import Log
from runtime.embedded.postgres import SERVICE
from runtime.ids import FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate
from runtime.postgres import Connection, connect


@pytest.fixture
def appends() -> Appends:
    return Appends()


@pytest.fixture(scope="module")
def shared_log_url(new_database_of_module: Callable[[], str]) -> str:
    """A log for tests that roll back what they write."""
    url = new_database_of_module()
    asyncio.run(migrate(url, "log"))
    return url


@pytest.fixture
def log_url(shared_log_url: str) -> str:
    """An empty log."""
    return _emptied(shared_log_url)


@pytest.fixture
async def owner(log_url: str) -> AsyncIterator[Connection]:
    """A connection that may do anything to the empty log."""
    async with connect(log_url, "postgres") as connection:
        yield connection


def _emptied(url: str) -> str:
    with psycopg.connect(url) as owner:
        # What the last test left behind, say a batch that still waits for the lock, ends first.
        owner.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = current_database() and backend_type = 'client backend'"
            "   and pid <> pg_backend_pid()"
        )
        owner.execute("truncate log.events, log.tags, log.requests, log.writers")
    return url


@pytest.fixture
def service_url() -> Callable[[str], str]:
    """The URL of the services' login, from the owner's."""

    def of(url: str) -> str:
        return urlunsplit(
            (parts := urlsplit(url))._replace(
                netloc=f"{SERVICE}:{SERVICE_PASSWORD}@{parts.hostname}:{parts.port}"
            )
        )

    return of


@pytest.fixture(params=["postgres", "memory"])
async def log(request: pytest.FixtureRequest, shared_log_url: str) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog(FixedClock(T0))
        return
    async with PostgresLog.open(_emptied(shared_log_url)) as opened:
        yield opened
