"""What the read door answers of a shop's year: everything, page by page; lists at random; the past."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from statistics import median, quantiles
from typing import Any, Final

import httpx

from bench.house import House
from bench.page import Figure

MS: Final = "ms"
ORDERS: Final = "/v1/orders"
SALES: Final = "/v1/reports/sales_daily"
PAGE_ROWS: Final = 200
WARM: Final = 10
REQUESTS: Final = 500
PAST_ORDERS: Final = 20
PAST_SALES: Final = 3
WEEK: Final = timedelta(days=6)


@dataclass(frozen=True, slots=True)
class Shop:
    """What the read door tells of it. `first` and `last`: when the first and the last order were placed."""

    orders: int
    lines: int
    gross_minor: int
    customers: tuple[str, ...]
    first: datetime
    last: datetime
    last_order: str


class Chances:
    """Questions that somebody might ask of a shop; no two are likely to be the same."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._random = Random(2017)  # noqa: S311 - the same questions in every run

    def customer(self) -> str:
        return self._random.choice(self._shop.customers)

    def times(self) -> Mapping[str, str]:
        first, end = sorted((self._time(), self._time()))
        return {"from": first.isoformat(), "to": end.isoformat()}

    def days(self) -> Mapping[str, str]:
        first, last = sorted((self._time().date(), self._time().date()))
        return {"from": first.isoformat(), "to": last.isoformat()}

    def week(self) -> Mapping[str, str]:
        first = self._time().date()
        return {"from": first.isoformat(), "to": (first + WEEK).isoformat()}

    def goes_on(self) -> bool:
        """Whether the next question is for the next page of what was asked last."""
        return self._random.random() < 0.5  # noqa: PLR2004 - every other time

    def _time(self) -> datetime:
        return self._shop.first + self._random.random() * (self._shop.last - self._shop.first)


LISTS: Final[Mapping[str, tuple[str, Callable[[Chances], Mapping[str, str]]]]] = {
    "orders_of_customer": (ORDERS, lambda chances: {"customer": chances.customer()}),
    "orders_by_status": (ORDERS, lambda chances: {"status": "completed", **chances.times()}),
    "sales_daily": (SALES, Chances.days),
}
"""By name: a path of the read door, and a question at random."""


def whole_shop(house: House) -> Shop:
    """RuntimeError if the orders do not come to what the days do."""
    with house.client(house.read, "admin") as client:
        days = list(_rows(client, SALES, "sales"))
        orders = lines = total = 0
        customers = set()
        first = last = None
        for row in _rows(client, ORDERS, "orders", sort="oldest"):
            orders += 1
            lines += row["lines"]
            total += row["total"]["amount_minor"]
            customers.add(row["customer_id"])
            first, last = first or row, row
    if first is None or last is None:
        raise RuntimeError("there are no orders")
    of_days = sum(row["orders"] for row in days), sum(row["gross_minor"] for row in days)
    if of_days != (orders, total):
        raise RuntimeError(f"{orders} orders come to {total}, and by their days {of_days}")
    return Shop(
        orders=orders,
        lines=lines,
        gross_minor=total,
        customers=tuple(sorted(customers)),
        first=datetime.fromisoformat(first["placed_at"]),
        last=datetime.fromisoformat(last["placed_at"]),
        last_order=last["order_id"],
    )


def listed(house: House, shop: Shop) -> Iterator[Figure]:
    """One client asks, over one connection, and waits for each answer."""
    for name, (path, question) in LISTS.items():
        chances = Chances(shop)
        with house.client(house.read, "admin") as client:
            waits = list(_waits(client, path, question, chances))[WARM:]
        hundredths = quantiles(waits, n=100)
        yield Figure(f"list_{name}_p50_ms", round(1_000 * hundredths[49], 2), MS)
        yield Figure(f"list_{name}_p99_ms", round(1_000 * hundredths[98], 2), MS)


def of_the_past(house: House, shop: Shop, position: int) -> Iterator[Figure]:
    """As it was at a position: the median."""
    chances = Chances(shop)
    with house.client(house.read, "admin") as client:
        for name, path, questions in (
            ("orders", ORDERS, [{"customer": chances.customer()} for _ in range(PAST_ORDERS)]),
            ("sales", SALES, [chances.week() for _ in range(PAST_SALES)]),
        ):
            waits = [
                _asked(client, path, {**question, "as_of_position": str(position)})[0]
                for question in questions
            ]
            yield Figure(f"as_of_{name}_ms", round(1_000 * median(waits), 1), MS)


def _waits(
    client: httpx.Client, path: str, question: Callable[[Chances], Mapping[str, str]], chances: Chances
) -> Iterator[float]:
    asked: Mapping[str, str] = {}
    cursor = ""
    for _ in range(WARM + REQUESTS):
        further = cursor and chances.goes_on()
        asked = {**asked, "cursor": cursor} if further else question(chances)
        seconds, page = _asked(client, path, asked)
        cursor = page["next"] or ""
        yield seconds


def _rows(client: httpx.Client, path: str, name: str, **wanted: str) -> Iterator[dict[str, Any]]:
    asked = {"limit": str(PAGE_ROWS), **wanted}
    while True:
        _, page = _asked(client, path, asked)
        yield from page[name]
        if page["next"] is None:
            return
        asked["cursor"] = page["next"]


def _asked(client: httpx.Client, path: str, wanted: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """The seconds until all of the answer was there, and the answer."""
    began = time.perf_counter()
    answer = client.get(path, params=wanted)
    seconds = time.perf_counter() - began
    page: dict[str, Any] = answer.raise_for_status().json()
    return seconds, page
