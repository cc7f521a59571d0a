"""Records become commands at the write door; whatever stops an import, the same one again goes on."""

import asyncio
import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from doors import TOKENS, WriteDoor
from pydantic import TypeAdapter

from api.write._fields import ShortText
from domain.order import OrderImported
from domain.product import ProductPublished
from runtime.importing import door as importing_door
from runtime.importing.door import BulkDoor, Unreachable
from runtime.importing.records import MAX_SOURCE, Order, Record, Unreadable, count_in, records_in, source_of
from runtime.importing.run import Report, import_records
from runtime.importing.steps import steps_of

pytestmark = pytest.mark.anyio

SHOP: list[dict[str, Any]] = [
    {"kind": "location", "location": "L1", "name": "Till 1", "country": "DE"},
    {
        "kind": "product",
        "slug": "tea",
        "title": {"en": "Tea"},
        "attributes": {"department": "GROCERY"},
        "variants": [
            {"sku": "TEA-S", "options": {"size": "s"}, "price": {"currency": "EUR", "amount_minor": 250}},
            {"sku": "TEA-L", "options": {"size": "l"}, "price": {"currency": "EUR", "amount_minor": 450}},
        ],
        "publish": True,
    },
    {"kind": "product", "slug": "salt", "title": {"en": "Salt"}, "variants": [{"sku": "SALT"}]},
    {"kind": "stock", "id": "1", "sku": "TEA-S", "location": "L1", "qty": 12},
    *(
        {
            "kind": "order",
            "id": str(number),
            "sold_at": f"2017-01-01T10:00:{number % 60:02}Z",
            "customer": f"household {number % 7}",
            "location": "L1",
            "currency": "EUR",
            "lines": [{"sku": "TEA-S", "qty": number, "amount_minor": 250 * number}],
        }
        for number in range(600)
    ),
]


@pytest.fixture
async def door() -> AsyncIterator[WriteDoor]:
    door = WriteDoor()
    async with door.http:
        yield door


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, *SHOP)


def written(directory: Path, *records: Any) -> Path:
    path = directory / "shop.ndjson"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
async def bulk(door: WriteDoor) -> AsyncIterator[BulkDoor]:
    transport = httpx.ASGITransport(door.app)
    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
        yield BulkDoor(client)


async def run(path: Path, bulk: BulkDoor, progress: Callable[[int], None] = lambda _: None) -> Report:
    return await import_records(records_in(path), "old-shop", bulk, progress)


async def events(door: WriteDoor) -> list[Any]:
    return [recorded.event for recorded in await door.log.read_positions(1, await door.head())]


async def test_a_shop_is_imported_from_a_file(door: WriteDoor, bulk: BulkDoor, file: Path) -> None:
    done: list[int] = []
    report = await run(file, bulk, done.append)
    assert (report.refused, report.told) == (0, [])
    assert sum(done) == report.records == count_in(file) == len(SHOP)
    assert report.commands == 1 + 6 + 2 + 1 + 600
    recorded = await events(door)
    assert sum(isinstance(event, ProductPublished) for event in recorded) == 1
    orders = [event for event in recorded if isinstance(event, OrderImported)]
    assert {order.source_order_id for order in orders} == {str(number) for number in range(600)}
    assert sum(order.total.amount_minor for order in orders) == 250 * sum(range(600))
    assert len({order.customer_id for order in orders}) == 7
    assert {order.source for order in orders} == {"old-shop"}


async def test_the_same_import_again_changes_nothing(door: WriteDoor, bulk: BulkDoor, file: Path) -> None:
    await run(file, bulk)
    head = await door.head()
    report = await run(file, bulk)
    assert (report.refused, await door.head()) == (0, head)


@pytest.mark.parametrize("stop_after", [1, 4, 5, 260])
async def test_one_that_was_stopped_goes_on(
    door: WriteDoor, bulk: BulkDoor, file: Path, stop_after: int
) -> None:
    done = 0

    def stop(more: int) -> None:
        nonlocal done
        done += more
        if done >= stop_after:
            importing.cancel()

    importing = asyncio.create_task(run(file, bulk, stop))
    with pytest.raises(asyncio.CancelledError):
        await importing
    await run(file, bulk)
    orders = [event.source_order_id for event in await events(door) if isinstance(event, OrderImported)]
    assert sorted(orders) == sorted(str(number) for number in range(600))


