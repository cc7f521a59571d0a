"""Bad input gets its problem document, and appends nothing."""

from typing import Any

import pytest
from doors import PRODUCT, WriteDoor, order_of

pytestmark = pytest.mark.anyio

MAX = 2**20


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """An order of which one field is other."""
    body = order_of()
    at: Any = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return body


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("lines", 0, "qty"), -1, "out_of_range"),
        (("lines", 0, "qty"), 0, "out_of_range"),
        (("lines", 0, "qty"), 1000, "out_of_range"),
        (("lines", 0, "qty"), 10**30, "out_of_range"),
        (("lines", 0, "qty"), "1", "wrong_type"),
        (("lines", 0, "qty"), 1.0, "wrong_type"),
        (("lines", 0, "qty"), True, "wrong_type"),
        (("lines", 0, "qty"), None, "wrong_type"),
        (("lines", 0, "sku"), "tea", "wrong_pattern"),
        (("lines", 0, "sku"), "TEA\n", "wrong_pattern"),
        (("lines", 0, "sku"), "T" * 65, "wrong_pattern"),
        (("lines", 0, "location"), "@", "wrong_pattern"),
        (("lines",), [], "too_short"),
        (("lines",), [{"sku": "TEA-1", "qty": 1}] * 201, "too_long"),
        (("currency",), "eur", "wrong_pattern"),
        (("currency",), "EURO", "wrong_pattern"),
        (("currency",), "XXX", "unknown_currency"),
        (("expected_total", "amount_minor"), 10**15 + 1, "out_of_range"),
        (("expected_total", "amount_minor"), -1, "out_of_range"),
        (("customer_id",), "c1", "wrong_pattern"),
        (("customer_id",), {"$ne": None}, "wrong_type"),
        (("coupon",), "SAVE", "unknown_field"),
    ],
)
async def test_a_wrong_field_is_pointed_at(
    door: WriteDoor, path: tuple[str | int, ...], value: Any, code: str
) -> None:
    refused = await door.post("/orders", changed(path, value))
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_fields")
    pointer = "".join(f"/{step}" for step in path)
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [(pointer, code)]
    assert await door.head() == 0


async def test_every_wrong_field_is_listed(door: WriteDoor) -> None:
    body = {"slug": "NO", "title": {"": "x", "en": ""}, "tax_class": 3, "brand": "b" * 81, "colour": "red"}
    refused = await door.post("/products", body)
    assert {(error["pointer"], error["code"]) for error in refused.json()["errors"]} == {
        ("/slug", "wrong_pattern"),
        ("/title/", "wrong_pattern"),
        ("/title/en", "too_short"),
        ("/tax_class", "wrong_type"),
        ("/brand", "too_long"),
        ("/colour", "unknown_field"),
    }


async def test_a_wrong_id_in_the_path_stands_beside_the_fields(door: WriteDoor) -> None:
    refused = await door.post("/products/no-id/add-variant", {}, version=1)
    pointers = [error["pointer"] for error in refused.json()["errors"]]
    assert pointers == ["/product_id", "/sku", "/options", "/weight_g"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"nonsense",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'"\x00"',
    ],
)
async def test_what_is_not_json_is_refused(door: WriteDoor, raw: bytes) -> None:
    refused = await door.post("/orders", raw)
    assert (refused.status_code, refused.json()["code"]) == (400, "malformed_json")
    assert await door.head() == 0


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"7", b"null", b"[[]]"])
async def test_json_that_is_no_object_has_the_wrong_type(door: WriteDoor, raw: bytes) -> None:
    refused = await door.post("/orders", raw)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_fields")
    assert refused.json()["errors"][0]["pointer"] == ""


@pytest.mark.parametrize("text", [rb"a\u0000b", rb"\ud800", rb"\udc00x"])
async def test_text_that_cannot_be_stored_is_refused(door: WriteDoor, text: bytes) -> None:
    raw = b'{"slug": "tea", "title": {"en": "' + text + b'"}, "tax_class": "s"}'
    refused = await door.post("/products", raw)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_fields")
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [
        ("/title/en", "invalid_text")
    ]
    in_a_name = (
        b'{"slug": "tea", "title": {"en": "x"}, "tax_class": "s", "attributes": {"' + text + b'": "x"}}'
    )
    refused = await door.post("/products", in_a_name)
    assert refused.json()["errors"][0]["pointer"] == "/attributes"
    assert await door.head() == 0


async def test_a_whole_surrogate_pair_is_text(door: WriteDoor) -> None:
    raw = rb'{"slug": "tea", "title": {"en": "\ud83c\udf75"}, "tax_class": "s"}'
    await door.done("/products", raw)


