"""What was sold on a day? One row a UTC day, currency and location, counted from the orders taken."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date
from decimal import Decimal
from typing import Final, LiteralString

from domain import order
from domain.envelope import Recorded
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class SalesDaily:
    """Gross sales: what was ordered, whatever became of it later. `day` is that on which it occurred.

    `key`: `day/currency/location`, in whose order the rows are listed. An order whose lines are of several
    locations counts at each. Sums may pass 64 bits.
    """

    key: str
    day: str
    currency: str
    location: str
    orders: int
    units: Decimal
    gross_minor: Decimal


@record
class Sum:
    """What one lane contributes to a row."""

    key: str
    orders: int = 0
    units: Decimal = Decimal(0)
    gross_minor: Decimal = Decimal(0)


def add(part: Sum | None, recorded: Recorded, key: str) -> Sum:
    location = key.split("/")[2]
    sold = [(qty, amount) for place, qty, amount in _sold(recorded) if place == location]
    before = part or Sum(key)
    return Sum(
        key,
        before.orders + 1,
        before.units + sum(qty for qty, _ in sold),
        before.gross_minor + sum(amount for _, amount in sold),
    )


def keys(recorded: Recorded) -> Iterable[str]:
    match recorded.event:
        case order.OrderPlaced(currency=currency) | order.OrderImported(currency=currency):
            day = recorded.metadata.occurred_at.astimezone(UTC).date().isoformat()
            yield from sorted({f"{day}/{currency}/{location}" for location, _, _ in _sold(recorded)})
        case _:
            return


def _sold(recorded: Recorded) -> list[tuple[str, int, int]]:
    """Location, units and gross amount of each line."""
    match recorded.event:
        case order.OrderPlaced(lines=lines):
            return [(line.location, line.qty, line.qty * line.unit_price_minor) for line in lines]
        case order.OrderImported(lines=lines):
            return [(line.location, line.qty, line.amount_minor) for line in lines]
        case _:
            return []


def combine(parts: Mapping[str, Sum]) -> SalesDaily | None:
    for part in parts.values():
        day, currency, location = part.key.split("/")
        return SalesDaily(
            key=part.key,
            day=day,
            currency=currency,
            location=location,
            orders=sum(part.orders for part in parts.values()),
            units=sum((part.units for part in parts.values()), Decimal(0)),
            gross_minor=sum((part.gross_minor for part in parts.values()), Decimal(0)),
        )
    return None


SALES_DAILY = ReadModel(
    name="sales_daily",
    row=SalesDaily,
    folds={order.ORDER.category: add},
    keys=keys,
    combine=combine,
    counter=True,
)

_PAGE: Final[LiteralString] = (
    "key >= %(first_day)s and key < %(after_day)s and key > %(after)s"
    " and (%(currency)s::text is null or currency = %(currency)s)"
    " and (%(location)s::text is null or location = %(location)s)"
    " order by key limit %(limit)s"
)


@dataclass(frozen=True, slots=True)
class SalesFilter:
    """Days from `first_day` to `last_day`, both included; of all currencies and locations where None."""

    first_day: date = date.min
    last_day: date = date.max
    currency: str | None = None
    location: str | None = None


async def sales_of(
    rows: Rows, wanted: SalesFilter, ask: Ask, *, after: str = "", limit: int
) -> Answer[SalesDaily]:
    """The first `limit` rows behind the key `after`, in the order of their keys."""
    parameters = {
        "first_day": wanted.first_day.isoformat(),
        "after_day": f"{wanted.last_day.isoformat()}0",  # "0" is the character behind "/"
        "after": after,
        "currency": wanted.currency,
        "location": wanted.location,
        "limit": limit,
    }
    return await rows.select(SALES_DAILY, _PAGE, parameters, ask)
