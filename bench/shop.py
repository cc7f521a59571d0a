"""What a whole shop comes to, by every page of the read door's lists."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import httpx

from bench.house import House

ORDERS: Final = "/v1/orders"
SALES: Final = "/v1/reports/sales_daily"
PRODUCTS: Final = "/v1/products"
PAGE_ROWS: Final = 200


@dataclass(frozen=True, slots=True)
class Orders:
    """`first` and `last`: when the first and the last one were placed."""

    count: int
    lines: int
    gross_minor: int
    customers: tuple[str, ...]
    first: datetime
    last: datetime
    last_id: str


@dataclass(frozen=True, slots=True)
class Products:
    """And what may be asked of them: words of their titles, the prices of what is on sale."""

    count: int
    departments: tuple[str, ...]
    categories: tuple[str, ...]
    words: tuple[str, ...]
    prices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shop:
    orders: Orders
    products: Products


def whole_shop(house: House) -> Shop:
    """RuntimeError if the orders do not come to what the days do."""
    with house.client(house.read, "admin") as client:
        orders = _orders(client)
        days = list(_rows(client, SALES, "sales"))
        of_days = sum(row["orders"] for row in days), sum(row["gross_minor"] for row in days)
        if of_days != (orders.count, orders.gross_minor):
            raise RuntimeError(f"{orders.count} orders come to {orders.gross_minor}; by their days {of_days}")
        return Shop(orders, _products(client))


def asked(client: httpx.Client, path: str, wanted: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """The seconds until all of the answer was there, and the answer."""
    began = time.perf_counter()
    answer = client.get(path, params=wanted)
    seconds = time.perf_counter() - began
    page: dict[str, Any] = answer.raise_for_status().json()
    return seconds, page


def _orders(client: httpx.Client) -> Orders:
    count = lines = gross_minor = 0
    customers = set()
    first = last = None
    for row in _rows(client, ORDERS, "orders", sort="oldest"):
        count += 1
        lines += row["lines"]
        gross_minor += row["total"]["amount_minor"]
        customers.add(row["customer_id"])
        first, last = first or row, row
    if first is None or last is None:
        raise RuntimeError("there are no orders")
    times = datetime.fromisoformat(first["placed_at"]), datetime.fromisoformat(last["placed_at"])
    return Orders(count, lines, gross_minor, tuple(sorted(customers)), *times, last["order_id"])


def _products(client: httpx.Client) -> Products:
    drafts = sum(1 for _ in _rows(client, PRODUCTS, "products", status="draft"))
    on_sale = list(_rows(client, PRODUCTS, "products"))
    words = {word.lower() for row in on_sale for word in row["title"]["en"].split() if word.isalpha()}
    return Products(
        count=drafts + len(on_sale),
        departments=tuple(sorted({row["department"] for row in on_sale})),
        categories=tuple(sorted({row["category"] or row["department"] for row in on_sale})),
        words=tuple(sorted(words)),
        prices=tuple(row["price_minor"] for row in on_sale),
    )


def _rows(
    client: httpx.Client, path: str, name: Literal["orders", "sales", "products"], **wanted: str
) -> Iterator[dict[str, Any]]:
    question = {"limit": str(PAGE_ROWS), **wanted}
    while True:
        _, page = asked(client, path, question)
        yield from page[name]
        if page["next"] is None:
            return
        question["cursor"] = page["next"]
