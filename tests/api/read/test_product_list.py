import base64
from collections.abc import Sequence
from typing import Any, Final

import pytest
from doors import PRODUCT, Doors

pytestmark = pytest.mark.anyio

SHOP: Final = "Larder"
TOMORROW: Final = "2026-03-02T00:00:00Z"
GOODS: Final[Sequence[tuple[str, int, int, dict[str, Any]]]] = (
    ("LARDER-OAT", 300, 4, {"title": {"en": "Oats"}, "brand": "Mill", "category": "Grain"}),
    ("LARDER-RYE", 200, 0, {"title": {"de": "Roggen", "en": "Rye"}, "brand": "Mill", "category": "Grain"}),
    ("LARDER-TEA", 300, 1, {"title": {"fr": "Thé vert"}, "category": "Drinks"}),
    ("LARDER-JUICE", 300, 0, {"title": {"en": "apple juice"}, "category": "Drinks"}),
    ("LARDER-MILK", 100, 2, {"title": {"en": "Éire milk"}, "brand": "Old Mill", "category": "Drinks"}),
)
BY_NAME: Final = ["juice", "milk", "oat", "rye", "tea"]


@pytest.fixture(scope="session")
async def larder(doors: Doors) -> Doors:
    """The doors, with some goods in a department of their own, and a draft."""
    for sku, amount, qty, about in GOODS:
        draft = {**about, "attributes": {"department": SHOP, "category": about["category"]}}
        del draft["category"]
        await doors.write.product(sku, amount=amount, qty=qty, **draft)
    salt = {**PRODUCT, "slug": "larder-salt", "title": {"en": "Salt"}, "attributes": {"department": SHOP}}
    await doors.write.done("/products", salt)
    return doors


async def listed(doors: Doors, **filters: Any) -> list[str]:
    """What the slugs say after the name of the shop."""
    found = await doors.seen("/products", params={"department": SHOP, **filters})
    assert found.status_code == 200, found.text
    return [row["slug"].removeprefix("larder-") for row in found.json()["products"]]


async def test_products_are_listed_with_what_a_shop_front_shows(larder: Doors) -> None:
    found = await larder.seen("/products", params={"department": SHOP, "q": "Thé"})
    assert found.headers["Cache-Control"] == "private, max-age=0, must-revalidate"
    (tea,) = found.json()["products"]
    detail = (await larder.seen(f"/products/{tea['product_id']}")).json()
    for name in ("product_id", "slug", "status", "title", "brand", "published_at", "version"):
        assert tea[name] == detail[name]
    assert (tea["department"], tea["category"]) == (SHOP, "Drinks")
    assert (tea["currency"], tea["price_minor"], tea["prices"]) == ("EUR", 300, {"EUR": 300})
    assert (tea["available"], tea["in_stock"], tea["variants"]) == (1, True, 1)
    assert "words" not in tea


async def test_each_filter_and_each_sort(larder: Doors) -> None:
    assert await listed(larder) == BY_NAME
    assert await listed(larder, status="draft") == ["salt"]
    assert await listed(larder, category="Grain") == ["oat", "rye"]
    assert await listed(larder, department="Nowhere") == []
    assert await listed(larder, available="true") == ["milk", "oat", "tea"]
    assert await listed(larder, available="false") == ["juice", "rye"]
    assert await listed(larder, currency="EUR") == BY_NAME
    assert await listed(larder, currency="USD") == []
    assert await listed(larder, currency="EUR", price_from=200) == ["juice", "oat", "rye", "tea"]
    assert await listed(larder, currency="EUR", price_from=101, price_to=200) == ["rye"]
    cheapest = await listed(larder, currency="EUR", sort="cheapest")
    assert cheapest[:2] == ["milk", "rye"]
    assert await listed(larder, currency="EUR", sort="dearest") == cheapest[::-1]
    assert sorted(await listed(larder, sort="newest")) == BY_NAME


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mill", ["milk", "oat", "rye"]),
        ("MILL oats", ["oat"]),
        ('"old mill"', ["milk"]),
        ("mill -old", ["oat", "rye"]),
        ("roggen or juice", ["juice", "rye"]),
        ("drinks", ["juice", "milk", "tea"]),
        ("mil", []),
        ("!?", []),
    ],
)
async def test_words_of_title_brand_and_category_are_found(
    larder: Doors, words: str, found: list[str]
) -> None:
    assert await listed(larder, q=words) == found


