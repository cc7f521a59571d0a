import pytest
from doors import INITIAL, PRODUCT, WriteDoor

pytestmark = pytest.mark.anyio

CART = {"type": "cart", "id": "0198c0de-0000-7000-8000-00000000ca47"}


async def test_a_product_is_drafted_and_can_be_read_at_its_location(door: WriteDoor) -> None:
    answer = await door.done("/products", PRODUCT, role="catalogue")
    product_id = answer.json()["product_id"]
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"http://read/v1/products/{product_id}"
    assert {event["stream"] for event in answer.json()["events"]} == {f"product-{product_id}", "slug-tea"}


async def test_what_is_taken_stays_taken(door: WriteDoor) -> None:
    await door.product()
    other = (await door.done("/products", PRODUCT)).json()
    path = f"/products/{other['product_id']}"
    slug = await door.post("/products", PRODUCT)
    assert (slug.status_code, slug.json()["code"], slug.json()["slug"]) == (409, "slug_taken", "tea")
    sku = await door.post(f"{path}/add-variant", {"sku": "TEA-1", "options": {}, "weight_g": 1}, version=1)
    assert (sku.status_code, sku.json()["code"], sku.json()["sku"]) == (409, "sku_taken", "TEA-1")
    location = await door.post("/locations", {"location": "MAIN", "name": "M", "country": "DE"})
    assert (location.status_code, location.json()["code"]) == (409, "location_taken")


async def test_variants_have_options_of_their_own_and_prices_before_they_are_sold(door: WriteDoor) -> None:
    drafted = (await door.done("/products", PRODUCT)).json()
    path = f"/products/{drafted['product_id']}"
    assert (await door.post(f"{path}/publish", version=1)).json()["code"] == "no_variant"
    variant = {"sku": "TEA-1", "options": {"size": "S"}, "weight_g": 1}
    added = (await door.done(f"{path}/add-variant", variant, version=1)).json()
    taken = await door.post(f"{path}/add-variant", variant | {"sku": "TEA-2"}, version=2)
    assert (taken.status_code, taken.json()["code"]) == (409, "options_taken")
    unpriced = await door.post(f"{path}/publish", {}, version=2)
    assert (unpriced.status_code, unpriced.json()["code"]) == (409, "unpriced_variants")
    assert (unpriced.json()["variant_ids"], unpriced.json()["currency"]) == ([added["variant_id"]], "EUR")


async def test_a_price_is_set_over_the_version_of_its_own_stream(door: WriteDoor) -> None:
    ids = await door.product()
    path = f"/prices/{ids['variant_id']}/set"
    price = {"product_id": ids["product_id"], "currency": "USD", "amount_minor": 550}
    stale = await door.post(path, price, version=0)
    assert (stale.status_code, stale.json()["current_version"]) == (412, 1)
    answer = await door.done(path, price, version=1, role="catalogue")
    assert answer.headers["ETag"] == '"2"'
    assert answer.json()["price_event_id"] == answer.json()["events"][0]["event_id"]
    below = await door.post(path, price | {"list_amount_minor": 549}, version=2)
    assert below.json()["errors"] == [
        {
            "pointer": "/list_amount_minor",
            "code": "below_amount",
            "detail": "the list price is below the price",
        }
    ]
    backdated = price | {"effective_from": "2026-02-28T23:59:59+00:00"}
    assert (await door.post(path, backdated, version=2)).json()["code"] == "price_backdated"
    other = "0198c0de-0000-7000-8000-00000000beef"
    assert (await door.post(f"/prices/{other}/set", price, version=0)).json()["code"] == "unknown_variant"
    unknown = price | {"product_id": other}
    assert (await door.post(path, unknown, version=2)).json()["code"] == "unknown_product"


async def test_a_published_product_is_not_published_again(door: WriteDoor) -> None:
    ids = await door.product()
    again = await door.post(f"/products/{ids['product_id']}/publish", version=3)
    assert (again.status_code, again.json()["code"]) == (409, "already_published")


async def test_stock_is_received_by_anyone_and_adjusted_by_whom_has_seen_it(door: WriteDoor) -> None:
    await door.product(qty=10)
    path = "/stock/TEA-1@MAIN"
    received = await door.done(f"{path}/receive", {"qty": 5, "reference": INITIAL}, role="warehouse")
    version = received.json()["version"]
    adjusted = await door.done(f"{path}/adjust", {"reason": "damage", "delta": -15}, version=version)
    assert [event["type"] for event in adjusted.json()["events"]] == [
        "stock.adjusted.v1",
        "stock.depleted.v1",
    ]
    version = adjusted.json()["version"]
    below = await door.post(f"{path}/adjust", {"reason": "count", "delta": -1}, version=version)
    assert (below.json()["code"], below.json()["on_hand"]) == ("stock_below_reserved", 0)
    neither = await door.post(f"{path}/adjust", {"reason": "count"}, version=version)
    assert neither.json()["errors"][0]["code"] == "delta_or_counted"
    unexplained = await door.post(f"{path}/adjust", {"reason": "count", "counted": 101}, version=version)
    assert unexplained.json()["errors"][0]["pointer"] == "/note"
    full = {"qty": 2**31 - 1, "reference": INITIAL}
    await door.done(f"{path}/receive", full)
    assert (await door.post(f"{path}/receive", full)).json()["code"] == "stock_limit"


async def test_stock_goes_to_known_places_only(door: WriteDoor) -> None:
    await door.product()
    refused = await door.post("/stock/TEA-1@NOWHERE/receive", {"qty": 1, "reference": INITIAL})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_location")
    assert refused.json()["location"] == "NOWHERE"


async def test_a_reservation_holds_stock_until_it_is_released_by_its_holder(door: WriteDoor) -> None:
    await door.product(qty=2)
    body = {"holder": CART, "items": [{"sku": "TEA-1", "qty": 2}], "ttl_s": 60}
    reserved = await door.done("/reservations", body, role="warehouse")
    assert reserved.status_code == 201
    assert reserved.json()["expires_at"] == "2026-03-01T00:01:00Z"
    assert "ETag" not in reserved.headers
    path = f"/reservations/{reserved.json()['reservation_id']}/release"
    items = [{"sku": "TEA-1", "location": "MAIN"}]
    stranger = {"type": "cart", "id": "0198c0de-0000-7000-8000-00000000beef"}
    refused = await door.post(path, {"holder": stranger, "items": items})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_reservation")
    released = await door.done(path, {"holder": CART, "items": items})
    assert released.json()["reservation_id"] == reserved.json()["reservation_id"]
    assert (await door.post(path, {"holder": CART, "items": items})).status_code == 404


@pytest.mark.parametrize("ttl_s", [59, 2_678_401, "600", 600.0])
async def test_a_reservation_lives_a_minute_to_a_month(door: WriteDoor, ttl_s: object) -> None:
    body = {"holder": CART, "items": [{"sku": "TEA-1", "qty": 2}], "ttl_s": ttl_s}
    refused = await door.post("/reservations", body)
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/ttl_s"]
