"""The outermost layer: how many at once, for how long, and what is told of it."""

import asyncio
from typing import Any

import httpx
import pytest
from doors import TOKENS, WriteDoor, surroundings
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from api import bodies
from api.limits import Admission
from api.write import create_app
from commands.ports import Append, LogFull, LogUnavailable, OutcomeUnknown, Rules, Verdict
from commands.shop import Shop
from runtime.ids import CountingIds
from runtime.log.memory import MemoryLog

pytestmark = pytest.mark.anyio

SECONDS = 0.05


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Idempotency-Key": "k"}
    return httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers)


async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


async def test_what_takes_too_long_is_ended_and_the_client_may_ask_again() -> None:
    async with client_of(Admission(never, around=surroundings(), seconds=SECONDS)) as http:
        answer = await http.get("/v1/anything")
    assert (answer.status_code, answer.json()["code"]) == (503, "timed_out")
    assert answer.headers["Retry-After"] == "1"


async def test_a_time_out_of_something_else_is_not_taken_for_ours() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise TimeoutError("of something else")

    transport = httpx.ASGITransport(Admission(broken, around=surroundings(), seconds=SECONDS))
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as http:
        with pytest.raises(TimeoutError, match="of something else"):
            await http.get("/v1/anything")


async def test_one_too_many_is_refused_at_once_and_health_never() -> None:
    open_again = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/v1"):
            await open_again.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    around = surroundings()
    async with client_of(Admission(slow, around=around, seconds=5, max_requests=2)) as http:
        waiting = [asyncio.create_task(http.get("/v1/a")) for _ in range(2)]
        await asyncio.sleep(SECONDS)
        refused = await http.get("/v1/a")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert (await http.get("/healthz")).status_code == 204
        open_again.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [204, 204]
        assert (await http.get("/v1/a")).status_code == 204
    figures = around.telemetry.exposition()[0].decode()
    assert 'tallybook_requests_total{operation="unmatched",status="503"} 1.0' in figures
    assert "tallybook_requests_in_flight 0.0" in figures


async def test_a_body_that_comes_too_slowly_is_given_up(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", SECONDS)

    async def drip() -> Any:
        yield b"{"
        await asyncio.sleep(10 * SECONDS)

    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    answer = await door.send("POST", "/products", headers=headers, content=drip())
    assert (answer.status_code, answer.json()["code"]) == (408, "body_timeout")
    assert answer.headers["Connection"] == "close"


async def test_the_metrics_name_the_operation(door: WriteDoor) -> None:
    await door.post("/products", {})
    figures = (await door.http.get("/metrics")).text
    assert 'tallybook_requests_total{operation="DraftProduct",status="422"} 1.0' in figures
    assert 'tallybook_request_seconds_count{operation="DraftProduct",status="422"} 1.0' in figures


async def test_every_answer_forbids_sniffing(door: WriteDoor) -> None:
    answer = await door.post("/products", {})
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_health_needs_no_token(door: WriteDoor, path: str) -> None:
    assert (await door.http.get(path)).status_code == 200


async def test_not_ready_says_what_is_wrong() -> None:
    app = _app(MemoryLog, {"log": "cannot be reached", "other": None})
    async with client_of(app) as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"log": "cannot be reached", "other": "well"}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (LogFull("7"), "log_full"),
        (LogUnavailable("secret host"), "log_unavailable"),
        (OutcomeUnknown("secret host"), "outcome_unknown"),
    ],
)
async def test_a_log_that_cannot_take_it_is_503_and_tells_nothing_else(failure: Exception, code: str) -> None:
    class FailingLog(MemoryLog):
        async def append(self, _append: Append) -> Verdict:
            raise failure

    async with client_of(_app(FailingLog)) as http:
        answer = await http.post("/v1/locations", json={"location": "A", "name": "A", "country": "DE"})
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert answer.json()["retryable"] is True
    assert "Retry-After" in answer.headers
    assert "secret" not in answer.text


async def test_the_unexpected_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenLog(MemoryLog):
        async def append(self, _append: Append) -> Verdict:
            raise RuntimeError("secret")

    trace = "0af7651916cd43dd8448eb211c80319c"
    async with client_of(_app(BrokenLog)) as http:
        body = {"location": "A", "name": "A", "country": "DE"}
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        answer = await http.post("/v1/locations", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["trace_id"] == trace
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert trace in caplog.text


def _app(kind: type[MemoryLog], wrong: dict[str, str | None] | None = None) -> FastAPI:
    door = WriteDoor()
    log = kind(door.clock)
    shop = Shop(log=log, clock=door.clock, ids=CountingIds(), digest_key=b"k" * 32, rules=Rules())
    return create_app(shop, surroundings(wrong), read_url="http://read")
