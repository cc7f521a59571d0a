import asyncio
import base64
from typing import Any, cast

import pytest
from doors import INITIAL, Doors, order_of

from api import consistency
from domain.envelope import Mark, Recorded, Token
from projections._stock_part import StockPart
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.postgres import connect
from runtime.read_models import waiting
from runtime.read_models.resuming import parked_in, resume
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

ID = "0198c0de-0000-7000-8000-00000000beef"
RECEIVED = {"qty": 1, "reference": INITIAL}


async def test_a_reader_sees_what_it_wrote(doors: Doors) -> None:
    ids = await doors.write.product("SEEN", qty=5)
    placed = await doors.write.done("/orders", order_of("SEEN", qty=2, total=1000))
    order = await doors.seen(f"/orders/{placed.json()['order_id']}", placed)
    assert order.status_code == 200
    row = order.json()
    assert (row["status"], row["version"], row["order_no"]) == ("placed", 1, placed.json()["order_no"])
    assert row["total"] == {"amount_minor": 1000, "currency": "EUR"}
    assert row["expires_at"] == placed.json()["expires_at"]
    assert row["lines"][0]["unit_price_minor"] == 500
    assert order.headers["Cache-Control"] == "private, no-store"
    stock = (await doors.seen("/stock/SEEN", placed)).json()["stock"]
    assert [(at["location"], at["on_hand"], at["reserved"], at["available"]) for at in stock] == [
        ("MAIN", 5, 2, 3)
    ]
    assert ids["product_id"] == stock[0]["product_id"]


async def test_a_product_is_found_by_its_id_and_its_slug(doors: Doors) -> None:
    ids = await doors.write.product("FOUND", qty=5)
    product = await doors.seen(f"/products/{ids['product_id']}")
    row = product.json()
    assert (row["slug"], row["status"], row["version"]) == ("found", "published", 3)
    (variant,) = row["variants"]
    assert variant["variant_id"] == ids["variant_id"]
    assert variant["stock"] == [{"location": "MAIN", "available": 5}]
    assert (variant["prices"][0]["amount_minor"], variant["price_version"]) == (500, 1)
    assert (await doors.seen("/products/with-slug/found")).json() == row
    lost = await doors.seen("/products/with-slug/lost")
    assert (lost.status_code, lost.json()["code"], lost.json()["slug"]) == (404, "unknown_product", "lost")
    assert product.headers["Cache-Control"] == "private, max-age=0, must-revalidate"


async def test_head_answers_as_get_does_without_the_content(doors: Doors) -> None:
    placed = await doors.write.product("BARE", qty=5)
    path = f"/products/{placed['product_id']}"
    got = await doors.seen(path)
    headed = await doors.read.send("HEAD", path)
    assert (headed.status_code, headed.content) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control"):
        assert headed.headers[name] == got.headers[name]
    same = await doors.read.send("HEAD", path, headers={"If-None-Match": got.headers["ETag"]})
    assert same.status_code == 304
    unknown = await doors.read.send("HEAD", f"/products/{ID}", None)
    assert (unknown.status_code, unknown.content) == (401, b"")
    history = await doors.audit.send("HEAD", "/streams/stock-BARE@MAIN")
    assert (history.status_code, history.content) == (200, b"")
    written = await doors.write.send("HEAD", "/orders")
    assert (written.status_code, written.headers["Allow"]) == (405, "POST")
    other = await doors.read.send("DELETE", path)
    assert (other.status_code, other.headers["Allow"]) == (405, "GET, HEAD")


async def test_the_version_of_a_row_is_what_a_command_takes(doors: Doors) -> None:
    await doors.write.product("ROW", qty=5)
    placed = await doors.write.done("/orders", order_of("ROW"))
    path = f"/orders/{placed.json()['order_id']}"
    version = (await doors.seen(path, placed)).json()["version"]
    confirmed = await doors.write.done(f"{path}/confirm", version=version)
    row = (await doors.seen(path, confirmed)).json()
    assert (row["status"], row["version"]) == ("confirmed", 2)


async def test_an_answer_holds_at_positions_that_include_what_was_asked_for(doors: Doors) -> None:
    await doors.write.product("HELD", qty=1)
    placed = await doors.write.done("/orders", order_of("HELD"))
    wanted = consistency.decode(placed.headers["Consistency-Token"])
    answer = await doors.seen(f"/orders/{placed.json()['order_id']}", placed)
    at = consistency.decode(answer.headers["Consistency-Token"])
    assert at.incarnation == wanted.incarnation == doors.log.incarnation
    orders = {lane: mark for lane, mark in wanted.marks.items() if lane[0] == "orders"}
    assert orders
    for lane, mark in orders.items():
        assert at.marks[lane].position >= mark.position


