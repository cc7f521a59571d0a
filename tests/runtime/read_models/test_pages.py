"""A list walked page by page gives every row that it should once, in its order, of today and of the past."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from read_side import ReadSide

from domain.product import ProductStatus
from projections.ports import Answer, Ask, ReadModel, Rows, Versioned
from projections.product_list import (
    PRODUCT_LIST,
    SORTED_BY,
    ListedProduct,
    ProductFilter,
    Sort,
    products_of,
)
from runtime.read_models import builds
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

ROWS: Final = 150
NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORDS: Final = ("tea", "mug", "blue", "été")
SHELVES: Final = (None, "a", "b")
BY_PRICE: Final = ("cheapest", "dearest")


def products() -> list[ListedProduct]:
    """Few values of everything, so that there are ties."""
    chance = random.Random(3)  # noqa: S311 - rows to be sorted
    made = []
    for number in range(ROWS):
        at = NOON + timedelta(hours=chance.randrange(9))
        currency = chance.choice([None, "EUR", "EUR", "USD"])
        made.append(
            ListedProduct(
                product_id=f"p{number}",
                slug=f"s{number}",
                status=chance.choice([ProductStatus.DRAFT, ProductStatus.PUBLISHED, ProductStatus.PUBLISHED]),
                title={},
                brand=None,
                department=chance.choice(SHELVES),
                category=chance.choice(SHELVES),
                currency=currency,
                price_minor=chance.randrange(1, 9) if currency else None,
                prices={},
                available=0,
                in_stock=chance.random() < 0.5,
                variants=1,
                drafted_at=at,
                published_at=None,
                version=1,
                name=chance.choice(["a/b", "tea", "Tea", "téa", ""]),
                words=" ".join(chance.sample(WORDS, 2)),
                listed_at=at,
            )
        )
    return made


PRODUCTS: Final = products()


@dataclass(frozen=True)
class GivenRows:
    """Reads rows that it is given, as a question about the past does."""

    rows: PostgresRows

    async def select(
        self,
        model: ReadModel[Any],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,  # noqa: ARG002 - of the port
        *,
        ever: LiteralString | None = None,  # noqa: ARG002 - of the port
    ) -> Answer[Any]:
        found = await self.rows.among(model, PRODUCTS, where, parameters)
        return Answer(tuple(Versioned(row, 1) for row in found), None, "")  # type: ignore[arg-type]  # nobody looks


@pytest.fixture
async def both(side: ReadSide) -> AsyncIterator[Sequence[Rows]]:
    """The products as stored rows, and as given ones."""
    table = Table(PRODUCT_LIST)
    columns = [column.name for column in table.columns]
    async with side.pool.connection() as connection:
        await builds.create(connection, table, 1, await side.reader.incarnation())
        await builds.has_caught_up(connection, table)
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        insert = sql.SQL("insert into {} ({}, parts, shown, revision) values ({}, '{{}}', true, 1)").format(
            table.identifier,
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        )
        async with owner.cursor() as cursor:
            values = [
                [column.value(getattr(row, column.name)) for column in table.columns] for row in PRODUCTS
            ]
            await cursor.executemany(insert, values)
    async with PostgresRows.open(side.read_url) as rows:
        yield rows, GivenRows(rows)


PRICES: Final = st.none() | st.integers(0, 9)
FILTERS: Final = st.builds(
    ProductFilter,
    sort=st.sampled_from(list(SORTED_BY)),
    status=st.sampled_from([ProductStatus.DRAFT, ProductStatus.PUBLISHED]),
    department=st.sampled_from(SHELVES),
    category=st.sampled_from(SHELVES),
    currency=st.sampled_from([None, "EUR", "USD", "CHF"]),
    price_from=PRICES,
    price_to=PRICES,
    in_stock=st.sampled_from([None, True, False]),
    words=st.none() | st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join),
)


def satisfies(row: ListedProduct, wanted: ProductFilter) -> bool:
    price, low, high = row.price_minor, wanted.price_from, wanted.price_to
    asked = replace(wanted, sort="name", price_from=None, price_to=None, words=None)
    plain = {field.name: getattr(asked, field.name) for field in fields(asked) if field.name != "sort"}
    return (
        all(value is None or getattr(row, name) == value for name, value in plain.items())
        and (low is None or (price is not None and price >= low))
        and (high is None or (price is not None and price <= high))
        and set((wanted.words or "").split()) <= set(row.words.split())
    )


def place(row: ListedProduct, sort: Sort) -> tuple[Any, str]:
    return getattr(row, SORTED_BY[sort]), row.product_id


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=FILTERS, limit=st.integers(1, 60))
async def test_pages_give_every_product_once_in_order(
    both: Sequence[Rows], wanted: ProductFilter, limit: int
) -> None:
    if wanted.sort in BY_PRICE and wanted.currency is None:
        wanted = replace(wanted, currency="EUR")
    whole = sorted(
        (row for row in PRODUCTS if satisfies(row, wanted)),
        key=lambda row: place(row, wanted.sort),
        reverse=wanted.sort in ("newest", "dearest"),
    )
    for rows in both:
        walked: list[ListedProduct] = []
        behind = None
        for _ in range(ROWS):
            page = (await products_of(rows, wanted, Ask(), behind=behind, limit=limit)).rows
            if not page:
                break
            walked += [one.row for one in page]
            behind = place(walked[-1], wanted.sort)
        assert walked == whole
