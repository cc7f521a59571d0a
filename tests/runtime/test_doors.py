"""How the doors say that what they stand on is gone."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import psycopg
import pytest
from doors import DOCUMENTS, Caller, surroundings

import runtime.postgres
from api.audit import create_app as create_audit_app
from api.read import create_app as create_read_app
from runtime import audit_api, read_api
from runtime.audit_index import AuditIndex
from runtime.audit_log import threaded
from runtime.audit_log.threaded import ThreadedHistory
from runtime.log.reading import LogReader
from runtime.migrate import migrate
from runtime.read_models.past import PastRows
from runtime.read_models.rows import PostgresRows

pytestmark = pytest.mark.anyio

ID = "0198c0de-0000-7000-8000-00000000beef"


@pytest.fixture
def nowhere(free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database that is not there."""
    monkeypatch.setattr(runtime.postgres, "POOL_WAIT_S", 0.2)
    monkeypatch.setattr(threaded, "WAIT_S", 0.2)
    return f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"


def assert_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert "127.0.0.1" not in answer.text


async def test_without_its_database_the_read_door_is_unavailable(nowhere: str) -> None:
    async with PostgresRows.open(nowhere) as rows, LogReader.open(nowhere) as reader:
        past = PastRows(rows, reader)
        app = create_read_app(past, past, surroundings(), unavailable=read_api.UNAVAILABLE)
        caller = Caller(app, DOCUMENTS["read"])
        async with caller.http:
            assert_unavailable(await caller.send("GET", f"/orders/{ID}"))
        assert await read_api.readiness(rows) == {"read models": "cannot be reached"}


@asynccontextmanager
async def audit_door(log_url: str, read_url: str) -> AsyncIterator[tuple[ThreadedHistory, AuditIndex]]:
    async with ThreadedHistory.open(log_url) as history, AuditIndex.open(read_url, history) as index:
        yield history, index


async def test_without_the_log_the_audit_door_is_unavailable(nowhere: str) -> None:
    async with audit_door(nowhere, nowhere) as (history, index):
        app = create_audit_app(history, index, surroundings(), unavailable=audit_api.UNAVAILABLE)
        caller = Caller(app, DOCUMENTS["audit"])
        async with caller.http:
            for path in (f"/events/{ID}", f"/events/{ID}/causes", "/streams/order-x", "/feed"):
                assert_unavailable(await caller.send("GET", path))
        assert (await audit_api.readiness(history, index))["log"] == "cannot be reached"


async def test_the_read_door_is_ready_once_its_read_models_have_caught_up(
    new_database: Callable[[], str],
) -> None:
    url = new_database()
    await migrate(url, "read")
    async with PostgresRows.open(url) as rows:
        assert set((await read_api.readiness(rows)).values()) == {"has not caught up with the log yet"}


async def test_the_audit_door_is_ready_once_the_log_is_there_whatever_its_index_is(
    new_database: Callable[[], str], nowhere: str
) -> None:
    url = new_database()
    await migrate(url, "log")
    await migrate(url, "read")
    for read_url, wrong in ((url, "has not caught up"), (nowhere, "cannot be reached")):
        async with audit_door(url, read_url) as (history, index):
            found = await audit_api.readiness(history, index)
            assert found["log"] is None
            assert str(found["event index"]).startswith(wrong)

            async def ready(found: Mapping[str, str | None] = found) -> Mapping[str, str | None]:
                return found

            app = create_audit_app(history, index, replace(surroundings(), ready=ready))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://door"
            ) as client:
                answer = await client.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (200, "ready")
            assert answer.json()["checks"]["event index"].startswith(wrong)


async def test_a_connection_that_is_cut_is_replaced(new_database: Callable[[], str]) -> None:
    url = new_database()
    await migrate(url, "log")
    async with audit_door(url, url) as (history, index):
        await history.head()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        assert (await audit_api.readiness(history, index))["log"] is None
