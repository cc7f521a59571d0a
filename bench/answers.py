"""How long the read door's answers take: lists asked for at random, and the past."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from random import Random
from statistics import median, quantiles
from typing import Final

import httpx

from bench.house import House
from bench.page import Figure
from bench.shop import ORDERS, PRODUCTS, SALES, Shop, asked

MS: Final = "ms"
WARM: Final = 10
REQUESTS: Final = 500
PAST_ORDERS: Final = 20
PAST_SALES: Final = 3
WEEK: Final = timedelta(days=6)
SORTS: Final = ("name", "newest", "cheapest", "dearest")

Question = Mapping[str, str]


class Chances:
    """What somebody might ask of a shop; hardly ever the same twice."""

    def __init__(self, shop: Shop) -> None:
        self._orders = shop.orders
        self._products = shop.products
        self._random = Random(2017)  # noqa: S311 - the same questions in every run

    def customer(self) -> Question:
        return {"customer": self._random.choice(self._orders.customers)}

    def times(self) -> Question:
        first, end = sorted((self._time(), self._time()))
        return {"from": first.isoformat(), "to": end.isoformat()}

    def days(self) -> Question:
        first, last = sorted((self._time().date(), self._time().date()))
        return {"from": first.isoformat(), "to": last.isoformat()}

    def week(self) -> Question:
        first = self._time().date()
        return {"from": first.isoformat(), "to": (first + WEEK).isoformat()}

    def department(self) -> Question:
        return {"department": self._random.choice(self._products.departments), **self.sorting()}

    def category(self) -> Question:
        return {"category": self._random.choice(self._products.categories), **self.sorting()}

    def prices(self) -> Question:
        lowest, highest = sorted(self._random.choices(self._products.prices, k=2))
        return {"price_from": str(lowest), "price_to": str(highest), **self.sorting()}

    def words(self) -> Question:
        return {"q": self._random.choice(self._products.words), **self.sorting()}

    def sorting(self) -> Question:
        return {"currency": "USD", "sort": self._random.choice(SORTS)}

    def goes_on(self) -> bool:
        """Whether the next question is for the next page of what was asked last."""
        return self._random.random() < 0.5  # noqa: PLR2004 - every other time

    def _time(self) -> datetime:
        return self._orders.first + self._random.random() * (self._orders.last - self._orders.first)


LISTS: Final[Mapping[str, tuple[str, Callable[[Chances], Question]]]] = {
    "orders_of_customer": (ORDERS, Chances.customer),
    "orders_by_status": (ORDERS, lambda chances: {"status": "completed", **chances.times()}),
    "sales_daily": (SALES, Chances.days),
    "products_of_department": (PRODUCTS, Chances.department),
    "products_of_category": (PRODUCTS, Chances.category),
    "products_by_price": (PRODUCTS, Chances.prices),
    "products_with_words": (PRODUCTS, Chances.words),
    "products_available": (PRODUCTS, lambda chances: {"available": "true", **chances.department()}),
}
"""By name: a path of the read door, and a question at random."""


def listed(house: House, shop: Shop) -> Iterator[Figure]:
    """One client asks, over one connection, and waits for each answer."""
    for name, (path, question) in LISTS.items():
        with house.client(house.read, "admin") as client:
            waits = list(_waits(client, path, question, Chances(shop)))[WARM:]
        hundredths = quantiles(waits, n=100)
        yield Figure(f"list_{name}_p50_ms", round(1_000 * hundredths[49], 2), MS)
        yield Figure(f"list_{name}_p99_ms", round(1_000 * hundredths[98], 2), MS)


def of_the_past(house: House, shop: Shop, position: int) -> Iterator[Figure]:
    """As it was at a position: the median."""
    chances = Chances(shop)
    with house.client(house.read, "admin") as client:
        for name, path, question, times in (
            ("orders", ORDERS, chances.customer, PAST_ORDERS),
            ("sales", SALES, chances.week, PAST_SALES),
        ):
            questions = [{**question(), "as_of_position": str(position)} for _ in range(times)]
            waits = [asked(client, path, one)[0] for one in questions]
            yield Figure(f"as_of_{name}_ms", round(1_000 * median(waits), 1), MS)


def _waits(
    client: httpx.Client, path: str, question: Callable[[Chances], Question], chances: Chances
) -> Iterator[float]:
    wanted: Question = {}
    cursor = ""
    for _ in range(WARM + REQUESTS):
        further = cursor and chances.goes_on()
        wanted = {**wanted, "cursor": cursor} if further else question(chances)
        seconds, page = asked(client, path, wanted)
        cursor = page["next"] or ""
        yield seconds
