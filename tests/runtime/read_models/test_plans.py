"""A page of a list of many rows is found by an index: no table is read along, and little for nothing."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final, LiteralString, get_args

import psycopg
import pytest
from psycopg import sql
from read_side import ReadSide

from domain.order import OrderStatus
from domain.product import ProductStatus
from projections.event_index import EVENT_INDEX, IndexFilter, indexed
from projections.order_list import ORDER_LIST, OrderFilter, orders_of
from projections.ports import Answer, Ask, ReadModel
from projections.product_list import PRODUCT_LIST, ProductFilter, Sort, products_of
from runtime.read_models import builds
from runtime.read_models.statements import select
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

ROWS: Final = 30_000
LIMIT: Final = 50
NOON: Final = datetime(2017, 6, 1, 12, tzinfo=UTC)
AT_MOST_READ: Final = 4 * LIMIT
# One in a hundred is not completed; one in three hundred is of a given customer.
ORDERS: Final = """
insert into {} (order_id, order_no, customer_id, status, currency, total, lines, placed_at, version, parts,
    shown, revision)
select 'o' || n, 'no' || n, 'c' || n %% 300,
    case when n %% 100 = 7 then 'placed' else 'completed' end,
    'EUR', '{{"amount_minor": 1, "currency": "EUR"}}', 3,
    '2017-01-01Z'::timestamptz + n * interval '17 minutes', 1, '{{}}', true, 1
from generate_series(1, %s) as n
"""
# One in fifty is a draft; one in a thousand is in stock. All have one of two words, so none has both; one in
# thirty is a bargain, and those are the cheapest.
PRODUCTS: Final = """
insert into {} (product_id, slug, status, title, department, category, currency, price_minor, prices,
    available, in_stock, variants, drafted_at, version, name, words, listed_at, parts, shown, revision)
select 'p' || n, 's' || n, case when n %% 50 = 7 then 'draft' else 'published' end, '{{}}',
    'd' || n %% 30, 'c' || n %% 300, 'EUR', n %% 3000, '{{}}',
    0, n %% 1000 = 9, 1, at, 1, 'n' || n %% 7000,
    case when n %% 8 = 0 then 'rare' else 'common' end
        || case when n %% 3000 < 100 then ' bargain' else '' end,
    at, '{{}}', true, 1
from generate_series(1, %s) as n,
    lateral (select '2017-01-01Z'::timestamptz + n * interval '1 hour') as t (at)
"""
DEAR: Final = 2_990
# One in fifty is of a type, one in three of a category, one in three hundred of an actor.
EVENTS: Final = """
insert into {} (event_id, position, type, category, actor, correlation_id, parts, shown, revision)
select 'e' || n, n, 't' || n %% 50, 'k' || n %% 3, 'customer:c' || n %% 300, 'x' || n / 3, '{{}}', true, 1
from generate_series(1, %s) as n
"""
STRETCH: Final = ROWS // 10


class Explained:
    """Stands where the rows would: asks PostgreSQL how it found them."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.nodes: list[Mapping[str, Any]] = []

    async def select(
        self,
        model: ReadModel[Any],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,  # noqa: ARG002 - of the port
        *,
        ever: LiteralString | None = None,  # noqa: ARG002 - of the port
    ) -> Answer[Any]:
        query = sql.SQL("explain (analyze, format json) ") + select(Table(model), where)
        [(found,)] = await (await self._connection.execute(query, parameters)).fetchall()
        self.nodes = list(_nodes(found[0]["Plan"]))
        return Answer((), None, "")  # type: ignore[arg-type]  # nobody looks

    @property
    def kinds(self) -> set[str]:
        return {node["Node Type"] for node in self.nodes}

    @property
    def read(self) -> int:
        """How many rows the table was asked for."""
        return sum(
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            for node in self.nodes
            if "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Index Scan"
        )


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


Filled = Callable[[ReadModel[Any], LiteralString], AbstractAsyncContextManager[Explained]]


@pytest.fixture
def filled(side: ReadSide) -> Filled:
    @asynccontextmanager
    async def filled(model: ReadModel[Any], fill: LiteralString) -> AsyncIterator[Explained]:
        table = Table(model)
        async with side.pool.connection() as connection:
            await builds.create(connection, table, 1, await side.reader.incarnation())
        async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
            await owner.execute(sql.SQL(fill).format(table.identifier), [ROWS])
            await owner.execute(sql.SQL("vacuum analyze {}").format(table.identifier))
            yield Explained(owner)

    return filled