async def test_what_is_not_applied_in_time_is_too_early(doors: Doors) -> None:
    await doors.write.product("EARLY", qty=1)
    answer = await doors.write.done("/stock/EARLY@MAIN/receive", RECEIVED)
    await doors.seen("/stock/EARLY", answer)
    token = consistency.decode(answer.headers["Consistency-Token"])
    future = {lane: Mark(mark.position + 1_000, ID) for lane, mark in token.marks.items()}
    headers = {"Consistency-Token": consistency.encode(Token(token.incarnation, future))}
    early = await doors.read.send("GET", "/stock/EARLY", headers=headers | {"Prefer": "wait=0"})
    assert (early.status_code, early.json()["code"]) == (425, "not_yet_applied")
    assert early.headers["Retry-After"] == "1"
    began = asyncio.get_running_loop().time()
    early = await doors.read.send("GET", "/stock/EARLY", headers=headers | {"Prefer": "wait=1"})
    assert early.status_code == 425
    assert 1 <= asyncio.get_running_loop().time() - began < 3


async def test_what_is_written_to_a_parked_stream_is_told_so_until_it_resumes(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    await doors.write.product("PARKED", qty=1)
    fine = await doors.write.done("/stock/PARKED@MAIN/receive", RECEIVED)
    await doors.seen("/stock/PARKED", fine)
    with monkeypatch.context() as patch:
        patch.setitem(cast("dict[str, Any]", STOCK_AVAILABILITY.folds), "stock", refuses)
        poison = await doors.write.done("/stock/PARKED@MAIN/receive", RECEIVED)
        parked = await doors.seen("/stock/PARKED", poison)
    assert (parked.status_code, parked.json()["code"]) == (425, "stream_parked")
    assert (parked.json()["retryable"], parked.json()["stream"]) == (False, "stock-PARKED@MAIN")
    explained = await doors.seen("/stock/PARKED@MAIN/explain?field=on_hand", poison)
    assert explained.json()["code"] == "stream_parked"
    for query in (doors.seen("/stock/PARKED", fine), doors.read.send("GET", "/stock/PARKED")):
        served = await query
        assert served.json()["stock"][0]["on_hand"] == 2
        assert (await doors.seen("/stock/PARKED", served)).status_code == 200  # who read it reads on
    async with connect(doors.read_url, "tallybook_projector") as connection:
        [at] = await parked_in(connection, Table(STOCK_AVAILABILITY))
        assert await resume(connection, doors.reader, Table(STOCK_AVAILABILITY), at) is None
    assert (await doors.seen("/stock/PARKED", poison)).json()["stock"][0]["on_hand"] == 3


def refuses(_part: StockPart | None, _recorded: Recorded) -> StockPart:
    raise ValueError("poison")


async def test_as_many_wait_as_may_and_no_more(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    await doors.write.product("CROWD", qty=1)
    answer = await doors.write.done("/stock/CROWD@MAIN/receive", RECEIVED)
    await doors.seen("/stock/CROWD", answer)
    token = consistency.decode(answer.headers["Consistency-Token"])
    future = {lane: Mark(mark.position + 1_000, ID) for lane, mark in token.marks.items()}
    headers = {"Consistency-Token": consistency.encode(Token(token.incarnation, future)), "Prefer": "wait=1"}
    monkeypatch.setattr(waiting, "MAX_WAITING", 0)
    refused = await doors.read.send("GET", "/stock/CROWD", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert (await doors.read.send("GET", "/stock/CROWD")).status_code == 200


async def test_a_token_of_another_history_is_refused(doors: Doors) -> None:
    await doors.write.product("FOREIGN", qty=1)
    answer = await doors.write.done("/stock/FOREIGN@MAIN/receive", RECEIVED)
    await doors.seen("/stock/FOREIGN", answer)
    token = consistency.decode(answer.headers["Consistency-Token"])
    for foreign in (
        Token(ID, token.marks),
        Token(token.incarnation, {lane: Mark(mark.position, ID) for lane, mark in token.marks.items()}),
    ):
        headers = {"Consistency-Token": consistency.encode(foreign)}
        refused = await doors.read.send("GET", "/stock/FOREIGN", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (409, "foreign_token")


async def test_a_copy_that_is_still_good_is_304_until_the_row_changes(doors: Doors) -> None:
    ids = await doors.write.product("COPY", qty=1)
    product = f"/products/{ids['product_id']}"
    for path in (product, "/products/with-slug/copy", "/products?q=copy", "/stock?sku=COPY", "/stock/COPY"):
        first = await doors.seen(path)
        etag = first.headers["ETag"]
        again = await doors.read.send("GET", path, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (again.status_code, again.content) == (304, b""), path
        assert again.headers["ETag"] == etag
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
        assert again.headers["Consistency-Token"]
    more = await doors.write.done("/stock/COPY@MAIN/receive", RECEIVED)
    changed = await doors.seen("/stock/COPY", more, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.json()["stock"][0]["on_hand"] == 2


async def test_many_skus_are_asked_for_at_once(doors: Doors) -> None:
    await doors.write.product("MANY-1", qty=1)
    await doors.write.product("MANY-2", qty=2)
    asked = [("sku", "MANY-2"), ("sku", "MANY-1"), ("sku", "NONE")]
    rows = (await doors.seen("/stock", params=asked)).json()["stock"]
    assert [(row["sku"], row["on_hand"]) for row in rows] == [("MANY-1", 1), ("MANY-2", 2)]
    full = [("sku", f"S{number:03}") for number in range(200)]
    assert (await doors.read.send("GET", "/stock", params=full)).status_code == 200
    refused = await doors.read.send("GET", "/stock", params=[*full, ("sku", "S200")])
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "too_long")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/products/{ID}", 404, "unknown_product"),
        (f"/orders/{ID}", 404, "unknown_order"),
        ("/orders/no-id", 422, "invalid_fields"),
        ("/products/with-slug/NO", 422, "invalid_fields"),
        ("/products?q=a&q=b", 400, "repeated_parameter"),
        ("/products?q=a&colour=red", 400, "unknown_parameter"),
        (f"/orders/{ID}?at=2026-01-01", 400, "unknown_parameter"),
        ("/stock", 422, "invalid_fields"),
        ("/stock?sku=tea", 422, "invalid_fields"),
        ("/stock/tea", 422, "invalid_fields"),
    ],
)
async def test_a_question_that_has_no_answer_is_a_problem(
    doors: Doors, path: str, status: int, code: str
) -> None:
    refused = await doors.seen(path)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_a_broken_token_is_refused(doors: Doors) -> None:
    refused = await doors.read.send("GET", "/stock/TEA-1", headers={"Consistency-Token": "nonsense"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_consistency_token")


async def test_sales_are_counted_from_what_was_sold_here_and_elsewhere(doors: Doors) -> None:
    async def asked(**filters: object) -> list[dict[str, Any]]:
        found = await doors.seen("/reports/sales_daily", params=filters)
        rows: list[dict[str, Any]] = found.json()["sales"]
        return rows

    await doors.write.product("SOLD", qty=5)
    before = await asked(currency="EUR")
    await doors.write.done("/orders", order_of("SOLD", qty=2, total=1000))
    sold = {
        "source": "till",
        "source_order_id": "1",
        "sold_at": "2017-01-01T11:53:26Z",
        "customer_id": ID,
        "location": "MAIN",
        "currency": "USD",
        "lines": [{"sku": "SOLD", "qty": 2**63 - 1, "amount_minor": 50}],
    }
    imported = await doors.write.done("/imported-orders", sold)
    await doors.write.done(
        "/imported-orders", {**sold, "source_order_id": "2", "sold_at": "2017-01-02T00:00:00Z"}
    )
    again = await doors.write.done("/imported-orders", {**sold, "source_order_id": "3"})
    assert again.headers["Location"].endswith(again.json()["order_id"])
    refused = await doors.write.post("/imported-orders", sold)
    assert (refused.status_code, refused.json()["code"]) == (409, "order_already_imported")
    assert refused.json()["order_id"] == imported.json()["order_id"]

    row = (await doors.seen(f"/orders/{imported.json()['order_id']}", imported)).json()
    assert (row["status"], row["source"], row["source_order_id"]) == ("completed", "till", "1")
    assert (row["placed_at"], row["expires_at"]) == ("2017-01-01T11:53:26Z", None)
    assert (row["lines"][0]["amount_minor"], row["lines"][0]["unit_price_minor"]) == (50, None)

    sales = (await doors.seen("/reports/sales_daily")).json()  # orders of several lanes
    first, second, here = sales["sales"]
    assert first == {
        "day": "2017-01-01",
        "currency": "USD",
        "location": "MAIN",
        "orders": 2,
        "units": 2 * (2**63 - 1),
        "gross_minor": 100,
    }
    assert (second["day"], here["day"], here["currency"]) == ("2017-01-02", "2026-03-01", "EUR")
    had = before[0] if before else {"orders": 0, "units": 0, "gross_minor": 0}
    more = [here[name] - had[name] for name in ("orders", "units", "gross_minor")]
    assert more == [1, 2, 1000]
    assert sales["next"] is None

    assert await asked(to="2017-01-01") == [first]
    assert await asked(**{"from": "2017-01-02", "to": "2017-01-02"}) == [second]
    assert await asked(currency="EUR", location="MAIN") == [here]
    assert await asked(location="ELSEWHERE") == []

    walked, cursor = [], None
    while True:
        page = await doors.seen(
            "/reports/sales_daily", params={"limit": 1} | ({"cursor": cursor} if cursor else {})
        )
        walked += page.json()["sales"]
        if (cursor := page.json()["next"]) is None:
            break
        kept = cursor
    assert walked == [first, second, here]
    for params in ({"cursor": kept, "currency": "EUR"}, {"cursor": "x"}, {"cursor": f"AAAA{kept[4:]}"}):
        wrong = await doors.read.send("GET", "/reports/sales_daily", params=params)
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_cursor")


async def test_every_resource_answers_as_of_a_time_or_a_position(doors: Doors) -> None:
    ids = await doors.write.product("PAST", qty=5, attributes={"department": "past"})
    placed = await doors.write.done("/orders", order_of("PAST", qty=2, total=1000))
    order = f"/orders/{placed.json()['order_id']}"
    paths = [order, f"/products/{ids['product_id']}", "/products/with-slug/past", "/products?department=past"]
    paths += ["/stock/PAST", "/stock?sku=PAST", "/reports/sales_daily?currency=EUR"]
    then = {path: (await doors.seen(path)).json() for path in paths}
    position, recorded_at = await doors.reader.newest()
    assert recorded_at is not None
    await doors.write.done(f"{order}/confirm", version=1)
    await doors.write.done("/orders", order_of("PAST", qty=1, total=500))
    for path in paths:
        now = await doors.seen(path)
        assert now.json() != then[path]
        assert "As-Of-Position" not in now.headers
        by_position = await doors.read.send("GET", path, params=asked(path, as_of_position=position))
        by_time = await doors.read.send("GET", path, params=asked(path, as_of=recorded_at.isoformat()))
        for answer in (by_position, by_time):
            assert answer.json() == then[path]
            assert answer.headers["As-Of-Position"] == str(position)
        kept = "private, no-store" if "/orders" in path or "/reports" in path else "immutable"
        assert kept in by_time.headers["Cache-Control"]
        same = await doors.read.send(
            "GET",
            path,
            params=asked(path, as_of_position=position),
            headers={"If-None-Match": by_time.headers["ETag"]},
        )
        assert same.status_code == 304
    before = await doors.read.send("GET", order, params={"as_of_position": 1})
    assert (before.status_code, before.json()["code"]) == (404, "unknown_order")


def asked(path: str, **more: object) -> dict[str, Any]:
    """Httpx drops the query of a path that is given parameters."""
    query = path.partition("?")[2]
    return {**more} | (dict([query.split("=")]) if query else {})


async def test_the_future_and_two_pasts_at_once_are_refused(doors: Doors) -> None:
    await doors.write.product("FUTURE", qty=5)
    head = await doors.reader.head()
    for params, code in (
        ({"as_of": "2999-01-01T00:00:00Z"}, "beyond_the_log"),
        ({"as_of_position": head.position + 1_000}, "beyond_the_log"),
        ({"as_of_position": 1, "as_of": "2026-01-01T00:00:00Z"}, "invalid_as_of"),
        ({"as_of": "2026-01-01T00:00:00"}, "invalid_fields"),
        ({"as_of": "2026"}, "invalid_fields"),
        ({"as_of": "1795566240"}, "invalid_fields"),
        ({"as_of_position": -1}, "invalid_fields"),
    ):
        refused = await doors.read.send("GET", "/stock/FUTURE", params=params)
        assert refused.json()["code"] == code


async def test_why_is_this_three(doors: Doors) -> None:
    ids = await doors.write.product("WHY", qty=5)
    placed = await doors.write.done("/orders", order_of("WHY", qty=2, total=1000))
    why = await doors.seen("/stock/WHY@MAIN/explain", placed, params={"field": "available"})
    assert [(step["type"], step["value"]) for step in why.json()["steps"]] == [
        ("stock.received.v1", 5),
        ("stock.reserved.v1", 3),
    ]
    reserved = why.json()["steps"][1]
    event = await doors.audit.send("GET", f"/events/{reserved['event_id']}")
    assert event.json()["position"] == reserved["position"]
    assert reserved["actor"] == {"type": "staff", "id": "admin"}

    order = placed.json()["order_id"]
    whole = (await doors.seen(f"/orders/{order}/explain", placed)).json()
    assert (whole["read_model"], whole["key"], whole["field"], whole["next"]) == (
        "order_detail",
        order,
        None,
        None,
    )
    assert whole["steps"][0]["value"]["status"] == "placed"
    listed = (await doors.seen(f"/orders/{order}/listing/explain", placed)).json()
    assert (listed["read_model"], listed["key"]) == ("order_list", order)
    assert listed["steps"][0]["value"]["lines"] == 1
    path = f"/products/{ids['product_id']}/listing/explain"
    price = (await doors.seen(path, params={"field": "price_minor"})).json()
    assert (price["read_model"], price["key"]) == ("product_list", ids["product_id"])
    assert [(step["type"], step["value"]) for step in price["steps"]] == [("price.set.v1", 500)]
    product = (await doors.seen(f"/products/{ids['product_id']}/explain", placed, params={"limit": 2})).json()
    assert len(product["steps"]) == 2
    rest = await doors.seen(f"/products/{ids['product_id']}/explain", params={"after": product["next"]})
    assert rest.json()["steps"][0]["position"] > product["next"]
    day = (await doors.seen("/reports/sales_daily/2026-03-01/EUR/MAIN/explain", placed)).json()
    assert {step["type"] for step in day["steps"]} == {"order.placed.v1"}
    assert day["steps"][-1]["value"]["orders"] == len(day["steps"])
    assert isinstance(day["steps"][-1]["value"]["gross_minor"], int)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/orders/{ID}/explain", "unknown_order"),
        (f"/orders/{ID}/listing/explain", "unknown_order"),
        (f"/products/{ID}/explain", "unknown_product"),
        (f"/products/{ID}/listing/explain", "unknown_product"),
        ("/stock/NOTHING@MAIN/explain", "unknown_row"),
        ("/reports/sales_daily/1999-01-01/EUR/MAIN/explain", "unknown_row"),
        ("/stock/WHY@MAIN/explain?field=colour", "invalid_fields"),
    ],
)
async def test_what_never_was_has_no_reasons(doors: Doors, path: str, code: str) -> None:
    refused = await doors.read.send("GET", path)
    assert refused.json()["code"] == code


async def test_orders_are_listed_by_customer_status_and_time(doors: Doors) -> None:
    await doors.write.product("LISTED", qty=50)
    customer = "0198c0de-0000-7000-8000-0000000000aa"
    placed = [
        await doors.write.done("/orders", {**order_of("LISTED"), "customer_id": customer}) for _ in range(5)
    ]
    ids = [answer.json()["order_id"] for answer in placed]
    sold = {
        "source": "till",
        "source_order_id": "listed",
        "sold_at": "2017-01-01T11:53:26Z",
        "customer_id": customer,
        "location": "MAIN",
        "currency": "USD",
        "lines": [{"sku": "LISTED", "qty": 1, "amount_minor": 50}],
    }
    imported = (await doors.write.done("/imported-orders", sold)).json()["order_id"]
    before = (await doors.reader.head()).position
    await doors.write.done(f"/orders/{ids[2]}/confirm", version=1)

    async def listed(**filters: object) -> list[str]:
        found = await doors.seen("/orders", params={"customer": customer, **filters})
        return [row["order_id"] for row in found.json()["orders"]]

    newest = await listed()
    assert set(newest[:5]) == set(ids)
    assert newest[5] == imported
    assert await listed(sort="oldest") == newest[::-1]
    assert await listed(status="confirmed") == [ids[2]]
    assert await listed(status="completed") == [imported]
    assert await listed(to="2018-01-01T00:00:00Z") == [imported]
    assert await listed(**{"from": "2018-01-01T00:00:00Z"}) == newest[:5]
    assert await listed(status="confirmed", as_of_position=before) == []
    assert len(await listed(status="placed", as_of_position=before)) == 5

    for sort in ("newest", "oldest"):
        walked: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            params = {"customer": customer, "limit": "2", "sort": sort, **cursor}
            page = (await doors.seen("/orders", params=params)).json()
            walked += [row["order_id"] for row in page["orders"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert walked == await listed(sort=sort)
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(cursor["cursor"] + "==")[:9] + b"x").decode()
    for wrong in ({"sort": "newest", **cursor}, {"sort": "oldest", "cursor": forged.rstrip("=")}):
        refused = await doors.read.send("GET", "/orders", params={"customer": customer, **wrong})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")
