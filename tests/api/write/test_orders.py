import pytest
from doors import WriteDoor, order_of

pytestmark = pytest.mark.anyio


async def test_an_order_is_priced_reserved_and_placed_in_one_append(door: WriteDoor) -> None:
    await door.product(qty=5)
    answer = await door.done("/orders", order_of(qty=2, total=1000), role="customer")
    placed = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"http://read/v1/orders/{placed['order_id']}"
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(placed["order_no"]) == 16
    assert placed["total"] == {"amount_minor": 1000, "currency": "EUR"}
    assert placed["expires_at"] == "2026-03-01T00:10:00Z"
    assert [event["type"] for event in placed["events"]] == ["order.placed.v1", "stock.reserved.v1"]
    positions = [event["position"] for event in placed["events"]]
    assert positions == [positions[0], positions[0] + 1]
    assert placed["version"] == 1


async def test_confirming_commits_and_cancelling_gives_back(door: WriteDoor) -> None:
    await door.product(qty=1)
    placed = (await door.done("/orders", order_of(), role="customer")).json()
    order = f"/orders/{placed['order_id']}"
    confirmed = await door.done(f"{order}/confirm", role="finance", version=1)
    assert [event["type"] for event in confirmed.json()["events"]] == [
        "order.confirmed.v1",
        "reservation.committed.v1",
    ]
    assert confirmed.headers["ETag"] == '"2"'
    cancelled = await door.done(f"{order}/cancel", {"reason": "customer"}, role="customer", version=2)
    assert "commitment.released.v1" in {event["type"] for event in cancelled.json()["events"]}
    again = await door.post(f"{order}/confirm", version=3)
    assert (again.status_code, again.json()["code"]) == (409, "order_not_open")
    assert again.json()["order_status"] == "cancelled"


async def test_a_shortage_names_what_is_missing(door: WriteDoor) -> None:
    await door.product(qty=1)
    refused = await door.post("/orders", order_of(qty=3, total=1500))
    assert (refused.status_code, refused.json()["code"]) == (409, "insufficient_stock")
    assert refused.json()["shortages"] == [
        {"sku": "TEA-1", "requested": 3, "available": 1, "location": "MAIN"}
    ]


async def test_other_prices_than_expected_are_shown_and_nothing_is_placed(door: WriteDoor) -> None:
    await door.product(qty=1)
    before = await door.head()
    refused = await door.post("/orders", order_of(total=499))
    assert (refused.status_code, refused.json()["code"]) == (409, "price_changed")
    assert refused.json()["expected_total"] == {"amount_minor": 499, "currency": "EUR"}
    assert refused.json()["current_total"] == {"amount_minor": 500, "currency": "EUR"}
    assert refused.json()["lines"] == [{"sku": "TEA-1", "qty": 1, "unit_price_minor": 500}]
    assert await door.head() == before


async def test_a_currency_without_a_price_and_two_currencies_are_refused(door: WriteDoor) -> None:
    await door.product(qty=1)
    unpriced = await door.post("/orders", order_of(currency="USD"))
    assert (unpriced.status_code, unpriced.json()["code"]) == (409, "no_price")
    assert (unpriced.json()["sku"], unpriced.json()["currency"]) == ("TEA-1", "USD")
    mixed = order_of() | {"expected_total": {"amount_minor": 500, "currency": "USD"}}
    refused = await door.post("/orders", mixed)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_fields")
    assert refused.json()["errors"][0]["pointer"] == "/expected_total/currency"


async def test_an_unpublished_product_is_not_sold(door: WriteDoor) -> None:
    await door.done("/locations", {"location": "MAIN", "name": "Main", "country": "DE"})
    drafted = (await door.done("/products", {"slug": "t", "title": {"en": "T"}, "tax_class": "s"})).json()
    variant = {"sku": "RAW", "options": {}, "weight_g": 0}
    await door.done(f"/products/{drafted['product_id']}/add-variant", variant, version=1)
    refused = await door.post("/orders", order_of("RAW"))
    assert (refused.status_code, refused.json()["code"]) == (409, "not_published")


async def test_an_order_that_nobody_placed_is_unknown(door: WriteDoor) -> None:
    order = "0198c0de-0000-7000-8000-00000000beef"
    refused = await door.post(f"/orders/{order}/confirm", version=1)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_order")
    assert refused.json()["order_id"] == order


async def test_who_acted_and_why_goes_with_the_events(door: WriteDoor) -> None:
    await door.product(qty=1)
    correlation, trace = "0198c0de-0000-7000-8000-0000000000cc", "0af7651916cd43dd8448eb211c80319c"
    answer = await door.done(
        "/orders",
        order_of(),
        role="customer",
        Correlation_Id=correlation,
        traceparent=f"00-{trace}-b7ad6b7169203331-01",
    )
    assert answer.headers["Correlation-Id"] == correlation
    (recorded,) = await door.log.read_positions(answer.json()["events"][0]["position"], 1)
    metadata = recorded.metadata
    assert (metadata.correlation_id, metadata.trace_id) == (correlation, trace)
    assert (metadata.actor.type, metadata.actor.id) == ("customer", "customer")
    assert metadata.causation_id is None