async def test_every_list_of_orders_is_a_range_of_an_index(filled: Filled) -> None:
    customers, statuses = (None, "c7"), (None, OrderStatus.PLACED, OrderStatus.COMPLETED)
    times, places = (None, NOON), (None, (NOON, "o1"))
    async with filled(ORDER_LIST, ORDERS) as explained:
        for customer, status, first, end, newest, behind in product(
            customers, statuses, times, times, (True, False), places
        ):
            wanted = OrderFilter(customer, status, first, end, newest_first=newest)
            await orders_of(explained, wanted, Ask(), behind=behind, limit=LIMIT)
            assert "Seq Scan" not in explained.kinds, (wanted, behind, explained.kinds)
            assert explained.read <= AT_MOST_READ, (wanted, behind, explained.nodes)


PLACES: Final[Mapping[Sort, tuple[Any, str]]] = {
    "name": ("n3", "p1"),
    "newest": (NOON, "p1"),
    "cheapest": (1500, "p1"),
    "dearest": (1500, "p1"),
}


async def read_for(explained: Explained, wanted: ProductFilter, *, behind: tuple[Any, str] | None) -> int:
    await products_of(explained, wanted, Ask(), behind=behind, limit=LIMIT)
    assert "Seq Scan" not in explained.kinds, (wanted, behind, explained.kinds)
    return explained.read


async def test_every_list_of_products_is_a_range_of_an_index(filled: Filled) -> None:
    shelves: list[dict[str, Any]] = [
        {},
        {"department": "d8"},
        {"category": "c8"},
        {"department": "d8", "category": "c8"},
    ]
    async with filled(PRODUCT_LIST, PRODUCTS) as explained:
        for sort, status, shelf, in_stock in product(
            PLACES, (ProductStatus.PUBLISHED, ProductStatus.DRAFT), shelves, (None, False)
        ):
            wanted = ProductFilter(sort, status, currency="EUR", in_stock=in_stock, **shelf)
            for behind in (None, PLACES[sort]):
                assert await read_for(explained, wanted, behind=behind) <= AT_MOST_READ, (
                    wanted,
                    explained.nodes,
                )
        for sort, low, high in product(PLACES, (None, 100), (None, DEAR)):
            wanted = ProductFilter(sort, currency="EUR", price_from=low, price_to=high)
            assert await read_for(explained, wanted, behind=None) <= AT_MOST_READ, (wanted, explained.nodes)


async def test_what_few_products_have_is_not_looked_for_along_an_order(filled: Filled) -> None:
    few: list[dict[str, Any]] = [
        {"in_stock": True},
        {"in_stock": True, "department": "d9"},
        {"price_from": DEAR},
        {"price_from": DEAR, "department": "d29"},
        {"price_from": 9_999},
        {"words": "nowhere"},
        {"words": "bargain"},
        {"words": "rare bargain"},
        {"words": "rare common"},
    ]
    async with filled(PRODUCT_LIST, PRODUCTS) as explained:
        for sort, asked in product(get_args(Sort), few):
            wanted = ProductFilter(sort, currency="EUR", **asked)
            assert await read_for(explained, wanted, behind=None) <= ROWS / 20, (wanted, explained.nodes)


async def test_words_that_most_products_have_are_met_along_an_order(filled: Filled) -> None:
    async with filled(PRODUCT_LIST, PRODUCTS) as explained:
        for sort in get_args(Sort):
            wanted = ProductFilter(sort, currency="EUR", words="common")
            assert await read_for(explained, wanted, behind=PLACES[sort]) <= AT_MOST_READ, explained.nodes


async def test_whatever_a_feed_asks_of_the_event_index_is_a_range_of_an_index(filled: Filled) -> None:
    said = product((None, "t7"), (None, "k1"), (None, "customer:c7"), (None, "x9"))
    async with filled(EVENT_INDEX, EVENTS) as explained:
        for filters, after in product(said, (0, ROWS // 2, ROWS - STRETCH)):
            wanted = IndexFilter(*filters)
            if wanted != IndexFilter():
                await indexed(explained, wanted, Ask(), after=after, upto=after + STRETCH, limit=LIMIT)
                assert "Seq Scan" not in explained.kinds, (wanted, explained.kinds)
                assert explained.read <= AT_MOST_READ, (wanted, explained.nodes)
