"""The doors, and a client that checks every answer against the door's document."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from api import consistency
from api.audit import create_app as create_audit_app
from api.auth import SCOPES, Tokens
from api.ports import Surroundings
from api.read import create_app as create_read_app
from api.write import create_app
from commands.ports import Log, Rules
from commands.shop import Shop
from domain.envelope import Token
from runtime.audit_index import AuditIndex
from runtime.audit_log.threaded import ThreadedHistory
from runtime.ids import CountingIds, FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.migrate import migrate
from runtime.openapi import documents
from runtime.postgres import open_pool
from runtime.projector import Projector
from runtime.read_models.past import PastRows
from runtime.read_models.rows import PostgresRows
from runtime.telemetry import DoorTelemetry

T0: Final = datetime(2026, 3, 1, tzinfo=UTC)
TOKENS: Final[dict[str, str]] = {role: f"token-of-{role}" for role in SCOPES}
PRODUCT: Final = {"slug": "tea", "title": {"en": "Tea"}, "tax_class": "standard"}
INITIAL: Final = {"type": "initial", "id": "count"}


def surroundings(wrong: Mapping[str, str | None] | None = None) -> Surroundings:
    async def ready() -> Mapping[str, str | None]:
        return wrong or {"log": None}

    return Surroundings(Tokens(TOKENS), CountingIds().new, DoorTelemetry(CollectorRegistry()), ready)


DOCUMENTS: Final = documents()


class Caller:
    """Sends requests; what comes back must be something the door's OpenAPI document promises."""

    def __init__(self, app: FastAPI, document: dict[str, Any]) -> None:
        self.app = app
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://door")
        self._paths = {
            re.compile(re.sub(r"\{\w+\}", "[^/]+", path)): operations
            for path, operations in document["paths"].items()
        }

    async def send(self, method: str, path: str, role: str | None = "admin", **more: Any) -> httpx.Response:
        """Header `Authorization` of the role, unless None."""
        headers = {"Authorization": f"Bearer {TOKENS[role]}"} if role else {}
        headers |= more.pop("headers", {})
        answer = await self.http.request(method, f"/v1{path}", headers=headers, **more)
        if operation := self._operation(method, path):
            _check(operation, answer)
        return answer

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        bare = f"/v1{path.partition('?')[0]}"
        found = [operations for pattern, operations in self._paths.items() if pattern.fullmatch(bare)]
        return found[0].get(method.lower()) if found else None


def _check(operation: dict[str, Any], answer: httpx.Response) -> None:
    assert str(answer.status_code) in operation["responses"], answer.text
    if answer.is_error:
        problem = answer.json()
        assert problem["code"] != "internal_error", answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        promised = operation["responses"][str(answer.status_code)]["content"]["application/problem+json"]
        assert problem["code"] in promised["schema"]["allOf"][1]["properties"]["code"]["enum"]
        assert problem["status"] == answer.status_code
        assert problem["type"] == f"/problems/{problem['code']}"
        assert problem["retryable"] is ("Retry-After" in answer.headers)
        assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    elif "x-events" in operation:
        assert {event["type"] for event in answer.json()["events"]} <= set(operation["x-events"])


