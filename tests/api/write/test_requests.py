"""Keys, versions and tokens: what every command has in common."""

import asyncio
from typing import Any

import pytest
from doors import PRODUCT, WriteDoor, order_of

from api import consistency

pytestmark = pytest.mark.anyio

SAME = ("ETag", "Consistency-Token", "Correlation-Id", "Location")


async def test_a_repeat_gets_the_first_answer_even_when_it_would_be_refused_today(door: WriteDoor) -> None:
    await door.product(qty=1)
    first = await door.done("/orders", order_of(), key="one")
    before = await door.head()
    repeat = await door.done("/orders", order_of(), key="one")
    assert repeat.json() == first.json()
    assert [repeat.headers[name] for name in SAME] == [first.headers[name] for name in SAME]
    assert "Idempotency-Replayed" not in first.headers
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert await door.head() == before
    refused = await door.post("/orders", order_of(), key="two")
    assert refused.json()["code"] == "insufficient_stock"


async def test_a_repeat_with_a_version_that_is_stale_by_now_gets_the_first_answer(door: WriteDoor) -> None:
    drafted = (await door.done("/products", PRODUCT)).json()
    path = f"/products/{drafted['product_id']}/add-variant"
    variant = {"sku": "TEA-1", "options": {}, "weight_g": 1}
    first = await door.done(path, variant, version=1, key="one")
    repeat = await door.done(path, variant, version=1, key="one")
    assert repeat.json() == first.json()


async def test_double_clicks_have_one_effect(door: WriteDoor) -> None:
    await door.product(qty=5)
    answers = await asyncio.gather(*(door.done("/orders", order_of(), key="one") for _ in range(5)))
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 4


async def test_a_key_says_one_thing_only(door: WriteDoor) -> None:
    await door.done("/products", PRODUCT, key="one")
    before = await door.head()
    for path, body in (("/products", PRODUCT | {"slug": "b"}), ("/locations", {"location": "B"})):
        full: dict[str, Any] = {"name": "B", "country": "DE", **body} if path == "/locations" else body
        refused = await door.post(path, full, key="one")
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert await door.head() == before


async def test_the_order_of_fields_does_not_matter_to_a_repeat(door: WriteDoor) -> None:
    await door.done("/products", PRODUCT, key="one")
    repeat = await door.done("/products", dict(reversed(PRODUCT.items())), key="one")
    assert repeat.headers["Idempotency-Replayed"] == "true"


async def test_a_key_belongs_to_its_principal(door: WriteDoor) -> None:
    await door.done("/products", PRODUCT, key="one", role="catalogue")
    other = await door.done("/products", PRODUCT | {"slug": "b"}, key="one", role="admin")
    assert "Idempotency-Replayed" not in other.headers


async def test_a_refused_command_binds_no_key(door: WriteDoor) -> None:
    await door.product(qty=0)
    refused = await door.post("/orders", order_of(), key="one")
    assert refused.json()["code"] == "insufficient_stock"
    await door.done("/stock/TEA-1@MAIN/receive", {"qty": 1, "reference": {"type": "initial", "id": "x"}})
    assert (await door.done("/orders", order_of(), key="one")).status_code == 201


@pytest.mark.parametrize(
    ("key", "code"), [("", "missing_idempotency_key"), ("k" * 256, "invalid_idempotency_key")]
)
async def test_a_key_is_needed_and_bounded(door: WriteDoor, key: str, code: str) -> None:
    refused = await door.post("/products", PRODUCT, key=key)
    assert (refused.status_code, refused.json()["code"]) == (400, code)
    assert await door.head() == 0


async def test_the_longest_key_is_accepted(door: WriteDoor) -> None:
    await door.done("/products", PRODUCT, key="k" * 255)


async def test_a_second_key_is_refused_rather_than_ignored(door: WriteDoor) -> None:
    headers = [("Authorization", "Bearer token-of-admin"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await door.http.post("/v1/products", json=PRODUCT, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "repeated_header")
    assert await door.head() == 0


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"1-gzip"', 'W/"1-gzip"'])
async def test_if_match_is_read_as_proxies_leave_it(door: WriteDoor, tag: str) -> None:
    drafted = (await door.done("/products", PRODUCT)).json()
    variant = {"sku": "TEA-1", "options": {}, "weight_g": 1}
    added = await door.done(f"/products/{drafted['product_id']}/add-variant", variant, version=tag)
    assert added.headers["ETag"] == '"2"'


@pytest.mark.parametrize(
    ("tag", "status", "code"),
    [
        (None, 428, "if_match_required"),
        ("*", 400, "invalid_if_match"),
        ("1", 400, "invalid_if_match"),
        ('"1", "2"', 400, "invalid_if_match"),
        ('"9999999999999999999"', 400, "invalid_if_match"),
        ('"7"', 412, "stale_version"),
        ('"0"', 412, "stale_version"),
    ],
)
async def test_a_version_that_is_not_the_stream_s_is_refused(
    door: WriteDoor, tag: str | None, status: int, code: str
) -> None:
    drafted = (await door.done("/products", PRODUCT)).json()
    before = await door.head()
    refused = await door.post(f"/products/{drafted['product_id']}/publish", version=tag)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.json().get("current_version") == (1 if status == 412 else None)
    assert await door.head() == before


async def test_the_token_names_what_was_written_and_nothing_else(door: WriteDoor) -> None:
    answer = await door.done("/products", PRODUCT)
    token = consistency.decode(answer.headers["Consistency-Token"])
    assert token.incarnation == door.log.incarnation
    newest = {event["position"]: event["event_id"] for event in answer.json()["events"]}
    assert {mark.position: mark.event_id for mark in token.marks.values()}.items() <= newest.items()
    assert {context for context, _ in token.marks} == {"catalogue"}
    assert max(newest) in {mark.position for mark in token.marks.values()}
