"""Whoever has an answer already is told so: for every query that the door's document has."""

import re
from typing import Any, Final

import pytest
from doors import DOCUMENTS, INITIAL, Doors, order_of

pytestmark = pytest.mark.anyio

QUERIES: Final = {
    operation["operationId"]: (path.removeprefix("/v1"), operation)
    for path, operations in DOCUMENTS["read"]["paths"].items()
    for method, operation in operations.items()
    if method == "get"
}
CONTROLLED: Final = {"private, no-store", "private, max-age=0, must-revalidate"}
IMMUTABLE: Final = "private, max-age=31536000, immutable"


async def places(doors: Doors) -> dict[str, Any]:
    """A value for every path parameter and every required query parameter, of things that there are."""
    ids = await doors.write.product("COPIES", qty=5)
    placed = await doors.write.done("/orders", order_of("COPIES"))
    await doors.seen(f"/orders/{placed.json()['order_id']}", placed)
    sales = (await doors.seen("/reports/sales_daily")).json()["sales"][-1]
    return {
        **ids,
        "order_id": placed.json()["order_id"],
        "slug": "copies",
        "sku": "COPIES",
        "location": "MAIN",
        "day": sales["day"],
        "currency": sales["currency"],
    }


def filled(path: str, operation: dict[str, Any], known: dict[str, Any]) -> str:
    asked = re.sub(r"\{(\w+)\}", lambda found: str(known[found[1]]), path)
    required = [
        one["name"] for one in operation.get("parameters", ()) if one["in"] == "query" and one.get("required")
    ]
    return f"{asked}?{'&'.join(f'{name}={known[name]}' for name in required)}"


async def test_every_query_answers_304_to_its_own_etag_however_proxies_mark_it(doors: Doors) -> None:
    known = await places(doors)
    head = await doors.write.head()
    assert len(QUERIES) >= 14
    for name, (path, operation) in QUERIES.items():
        for as_of in ("", f"&as_of_position={head}"):
            asked = filled(path, operation, known) + as_of
            first = await doors.seen(asked)
            assert first.status_code == 200, (name, first.text)
            etag, control = first.headers["ETag"], first.headers["Cache-Control"]
            assert re.fullmatch(r'"[0-9a-f]{22}"', etag), name
            assert control in (CONTROLLED | ({IMMUTABLE} if as_of else set())), name
            for mark in (
                etag,
                f"W/{etag}",
                f'{etag[:-1]}-gzip"',
                f'W/{etag[:-1]}-gzip"',
                f'"x", {etag}',
                "*",
            ):
                again = await doors.read.send("GET", asked, headers={"If-None-Match": mark})
                assert (again.status_code, again.content) == (304, b""), (name, mark)
                assert (again.headers["ETag"], again.headers["Cache-Control"]) == (etag, control), name
                assert again.headers["Consistency-Token"], name
            other = await doors.read.send("GET", asked, headers={"If-None-Match": '"0123456789abcdef012345"'})
            assert (other.status_code, other.content) == (200, first.content), name


async def test_an_explanation_that_goes_on_has_another_tag(doors: Doors) -> None:
    await doors.write.product("EXPLAINED", qty=5)
    path = "/stock/EXPLAINED@MAIN/explain"
    before = await doors.seen(path)
    more = await doors.write.done("/stock/EXPLAINED@MAIN/receive", {"qty": 1, "reference": INITIAL})
    after = await doors.seen(path, more, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    assert len(after.json()["steps"]) == len(before.json()["steps"]) + 1