async def test_a_body_of_more_than_a_mebibyte_is_refused(door: WriteDoor) -> None:
    body = b'{"slug": "' + b"x" * MAX + b'"}'
    declared = await door.post("/products", body)
    assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")
    exactly = await door.post("/products", b" " * (MAX - 2) + b"{}")
    assert exactly.status_code == 422


async def test_a_body_of_unknown_length_is_bounded_too(door: WriteDoor) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(40):
            sent += 1
            yield b" " * 65_536

    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    refused = await door.send("POST", "/products", headers=headers, content=chunks())
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert sent <= 18


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/json; charset=latin-1", ""]
)
async def test_only_json_is_taken(door: WriteDoor, content_type: str) -> None:
    refused = await door.post("/products", b"{}", Content_Type=content_type)
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_not_taken(door: WriteDoor) -> None:
    refused = await door.post("/products", b"{}", Content_Encoding="gzip")
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/products?dry_run=1", "/orders?limit=1"])
async def test_an_unknown_parameter_is_never_ignored(door: WriteDoor, path: str) -> None:
    refused = await door.post(path, PRODUCT)
    assert (refused.status_code, refused.json()["code"]) == (400, "unknown_parameter")
    assert await door.head() == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/orders", order_of("NOPE")),
        ("/stock/NOPE@MAIN/receive", {"qty": 1, "reference": {"type": "initial", "id": "x"}}),
        (
            "/reservations",
            {
                "holder": {"type": "cart", "id": "0198c0de-0000-7000-8000-00000000ca47"},
                "items": [{"sku": "NOPE", "qty": 1}],
            },
        ),
    ],
)
async def test_an_unknown_sku_is_named(door: WriteDoor, path: str, body: Any) -> None:
    await door.product()
    before = await door.head()
    refused = await door.post(path, body)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_sku")
    assert refused.json()["sku"] == "NOPE"
    assert await door.head() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/orders", order_of() | {"lines": [{"sku": "TEA-1", "qty": 1, "location": "MOON"}]}),
        ("/stock/TEA-1@MOON/receive", {"qty": 1, "reference": {"type": "initial", "id": "x"}}),
        (
            "/reservations",
            {
                "holder": {"type": "cart", "id": "0198c0de-0000-7000-8000-00000000ca47"},
                "items": [{"sku": "TEA-1", "qty": 1, "location": "MOON"}],
            },
        ),
    ],
)
async def test_an_unknown_location_is_named(door: WriteDoor, path: str, body: Any) -> None:
    await door.product()
    before = await door.head()
    refused = await door.post(path, body)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_location")
    assert refused.json()["location"] == "MOON"
    assert await door.head() == before


async def test_a_line_that_stands_twice_is_refused(door: WriteDoor) -> None:
    await door.product(qty=5)
    body = order_of() | {
        "lines": [{"sku": "TEA-1", "qty": 1}, {"sku": "TEA-1", "qty": 1, "location": "MAIN"}]
    }
    refused = await door.post("/orders", body)
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [
        ("/lines/1", "duplicate_item")
    ]


@pytest.mark.parametrize(
    "begins",
    [
        "2026-03-02",
        "2026-03-02T00:00:00",
        "yesterday",
        1772409600,
        "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
    ],
)
async def test_a_time_is_rfc_3339(door: WriteDoor, begins: Any) -> None:
    ids = await door.product()
    body = {
        "product_id": ids["product_id"],
        "currency": "USD",
        "amount_minor": 1,
        "effective_from": begins,
    }
    refused = await door.post(f"/prices/{ids['variant_id']}/set", body, version=1)
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [
        ("/effective_from", "wrong_timestamp")
    ]


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic dG9rZW4=", "token-of-admin"]
)
async def test_a_wrong_token_is_refused_before_the_body_is_read(door: WriteDoor, token: str | None) -> None:
    headers = {"Idempotency-Key": "k"} | ({"Authorization": token} if token is not None else {})
    refused = await door.send("POST", "/products", None, headers=headers, content=b"{")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert await door.head() == 0


async def test_paths_and_methods_that_are_not_there_are_problems_too(door: WriteDoor) -> None:
    missing = await door.http.post("/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    other = await door.http.put("/v1/products")
    assert (other.status_code, other.json()["code"]) == (405, "method_not_allowed")
    assert other.headers["Allow"] == "POST"
    trailing = await door.http.post("/v1/products/")
    assert trailing.status_code == 404
