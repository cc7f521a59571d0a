"""Whatever comes in, what goes out is something the document promises; never a 500."""

import asyncio
import json
from typing import Any

import pytest
from doors import DOCUMENTS, PRODUCT, WriteDoor, order_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PATHS = sorted(DOCUMENTS["write"]["paths"])
NAMES = sorted(
    {
        name
        for schema in DOCUMENTS["write"]["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
)
ID = "00000000-0000-7000-8000-000000000001"
LIKELY = st.sampled_from(
    [ID, "TEA-1", "MAIN", "EUR", "en", "tea", "cart", "order", "customer", "count", "initial", 1, 60, 999]
)
UNLIKELY = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\0", "\ud800", ""])
)
VALUES = st.recursive(
    LIKELY | UNLIKELY,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8) | st.sampled_from(
    [
        PRODUCT,
        order_of(),
        {"qty": 1, "reference": {"type": "initial", "id": "x"}},
        {"reason": "customer"},
        {"reason": "count", "counted": 3},
    ]
)
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from(PATHS),
    body=BODIES | VALUES,
    mutation=st.tuples(st.sampled_from(NAMES), VALUES) | st.none(),
    key=HEADERS,
    tag=st.sampled_from(['"0"', '"1"', "*", "", '"x"']) | HEADERS,
    ids=st.sampled_from([ID, "TEA-1", "no-id", "%00", "%ff"]),
)
def test_no_request_is_answered_with_500(
    path: str, body: Any, mutation: tuple[str, Any] | None, key: str, tag: str, ids: str
) -> None:
    async def attempt() -> None:
        door = WriteDoor()
        async with door.http:
            if "stock" in path or "orders" in path:
                await door.product(qty=3)
            sent = {**body, mutation[0]: mutation[1]} if mutation and isinstance(body, dict) else body
            filled = path.removeprefix("/v1").format(
                product_id=ids, variant_id=ids, order_id=ids, reservation_id=ids, sku="TEA-1", location="MAIN"
            )
            answer = await door.post(filled, _json(sent), key=key, version=tag)
            assert answer.status_code != 500

    asyncio.run(attempt())


def _json(value: Any) -> bytes:
    """As a careless client would write it: with NaN, and with halves of surrogate pairs escaped."""
    return json.dumps(value).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_are_answered_with_500(raw: bytes) -> None:
    async def attempt() -> None:
        door = WriteDoor()
        async with door.http:
            answer = await door.post("/orders", raw)
            assert answer.status_code in {400, 422}
            assert await door.head() == 0

    asyncio.run(attempt())


@pytest.mark.anyio
async def test_the_fuzzer_reaches_the_commands(door: WriteDoor) -> None:
    await door.product(qty=3)
    assert (await door.post("/orders", _json(order_of()))).status_code == 201
