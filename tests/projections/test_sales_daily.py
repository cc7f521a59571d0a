from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from domain.envelope import Actor, Metadata, Recorded
from domain.order import ImportedLine, OrderCancelled, OrderImported, OrderLine, OrderPlaced
from domain.values import Event, Money
from projections.sales_daily import SALES_DAILY, SalesDaily
from runtime.read_models.folding import fold
from runtime.read_models.tables import Table

LATE = datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)


def recorded(event: Event, at: datetime = LATE, number: int = 1, lane: int = 0) -> Recorded:
    metadata = Metadata(at, Actor("system", "test"), "command", "correlation")
    return Recorded(number, f"order-{number}", 1, f"e{number}", "orders", lane, event, metadata, at)


def placed(*lines: tuple[str, int, int], currency: str = "EUR") -> OrderPlaced:
    """Lines of location, units and unit price."""
    made = tuple(
        OrderLine(str(n), "p", "v", "S", "t", place, qty, price, "e")
        for n, (place, qty, price) in enumerate(lines)
    )
    return OrderPlaced("o", "n", "c", currency, made, Money(0, currency), "r", LATE)


def imported(*lines: tuple[str, int, int]) -> OrderImported:
    """Lines of location, units and amount."""
    made = tuple(
        ImportedLine(str(n), "p", "v", "S", None, place, qty, amount)
        for n, (place, qty, amount) in enumerate(lines)
    )
    return OrderImported("o", "n", "c", "USD", made, Money(0, "USD"), "till", "1")


def rows(*events: Recorded) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {}
    fold(SALES_DAILY, parts, events)
    return {key: SALES_DAILY.combine(of_row) for key, of_row in parts.items()}


def row(key: str, orders: int, units: int, gross: int) -> SalesDaily:
    day, currency, location = key.split("/")
    return SalesDaily(key, day, currency, location, orders, Decimal(units), Decimal(gross))


def test_orders_of_a_day_add_up_by_currency_and_location() -> None:
    assert rows(
        recorded(placed(("A", 2, 500), ("B", 1, 300), ("A", 1, 100)), number=1),
        recorded(placed(("A", 1, 500)), number=2, lane=3),
        recorded(imported(("A", 0, 99), ("A", 3, -9)), number=3),
    ) == {
        "2026-03-01/EUR/A": row("2026-03-01/EUR/A", 2, 4, 1600),
        "2026-03-01/EUR/B": row("2026-03-01/EUR/B", 1, 1, 300),
        "2026-03-01/USD/A": row("2026-03-01/USD/A", 1, 3, 90),
    }


def test_a_day_is_one_of_utc() -> None:
    elsewhere = timezone(timedelta(hours=-7))
    days = rows(
        recorded(placed(("A", 1, 1)), LATE, 1),
        recorded(placed(("A", 1, 1)), LATE + timedelta(microseconds=1), 2),
        recorded(placed(("A", 1, 1)), (LATE + timedelta(microseconds=1)).astimezone(elsewhere), 3),
    )
    assert {key: each.orders for key, each in days.items()} == {"2026-03-01/EUR/A": 1, "2026-03-02/EUR/A": 2}


def test_what_becomes_of_an_order_later_changes_no_gross_sale() -> None:
    before = rows(recorded(placed(("A", 1, 500))))
    assert rows(recorded(placed(("A", 1, 500))), recorded(OrderCancelled("o", "customer", "c"))) == before


def test_a_lane_writes_a_part_of_its_own() -> None:
    parts: dict[str, dict[str, Any]] = {}
    fold(SALES_DAILY, parts, [recorded(placed(("A", 1, 500)), number=n, lane=n % 3) for n in range(30)])
    assert sorted(parts["2026-03-01/EUR/A"]) == ["order-0", "order-1", "order-2"]


def test_sums_pass_64_bits_and_are_stored_to_the_unit() -> None:
    most = 2**63 - 1
    parts: dict[str, dict[str, Any]] = {}
    fold(SALES_DAILY, parts, [recorded(imported(("A", most, 10**15)), number=n) for n in range(5)])
    table = Table(SALES_DAILY)
    assert {key: table.decode(table.encode(of_row)) for key, of_row in parts.items()} == parts
    (sales,) = (SALES_DAILY.combine(of_row) for of_row in parts.values())
    assert sales is not None
    assert (int(sales.units), int(sales.gross_minor)) == (5 * most, 5 * 10**15)
