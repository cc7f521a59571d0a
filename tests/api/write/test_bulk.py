"""Many commands in one request."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any

import httpx
import pytest
from doors import INITIAL, PRODUCT, TOKENS, WriteDoor, order_of

from api.write import bulk

pytestmark = pytest.mark.anyio

NDJSON = "application/x-ndjson"


def line(command: str, key: str | None, body: Any = None, **more: Any) -> dict[str, Any]:
    return {"command": command, "idempotency_key": key, "body": body or {}, **more}


async def send(
    door: WriteDoor, lines: Sequence[Any], role: str = "admin", media_type: str = NDJSON
) -> httpx.Response:
    content = b"".join(
        (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines
    )
    return await door.send("POST", "/commands", role, content=content, headers={"Content-Type": media_type})


async def results(door: WriteDoor, *lines: Any, role: str = "admin") -> list[dict[str, Any]]:
    answer = await send(door, lines, role)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, NDJSON)
    return [json.loads(each) for each in answer.text.splitlines()]


async def test_a_line_is_answered_as_the_command_alone_would_be(door: WriteDoor) -> None:
    alone = await door.done("/products", PRODUCT, key="one")
    (again,) = await results(door, line("DraftProduct", "one", PRODUCT))
    assert again["body"] == alone.json()
    assert (again["line"], again["status"], again["replayed"]) == (1, 201, True)
    assert again["etag"] == alone.headers["ETag"]
    assert again["consistency_token"] == alone.headers["Consistency-Token"]
    assert again["location"] == alone.headers["Location"]


async def test_what_is_in_a_commands_path_is_in_the_lines_body(door: WriteDoor) -> None:
    (drafted,) = await results(door, line("DraftProduct", "1", PRODUCT))
    product_id = drafted["body"]["product_id"]
    variant = {"sku": "TEA-1", "options": {}, "weight_g": 1}
    (added,) = await results(
        door, line("AddVariant", "2", {"product_id": product_id, **variant}, if_match=drafted["etag"])
    )
    assert added["status"] == 200
    alone = await door.done(f"/products/{product_id}/add-variant", variant, key="2", version=1)
    assert alone.headers["Idempotency-Replayed"] == "true", "it is the same request"
    assert alone.json() == added["body"]


async def test_results_come_in_the_order_of_the_lines_and_a_refusal_stops_nobody(door: WriteDoor) -> None:
    await door.product(qty=1)
    answers = await results(
        door,
        line("PlaceOrder", "1", order_of()),
        line("PlaceOrder", "2", order_of()),
        b"",
        b'{"command": ',
        line("PlaceOrder", None, order_of()),
        line("FlyToTheMoon", "3"),
        line("ConfirmOrder", "4", {"order_id": "0198c0de-0000-7000-8000-00000000beef"}),
        line("PlaceOrder", "5", {**order_of(), "lines": [{"sku": "tea", "qty": 0}]}),
        [],
        line("RegisterLocation", "6", {"location": "B", "name": "B", "country": "DE"}),
    )
    assert [answer["line"] for answer in answers] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    codes = [answer["body"].get("code", answer["status"]) for answer in answers]
    assert codes == [
        201,
        "insufficient_stock",
        "malformed_json",
        "missing_idempotency_key",
        "invalid_fields",
        "if_match_required",
        "invalid_fields",
        "invalid_fields",
        201,
    ]
    assert {error["pointer"] for error in answers[6]["body"]["errors"]} == {"/lines/0/sku", "/lines/0/qty"}


async def test_commands_on_one_aggregate_follow_each_other(door: WriteDoor) -> None:
    await door.product(qty=1)
    placed = (await door.done("/orders", order_of())).json()
    order = {"order_id": placed["order_id"]}
    answers = await results(
        door,
        line("ConfirmOrder", "1", order, if_match='"1"'),
        line("CancelOrder", "2", {**order, "reason": "customer"}, if_match='"2"'),
        line("ConfirmOrder", "3", order, if_match='"3"'),
    )
    assert [answer["status"] for answer in answers] == [200, 200, 409]


async def test_each_line_needs_the_scope_of_its_command(door: WriteDoor) -> None:
    answers = await results(door, line("DraftProduct", "1", PRODUCT), role="finance")
    assert (answers[0]["status"], answers[0]["body"]["code"]) == (403, "forbidden")
    refused = await send(door, [line("DraftProduct", "1", PRODUCT)], "auditor")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_more_commands_than_are_under_way_at_once(door: WriteDoor) -> None:
    await door.product()
    received = {"sku": "TEA-1", "location": "MAIN", "qty": 1, "reference": INITIAL}
    many = 3 * bulk.WINDOW
    answers = await results(door, *(line("ReceiveStock", f"r{n}", received) for n in range(many)))
    assert [answer["line"] for answer in answers] == list(range(1, many + 1))
    assert {answer["status"] for answer in answers} == {200}


async def test_another_media_type_is_refused(door: WriteDoor) -> None:
    refused = await send(door, [line("DraftProduct", "1", PRODUCT)], media_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("length", [401, 5_000, 500_000])
async def test_a_line_that_is_too_long_is_refused_and_the_others_go_on(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(bulk, "MAX_LINE_BYTES", 400)
    other = {**PRODUCT, "slug": "another"}
    long = b"x" * length
    answers = await results(
        door, line("DraftProduct", "1", PRODUCT), long, line("DraftProduct", "2", other), long
    )
    assert [(answer["line"], answer["status"]) for answer in answers] == [
        (1, 201),
        (2, 413),
        (3, 201),
        (4, 413),
    ]
    assert answers[1]["body"]["code"] == "body_too_large"


@pytest.mark.parametrize("piece", [1, 7, 399, 400, 401, 1_000])
async def test_so_it_is_in_whatever_pieces_it_comes(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(bulk, "MAX_LINE_BYTES", 400)
    lines = [
        line("DraftProduct", "1", PRODUCT),
        b"x" * 1_300,
        line("DraftProduct", "2", {**PRODUCT, "slug": "another"}),
        b"x" * 400,
        b"x" * 401,
    ]
    content = b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(content), piece):
            yield content[begin : begin + piece]

    answer = await door.send("POST", "/commands", "admin", content=pieces(), headers={"Content-Type": NDJSON})
    answers = [json.loads(each) for each in answer.text.splitlines()]
    assert [(each["line"], each["status"]) for each in answers] == [
        (1, 201),
        (2, 413),
        (3, 201),
        (4, 400),
        (5, 413),
    ]


class Talk:
    """A client that sends piece by piece and reads what comes meanwhile, as ASGI has it."""

    def __init__(self, door: WriteDoor) -> None:
        self.sends: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.got: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        headers = [
            (b"authorization", f"Bearer {TOKENS['admin']}".encode()),
            (b"content-type", NDJSON.encode()),
        ]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/commands", "headers": headers}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("door", 80)}
        self.task = asyncio.create_task(door.app(scope, self.sends.get, self._send))

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.got.put_nowait(message)

    def says(self, *lines: Any, more: bool = True) -> None:
        body = b"".join(json.dumps(each).encode() + b"\n" for each in lines)
        self.sends.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def hears(self) -> MutableMapping[str, Any]:
        async with asyncio.timeout(5):
            return await self.got.get()


async def test_results_come_while_commands_are_still_sent(door: WriteDoor) -> None:
    talk = Talk(door)
    talk.says(line("DraftProduct", "1", PRODUCT))
    assert (await talk.hears())["status"] == 200
    first = json.loads((await talk.hears())["body"])
    assert (first["line"], first["status"]) == (1, 201)
    talk.says(line("DraftProduct", "2", {**PRODUCT, "slug": "b"}), more=False)
    assert json.loads((await talk.hears())["body"])["line"] == 2
    assert not (await talk.hears()).get("more_body")
    await talk.task


async def test_a_client_that_falls_silent_is_told(door: WriteDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SILENCE_SECONDS", 0.05)
    talk = Talk(door)
    await talk.hears()
    told = json.loads((await talk.hears())["body"])
    assert (told["line"], told["status"], told["body"]["code"]) == (1, 408, "body_timeout")
    await talk.task


async def test_who_reads_no_results_is_read_no_further_and_then_left(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await door.product()
    monkeypatch.setattr(bulk, "SILENCE_SECONDS", 0.3)
    received = {"sku": "TEA-1", "location": "MAIN", "qty": 1, "reference": INITIAL}
    talk = Talk(door)
    await talk.hears()
    talk.reads.clear()
    before = await door.head()
    for n in range(4 * bulk.WINDOW):
        talk.says(line("ReceiveStock", f"r{n}", received))
    async with asyncio.timeout(5):
        await talk.task
    done = await door.head() - before
    assert bulk.WINDOW <= done <= 2 * bulk.WINDOW
    assert not talk.sends.empty()


async def test_a_client_that_goes_away_leaves_what_it_began_to_be_done(door: WriteDoor) -> None:
    talk = Talk(door)
    talk.says(line("DraftProduct", "1", PRODUCT))
    talk.sends.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(5):
        await talk.task
    assert await door.head() == 2


async def test_a_command_that_takes_too_long_is_told_so(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "COMMAND_SECONDS", 0.05)
    asked = asyncio.Event()

    async def never(_point: str) -> None:
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(door.shop, "reached", never)
    (answer,) = await results(door, line("DraftProduct", "1", PRODUCT))
    assert asked.is_set()
    assert (answer["status"], answer["body"]["code"]) == (503, "timed_out")


async def test_only_so_many_of_these_requests_at_once(
    door: WriteDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [Talk(door) for _ in range(bulk.MAX_REQUESTS)]
    for talk in talks:
        await talk.hears()
    refused = await send(door, [line("DraftProduct", "1", PRODUCT)])
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    for talk in talks:
        talk.says(more=False)
        await talk.task
    assert (await send(door, [])).status_code == 200