@pytest.mark.parametrize("sort", ["name", "newest", "cheapest", "dearest"])
async def test_pages_give_every_product_once_though_many_are_alike(larder: Doors, sort: str) -> None:
    asked = {"sort": sort, "currency": "EUR"}
    walked: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        params = {"department": SHOP, "limit": "2", **asked, **cursor}
        page = (await larder.seen("/products", params=params)).json()
        walked += [row["slug"].removeprefix("larder-") for row in page["products"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert walked == await listed(larder, **asked)
    assert sorted(walked) == BY_NAME
    other = {"name": "newest", "newest": "name", "cheapest": "dearest", "dearest": "cheapest"}[sort]
    for wrong in ({"sort": other}, {"category": "Grain"}, {"cursor": "x"}):
        params = {"department": SHOP, **asked, **cursor, **wrong}
        refused = await larder.read.send("GET", "/products", params=params)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("sort", ["newest", "cheapest", "dearest"])
async def test_a_cursor_that_names_no_place_of_its_list_is_refused(larder: Doors, sort: str) -> None:
    asked = {"department": SHOP, "sort": sort, "currency": "EUR"}
    page = await larder.seen("/products", params={**asked, "limit": 1})
    hashed = base64.urlsafe_b64decode(page.json()["next"] + "==")[:9]
    forged = base64.urlsafe_b64encode(hashed + b"x/y").decode()
    refused = await larder.read.send("GET", "/products", params={**asked, "cursor": forged})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")


async def test_a_full_last_page_is_followed_by_an_empty_one(larder: Doors) -> None:
    params = {"department": SHOP, "limit": len(BY_NAME)}
    full = (await larder.seen("/products", params=params)).json()
    rest = (await larder.seen("/products", params={**params, "cursor": full["next"]})).json()
    assert rest == {"products": [], "next": None}


@pytest.mark.parametrize("asked", ["price_from=1", "price_to=1", "sort=cheapest", "sort=dearest"])
async def test_prices_are_told_apart_by_their_currency(larder: Doors, asked: str) -> None:
    refused = await larder.read.send("GET", f"/products?{asked}")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_fields")
    (error,) = refused.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/currency", "missing")
    assert asked.partition("=")[0] in error["detail"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("status=retired", "not_allowed"),
        ("status=none", "not_allowed"),
        ("sort=oldest", "not_allowed"),
        ("currency=eur", "wrong_pattern"),
        ("currency=EUR&price_from=-1", "out_of_range"),
        (f"currency=EUR&price_to={10**15 + 1}", "out_of_range"),
        ("currency=EUR&price_to=1.5", "wrong_type"),
        ("available=maybe", "wrong_type"),
        ("q=", "too_short"),
        ("q=%00", "wrong_pattern"),
        ("department=a%00", "wrong_pattern"),
        (f"category={201 * 'x'}", "too_long"),
        ("limit=201", "out_of_range"),
    ],
)
async def test_what_is_not_asked_well_is_told(larder: Doors, asked: str, code: str) -> None:
    refused = await larder.read.send("GET", f"/products?{asked}")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, code)


async def test_the_slug_explain_is_one_like_any_other(doors: Doors) -> None:
    await doors.write.product("EXPLAIN")
    assert (await doors.seen("/products/with-slug/explain")).json()["slug"] == "explain"


async def test_a_list_is_the_same_until_a_row_changes_and_for_ever_as_of_then(doors: Doors) -> None:
    ids = await doors.write.product("SHELF", attributes={"department": "Shelf"})
    params = {"department": "Shelf", "available": "false", "currency": "EUR", "price_from": 500}
    first = await doors.seen("/products", params=params)
    assert [row["slug"] for row in first.json()["products"]] == ["shelf"]
    same = await doors.seen("/products", params=params, headers={"If-None-Match": first.headers["ETag"]})
    assert same.status_code == 304
    position = (await doors.reader.head()).position
    price = {"product_id": ids["product_id"], "currency": "EUR", "amount_minor": 400}
    await doors.write.done(f"/prices/{ids['variant_id']}/set", price, version=1)
    now = await doors.seen("/products", params=params, headers={"If-None-Match": first.headers["ETag"]})
    assert (now.status_code, now.json()["products"]) == (200, [])
    then = await doors.read.send("GET", "/products", params={**params, "as_of_position": position})
    assert then.json() == first.json()
    assert "immutable" in then.headers["Cache-Control"]


async def test_a_price_set_for_later_is_not_shown_before(doors: Doors) -> None:
    ids = await doors.write.product("SALE", attributes={"department": "Sale"})
    price = {"product_id": ids["product_id"], "currency": "EUR", "amount_minor": 100}
    later = {**price, "effective_from": TOMORROW}
    await doors.write.done(f"/prices/{ids['variant_id']}/set", later, version=1)
    (row,) = (await doors.seen("/products", params={"department": "Sale"})).json()["products"]
    assert (row["price_minor"], row["prices"]) == (500, {"EUR": 500})
