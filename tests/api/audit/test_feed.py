"""The whole history, as lines and as server-sent events."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from doors import TOKENS, Doors, order_of

from api.audit import _feeding, feed
from api.audit._feeding import lines, until
from api.audit._query import rendered
from api.audit.ports import Filter
from runtime import audit_index
from runtime.audit_log.mapper import Kept
from runtime.log.reading import StoredEvent

pytestmark = pytest.mark.anyio

MANY = 100_000
ID = "0198c0de-0000-7000-8000-00000000beef"
Wanted = Callable[[dict[str, Any]], bool]


async def asked(doors: Doors, headers: dict[str, str] | None = None, **params: Any) -> list[dict[str, Any]]:
    answer = await doors.audit.send("GET", "/feed", "auditor", params=params, headers=headers or {})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, _feeding.NDJSON), answer.text
    assert answer.headers["Cache-Control"] == "private, no-store"
    return [json.loads(line) for line in answer.text.splitlines()]


async def stored(doors: Doors) -> list[StoredEvent]:
    return await doors.reader.read(0, MANY)


async def everything(doors: Doors) -> list[dict[str, Any]]:
    return [json.loads(rendered(event)) for event in await stored(doors)]


async def sold(doors: Doors, sku: str) -> dict[str, Any]:
    """A product, and an order of it by a customer. The order."""
    await doors.write.product(sku, qty=2)
    order: dict[str, Any] = (await doors.write.done("/orders", order_of(sku), role="customer")).json()
    return order


async def test_the_whole_history_in_the_order_of_the_log(doors: Doors) -> None:
    await sold(doors, "FED-1")
    answer = await doors.audit.send("GET", "/feed", "auditor")
    whole = await stored(doors)
    assert answer.content == b"".join(rendered(event) + b"\n" for event in whole)
    assert answer.headers["As-Of-Position"] == str(whole[-1].position)


async def test_each_filter_takes_what_the_same_filter_in_python_takes(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feeding, "BATCH_EVENTS", 7)
    order = await sold(doors, "FED-2")
    whole = await everything(doors)
    placed = next(event for event in whole if event["stream"] == f"order-{order['order_id']}")
    middle = whole[len(whole) // 2]
    correlation = placed["correlation_id"]
    filters: list[tuple[dict[str, Any], Wanted]] = [
        ({"context": "inventory"}, lambda event: event["context"] == "inventory"),
        ({"category": "stock"}, lambda event: event["stream"].startswith("stock-")),
        ({"type": "order.placed.v1"}, lambda event: event["type"] == "order.placed.v1"),
        ({"stream": "stock-FED-2@MAIN"}, lambda event: event["stream"] == "stock-FED-2@MAIN"),
        ({"actor": "customer:customer"}, lambda event: event["actor"] == placed["actor"]),
        ({"correlation": correlation}, lambda event: event["correlation_id"] == correlation),
        ({"from": placed["recorded_at"]}, lambda event: event["recorded_at"] >= placed["recorded_at"]),
        ({"to": middle["recorded_at"]}, lambda event: event["recorded_at"] <= middle["recorded_at"]),
        ({"after": middle["position"]}, lambda event: event["position"] > middle["position"]),
        (
            {"category": "stock", "actor": "customer:customer", "after": placed["position"] - 5},
            lambda event: (
                event["stream"].startswith("stock-")
                and event["actor"] == placed["actor"]
                and event["position"] > placed["position"] - 5
            ),
        ),
    ]
    for params, wanted in filters:
        expected = [event for event in whole if wanted(event)]
        assert expected, params
        assert len(expected) < len(whole), params
        assert await asked(doors, **params) == expected, params
        assert await asked(doors, **params, limit=2) == expected[:2], params


async def test_a_filter_that_takes_nothing_gives_nothing(doors: Doors) -> None:
    await doors.write.product("FED-3")
    nothing: list[dict[str, Any]] = [
        {"stream": "stock-FED-3@NOWHERE"},
        {"stream": "sku-FED-3", "type": "order.placed.v1"},
        {"stream": "sku-FED-3", "context": "orders"},
        {"from": "2999-01-01T00:00:00Z"},
        {"to": "0001-01-01T00:00:00Z"},
        {"after": (await doors.reader.head()).position},
    ]
    for params in nothing:
        assert await asked(doors, **params) == [], params
    since: dict[str, Any] = {"from": "0001-01-01T00:00:00Z"}
    assert await asked(doors, **since) == await everything(doors)


async def test_resumed_at_any_position_the_same_events_come(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feeding, "BATCH_EVENTS", 3)
    await sold(doors, "FED-4")
    for _ in range(4):
        body = {"qty": 1, "reference": {"type": "initial", "id": "x"}}
        await doors.write.done("/stock/FED-4@MAIN/receive", body, role="warehouse")
    head = (await doors.reader.head()).position
    first = max(0, head - 20)
    whole = await everything(doors)
    filters: list[tuple[dict[str, Any], Wanted]] = [
        ({}, lambda _: True),
        ({"stream": "stock-FED-4@MAIN"}, lambda event: event["stream"] == "stock-FED-4@MAIN"),
        ({"context": "inventory"}, lambda event: event["context"] == "inventory"),
        (
            {"actor": "staff:warehouse", "category": "stock"},
            lambda event: event["actor"]["id"] == "warehouse" and event["stream"].startswith("stock-"),
        ),
    ]
    for params, wanted in filters:
        expected = [event for event in whole if wanted(event)]
        assert len([event for event in expected if event["position"] > first]) > 3
        for position in range(first, head + 1):
            headers = {"Last-Event-ID": str(position)}
            assert await asked(doors, headers, after=1, **params) == [
                event for event in expected if event["position"] > position
            ]


async def test_a_stream_is_read_by_its_index(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    await doors.write.product("FED-5")

    async def scanned(*_: object) -> list[StoredEvent]:
        raise AssertionError("the whole log is read")

    monkeypatch.setattr(doors.history, "read", scanned)
    assert len(await asked(doors, stream="sku-FED-5")) == 1


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("?after=9223372036854775807", {}, 400, "invalid_feed_position"),
        ("", {"Last-Event-ID": "9999999999999999999"}, 400, "invalid_feed_position"),
        ("", {"Last-Event-ID": "last"}, 400, "invalid_feed_position"),
        ("", {"Last-Event-ID": ""}, 400, "invalid_feed_position"),
        ("?after=-1", {}, 422, "invalid_fields"),
        ("?limit=0", {}, 422, "invalid_fields"),
        ("?context=orderz", {}, 422, "invalid_fields"),
        ("?category=nothing", {}, 422, "invalid_fields"),
        ("?type=placed", {}, 422, "invalid_fields"),
        ("?stream=nonsense", {}, 422, "invalid_fields"),
        ("?actor=customer", {}, 422, "invalid_fields"),
        ("?correlation=1", {}, 422, "invalid_fields"),
        ("?from=2026-01-01T00:00:00", {}, 422, "invalid_fields"),
        ("?limit=1", {"Accept": "text/event-stream"}, 422, "invalid_fields"),
        ("?to=2026-01-01T00:00:00Z", {"Accept": "text/event-stream"}, 422, "invalid_fields"),
        ("?streams=order-1", {}, 400, "unknown_parameter"),
        ("?type=a.b.v1&type=c.d.v1", {}, 400, "repeated_parameter"),
    ],
)
async def test_what_cannot_be_asked_is_a_problem(
    doors: Doors, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    refused = await doors.audit.send("GET", f"/feed{path}", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_a_last_event_id_stands_there_once(doors: Doors) -> None:
    twice = [("Authorization", f"Bearer {TOKENS['auditor']}"), *[("Last-Event-ID", "1")] * 2]
    refused = await doors.audit.http.get("/v1/feed", headers=twice)
    assert (refused.status_code, refused.json()["code"]) == (400, "repeated_header")


async def test_finding_the_beginning_takes_only_so_long(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(feed, "FIND_SECONDS", 0.05)
    monkeypatch.setattr(doors.history, "head", never)
    refused = await doors.audit.send("GET", "/feed")
    assert (refused.status_code, refused.json()["code"]) == (503, "timed_out")


class Reader:
    """A client of a feed that may stop reading, and may go away, as ASGI has it."""

    def __init__(
        self, doors: Doors, query: str = "", accept: str = _feeding.SERVER_SENT, **headers: str
    ) -> None:
        self.sends: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sends.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.got: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        said = {"authorization": f"Bearer {TOKENS['auditor']}", "accept": accept, **headers}
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/v1/feed", "headers": raw}
        scope |= {"query_string": query.encode(), "http_version": "1.1", "scheme": "http"}
        self.task = asyncio.create_task(doors.audit.app(scope, self.sends.get, self._send))

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.got.put_nowait(message)

    async def hears(self) -> MutableMapping[str, Any]:
        async with asyncio.timeout(5):
            return await self.got.get()

    async def body(self) -> str:
        body: bytes = (await self.hears())["body"]
        return body.decode()

    async def events(self, count: int) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        while len(found) < count:
            blocks = (await self.body()).split("\n\n")
            fields = [dict(line.split(": ", 1) for line in b.split("\n")) for b in blocks if "data: " in b]
            found += fields
        return found

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            await self.task

    async def leaves(self) -> None:
        self.sends.put_nowait({"type": "http.disconnect"})
        await self.ended()


@asynccontextmanager
async def reading(doors: Doors, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    """A reader to whom the door has said that it begins."""
    reader = Reader(doors, query, **headers)
    began = await reader.hears()
    assert began["status"] == 200
    try:
        yield reader
    finally:
        reader.reads.set()
        await reader.leaves()


async def test_events_come_as_they_are_recorded(doors: Doors) -> None:
    await doors.write.product("LIVE-1")
    head = (await doors.reader.head()).position
    async with reading(doors, f"after={head - 2}") as reader:
        old = await reader.events(2)
        assert [event["id"] for event in old] == [str(head - 1), str(head)]
        await sold(doors, "LIVE-2")
        whole = (await everything(doors))[head - 2 :]
        events = old + await reader.events(len(whole) - 2)
    assert [json.loads(event["data"]) for event in events] == whole
    assert [(event["id"], event["event"]) for event in events] == [
        (str(event["position"]), event["type"]) for event in whole
    ]


async def test_a_filter_holds_for_what_is_to_come(doors: Doors) -> None:
    await doors.write.product("LIVE-3", qty=5)
    async with reading(doors, "stream=stock-LIVE-3@MAIN", last_event_id="0") as reader:
        before = await reader.events(1)
        await doors.write.product("LIVE-4", qty=1)
        await doors.write.done("/orders", order_of("LIVE-3"))
        after = await reader.events(1)
    assert before[-1]["event"] == "stock.replenished.v1"
    assert [event["event"] for event in after] == ["stock.reserved.v1"]


async def test_a_feed_from_a_time_to_come_is_a_feed_from_now(doors: Doors) -> None:
    await doors.write.product("LIVE-5")
    newest = (await stored(doors))[-1].recorded_at + timedelta(microseconds=1)
    async with reading(doors, f"from={newest.isoformat().replace('+', '%2B')}") as reader:
        await doors.write.product("LIVE-6")
        (event, *_) = await reader.events(1)
    assert json.loads(event["data"])["recorded_at"] >= newest.isoformat()


async def test_silence_is_broken_by_a_comment_that_says_how_far_one_is(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feeding, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(audit_index, "WAIT_S", 0.0)
    await doors.write.product("LIVE-7")
    head = (await doors.reader.head()).position
    async with reading(doors, f"correlation={ID}") as reader:
        assert await reader.body() == f":\nid: {head}\n\n"
        assert await reader.body() == f":\nid: {head}\n\n"
    async with reading(doors, f"after={head}") as reader:
        assert await reader.body() == ":\n\n"


async def test_a_live_feed_outlives_the_connections_to_the_log(doors: Doors) -> None:
    await doors.write.product("LIVE-8", qty=1)
    head = (await doors.reader.head()).position
    async with reading(doors, f"category=stock&after={head - 1}") as reader:
        found = await reader.events(1)
        for _ in range(3):
            with psycopg.connect(doors.log_url, autocommit=True) as owner:
                owner.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where"
                    " datname = current_database() and application_name = 'tallybook_reader'"
                )
            body = {"qty": 1, "reference": {"type": "initial", "id": "x"}}
            await doors.write.done("/stock/LIVE-8@MAIN/receive", body)
            found += await reader.events(1)
    assert [int(event["id"]) for event in found] == list(range(head, head + 4))


async def test_for_who_reads_slowly_no_more_is_read_than_a_few_batches(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feeding, "BATCH_EVENTS", 2)
    await doors.write.product("LIVE-9")
    head = (await doors.reader.head()).position
    reads = 0
    read = doors.history.read

    async def counted(after: int, limit: int) -> Any:
        nonlocal reads
        reads += 1
        return await read(after, limit)

    monkeypatch.setattr(doors.history, "read", counted)
    async with reading(doors, f"after={head}") as reader:
        reader.reads.clear()
        for _ in range(20):
            body = {"qty": 1, "reference": {"type": "initial", "id": "x"}}
            await doors.write.done("/stock/LIVE-9@MAIN/receive", body)
        await asyncio.sleep(0.2)
        assert reads <= 4
        reader.reads.set()
        found = await reader.events(21)
    assert [int(event["id"]) for event in found] == list(range(head + 1, head + 22))


async def test_a_client_that_goes_away_is_left(doors: Doors) -> None:
    async with reading(doors) as reader:
        await reader.leaves()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "send a feed"]


@pytest.mark.parametrize("accept", [_feeding.NDJSON, _feeding.SERVER_SENT])
async def test_who_reads_nothing_is_cut_off(
    doors: Doors, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feeding, "SILENCE_SECONDS", 0.1)
    await doors.write.product(f"SLOW-{accept[-3:].upper()}")
    async with reading(doors, accept=accept) as reader:
        reader.reads.clear()
        await reader.ended()
    left = [reader.got.get_nowait() for _ in range(reader.got.qsize())]
    assert all(message.get("more_body") for message in left), "it does not look whole"


async def test_only_so_many_feeds_at_once(doors: Doors) -> None:
    head = (await doors.reader.head()).position
    readers = [Reader(doors, f"after={head}") for _ in range(feed.MAX_FEEDS)]
    for reader in readers:
        assert (await reader.hears())["status"] == 200
    refused = await doors.audit.send("GET", "/feed")
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    for reader in readers:
        await reader.leaves()
    assert (await doors.audit.send("GET", f"/feed?after={head}")).status_code == 200


async def test_a_long_history_takes_no_more_memory_than_a_few_batches(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    await doors.write.product("LONG-1")
    (event,) = await doors.history.read(0, 1)
    end = 40 * _feeding.BATCH_EVENTS

    async def at(positions: Iterable[int]) -> list[Kept]:
        return [replace(event, id=position) for position in positions]

    async def read(after: int, limit: int) -> list[Kept]:
        return await at(range(after + 1, after + limit + 1))

    async def found(_: Filter, *, after: int, upto: int, limit: int) -> Sequence[int]:
        return range(after + 1, min(upto, after + limit) + 1)

    monkeypatch.setattr(doors.history, "read", read)
    monkeypatch.setattr(doors.history, "read_positions", at)
    monkeypatch.setattr(doors.index, "positions", found)
    for wanted in (Filter(), Filter(type=event.type)):
        tracemalloc.start()
        try:
            count = sent = 0
            async for chunk in lines(until(doors.history, doors.index, wanted, 0, end), None):
                count += chunk.count(b"\n")
                sent += len(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == end
        assert peak < sent / 5


async def test_a_batch_says_up_to_where_it_goes(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_feeding, "BATCH_EVENTS", 4)
    await doors.write.product("UPTO-1")
    head = (await doors.reader.head()).position
    batches = [batch async for batch in until(doors.history, doors.index, Filter(), head - 6, head - 1)]
    assert [batch.upto for batch in batches] == [head - 2, head - 1]
    assert [event.position for batch in batches for event in batch.events] == list(range(head - 5, head))