class WriteDoor(Caller):
    def __init__(self, log: Log | None = None) -> None:
        self.clock = FixedClock(T0)
        self.log = log or MemoryLog(self.clock)
        ids = CountingIds()
        self.shop = Shop(log=self.log, clock=self.clock, ids=ids, digest_key=b"k" * 32, rules=Rules())
        super().__init__(create_app(self.shop, surroundings(), read_url="http://read"), DOCUMENTS["write"])
        self._keys = (f"key-{number}" for number in itertools.count(1))

    async def post(
        self,
        path: str,
        body: Any = None,
        role: str | None = "admin",
        *,
        key: str | None = None,
        version: int | str | None = None,
        **headers: str,
    ) -> httpx.Response:
        """`version`: If-Match. A new idempotency key unless one is given; body None sends none."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Idempotency-Key"] = next(self._keys) if key is None else key
        if version is not None:
            sent["If-Match"] = f'"{version}"' if isinstance(version, int) else version
        content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        if isinstance(body, bytes):
            sent.setdefault("Content-Type", "application/json")
        return await self.send("POST", path, role, headers=sent, **content)

    async def done(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        answer = await self.post(path, body, **more)
        assert answer.is_success, answer.text
        return answer

    async def head(self) -> int:
        """The position of the last event: what a refusal must leave as it was."""
        first = 1
        while await self.log.read_positions(first, 1):
            first += 1
        return first - 1

    async def product(
        self, sku: str = "TEA-1", *, amount: int = 500, qty: int = 0, **draft: Any
    ) -> dict[str, str]:
        """A published product with one variant, in stock at MAIN. `draft`: further fields. Its ids."""
        if not (await self.log.read_streams({"location-MAIN": 0})).get("location-MAIN"):
            await self.done("/locations", {"location": "MAIN", "name": "Main", "country": "DE"})
        drafted = (await self.done("/products", {**PRODUCT, "slug": sku.lower(), **draft})).json()
        path = f"/products/{drafted['product_id']}"
        variant = {"sku": sku, "options": {}, "weight_g": 100}
        added = (await self.done(f"{path}/add-variant", variant, version=drafted["version"])).json()
        price = {"product_id": drafted["product_id"], "currency": "EUR", "amount_minor": amount}
        await self.done(f"/prices/{added['variant_id']}/set", price, version=0)
        await self.done(f"{path}/publish", version=added["version"])
        if qty:
            await self.done(f"/stock/{sku}@MAIN/receive", {"qty": qty, "reference": INITIAL})
        return {"product_id": drafted["product_id"], "variant_id": added["variant_id"]}


def order_of(sku: str = "TEA-1", qty: int = 1, total: int = 500, currency: str = "EUR") -> dict[str, Any]:
    return {
        "customer_id": "0198c0de-0000-7000-8000-00000000c001",
        "lines": [{"sku": sku, "qty": qty}],
        "currency": currency,
        "expected_total": {"amount_minor": total, "currency": currency},
    }


@dataclass(frozen=True)
class Doors:
    """All three over one shop, whose read models follow its log by watching it."""

    write: WriteDoor
    read: Caller
    audit: Caller
    log: PostgresLog
    reader: LogReader
    history: ThreadedHistory
    index: AuditIndex
    log_url: str
    read_url: str

    async def seen(self, path: str, after: httpx.Response | None = None, **more: Any) -> httpx.Response:
        """The answer to a query that waits for what a command wrote; without one, for all of the log."""
        token = after.headers["Consistency-Token"] if after else await self.everything()
        headers = {"Consistency-Token": token, "Prefer": "wait=10"} | more.pop("headers", {})
        return await self.read.send("GET", path, headers=headers, **more)

    async def everything(self) -> str:
        return consistency.encode(Token(self.log.incarnation, await self.reader.heads()))


@asynccontextmanager
async def doors_over(log_url: str, read_url: str) -> AsyncIterator[Doors]:
    await migrate(log_url, "log")
    await migrate(read_url, "read")
    async with (
        PostgresLog.open(log_url) as log,
        LogReader.open(log_url) as reader,
        ThreadedHistory.open(log_url) as history,
        PostgresRows.open(read_url) as rows,
        open_pool(read_url, "tallybook_projector", size=4) as pool,
        asyncio.TaskGroup() as tasks,
    ):
        projector = Projector(reader, pool, servers="")
        past = PastRows(rows, reader)
        index = AuditIndex(rows, history)
        await projector._prepare()
        following = [
            tasks.create_task(work) for work in (projector._watch(), projector._wake())
        ]  # all but Kafka
        doors = Doors(
            WriteDoor(log),
            Caller(create_read_app(past, past, surroundings()), DOCUMENTS["read"]),
            Caller(create_audit_app(history, index, surroundings()), DOCUMENTS["audit"]),
            log,
            reader,
            history,
            index,
            log_url,
            read_url,
        )
        async with doors.write.http, doors.read.http, doors.audit.http:
            yield doors
        for task in following:
            task.cancel()