async def test_a_refused_command_is_told_and_the_others_go_on(
    door: WriteDoor, bulk: BulkDoor, tmp_path: Path
) -> None:
    wrong = {**SHOP[-1], "lines": [{"sku": "NOWHERE", "qty": 1, "amount_minor": 1}]}
    path = written(tmp_path, *SHOP[:4], wrong, SHOP[5], {**SHOP[0], "location": "small letters"})
    report = await run(path, bulk)
    assert (report.records, report.refused) == (7, 2)
    assert report.told[0].startswith("line 5: ImportOrder: unknown_sku: There is no such SKU.")
    assert report.told[1].startswith("line 7: RegisterLocation: invalid_fields:")
    assert "/location" in report.told[1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "truncated"),
        ('{"kind": "ship"}', "'ship'"),
        ('{"kind": "location", "location": "A", "name": "A"}', "`country`"),
        ('{"kind": "location", "location": "A", "name": "A", "country": "DE", "x": 1}', "`x`"),
        (json.dumps({**SHOP[-1], "sold_at": "2017-01-01T10:00:00"}), "timezone"),
        (" " * 2**21, "longer than"),
    ],
)
async def test_a_line_that_is_none_of_the_format_stops_the_import_and_is_named(
    bulk: BulkDoor, tmp_path: Path, line: str, why: str
) -> None:
    path = tmp_path / "shop.ndjson"
    path.write_text(f"{json.dumps(SHOP[0])}\n\n{line}\n")
    with pytest.raises(Unreadable, match=why) as unreadable:
        await run(path, bulk)
    assert "line 3" in str(unreadable.value)


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (count_in, lambda path: list(records_in(path))):
        with pytest.raises(Unreadable, match=r"none\.ndjson cannot be read"):
            read(tmp_path / "none.ndjson")


@pytest.mark.parametrize("said", ["", "s" * 33])
def test_a_source_the_door_would_refuse_is_refused_first(tmp_path: Path, said: str) -> None:
    with pytest.raises(Unreadable, match="--source"):
        source_of(tmp_path / "shop.ndjson", said)
    assert source_of(tmp_path / "shop.ndjson", None) == "shop"
    assert TypeAdapter(ShortText).json_schema()["maxLength"] == MAX_SOURCE


def flaky(door: WriteDoor, troubles: Iterator[Any]) -> BulkDoor:
    """A door between which and the client something goes wrong, as often as there is a trouble."""
    inner = httpx.ASGITransport(door.app)

    async def handle(request: httpx.Request) -> httpx.Response:
        trouble = next(troubles, None)
        if isinstance(trouble, Exception):
            raise trouble
        if isinstance(trouble, int) and trouble >= 500:
            return httpx.Response(trouble)
        answer = await inner.handle_async_request(
            httpx.Request("POST", request.url, headers=request.headers, content=request.read())
        )
        content = await answer.aread()
        if isinstance(trouble, int):  # the answer is cut after so many lines
            content = b"".join(content.splitlines(keepends=True)[:trouble])
        return httpx.Response(answer.status_code, content=content)

    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/x-ndjson"}
    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://door", headers=headers)
    return BulkDoor(client)


async def test_what_was_not_answered_is_sent_again(
    door: WriteDoor, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing_door, "FIRST_PAUSE_S", 0.001)
    troubles = iter([httpx.ConnectError("away"), 503, 0, httpx.ReadError("cut"), None, 1, 500, None, 100])
    report = await run(file, flaky(door, troubles))
    assert (report.refused, report.records) == (0, len(SHOP))
    orders = [event.source_order_id for event in await events(door) if isinstance(event, OrderImported)]
    assert len(orders) == len(set(orders)) == 600


async def test_nobody_waits_for_ever_or_without_a_word(
    door: WriteDoor, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importing_door, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(importing_door, "WORTH_TELLING_S", 0.004)
    monkeypatch.setattr(importing_door, "PATIENCE_S", 0.05)

    def away() -> Iterator[Exception]:
        while True:
            yield httpx.ConnectError("away")

    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="away"):
            await run(file, flaky(door, away()))
    assert "does not answer as it should" in caplog.text


async def test_a_token_that_opens_nothing_ends_it(door: WriteDoor, file: Path) -> None:
    transport = httpx.ASGITransport(door.app)
    headers = {"Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
        with pytest.raises(Unreachable, match="unauthenticated"):
            await run(file, BulkDoor(client))


def test_keys_are_the_same_for_ever() -> None:
    """Another key for what is imported already would import it twice."""
    order: Record = Order("7", datetime(2017, 1, 1, tzinfo=UTC), "c", "L1", "EUR", [])
    command = next(steps_of(order, "till"))
    assert command.idempotency_key == "01595753-6400-70af-bd0c-920e106ccbb6"
    assert command.body["customer_id"] == "00000000-0000-749e-a6bd-f21038cd674c"


def test_a_file_is_wholly_in_the_format_before_anything_is_sent(tmp_path: Path) -> None:
    path = written(tmp_path, *SHOP)
    assert count_in(path) == len(SHOP)
    path.write_bytes(BOM_UTF8 + path.read_bytes() + b"oops\n")
    with pytest.raises(Unreadable, match=f"line {len(SHOP) + 1}"):
        count_in(path)
    with pytest.raises(Unreadable, match="it is no file"):
        count_in(tmp_path)
