"""A page of a list of many rows is found by an index: no table is read along, and little for nothing."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime
from importlib import import_module
from inspect import getmembers, iscoroutinefunction
from itertools import product
from pkgutil import iter_modules
from typing import Any, Final, LiteralString, get_args, get_type_hints

import psycopg
import pytest
from psycopg import sql
from read_side import ReadSide

import projections
from domain.order import OrderStatus
from domain.product import ProductStatus
from projections import READ_MODELS
from projections.event_index import EVENT_INDEX, IndexFilter, indexed
from projections.order_detail import ORDER_DETAIL, order_of
from projections.order_list import ORDER_LIST, OrderFilter, orders_of
from projections.ports import Answer, Ask, ReadModel, Rows
from projections.product_detail import PRODUCT_DETAIL, product_of, product_with_slug
from projections.product_list import PRODUCT_LIST, ProductFilter, Sort, products_of
from projections.sales_daily import SALES_DAILY, SalesFilter, sales_of
from projections.stock_availability import STOCK_AVAILABILITY, availability_of
from runtime.read_models import builds
from runtime.read_models.statements import select, select_keys, select_revisions
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
DETAILS: Final = """
insert into {} (product_id, slug, title, description, attributes, variants, parts, shown, revision)
select 'p' || n, 's' || n, '{{}}', '{{}}', '{{}}', '[]', '{{}}', true, 1 from generate_series(1, %s) as n
"""
STOCK: Final = """
insert into {} (id, sku, location, parts, shown, revision)
select 'k' || n || '@MAIN', 'k' || n, 'MAIN', '{{}}', true, 1 from generate_series(1, %s) as n
"""
ORDER_DETAILS: Final = """
insert into {} (order_id, parts, shown, revision)
select 'o' || n, '{{}}', true, 1 from generate_series(1, %s) as n
"""
# Ten locations a day.
SALES: Final = """
insert into {} (key, day, currency, location, parts, shown, revision)
select day || '/EUR/L' || n %% 10, day, 'EUR', 'L' || n %% 10, '{{}}', true, 1
from generate_series(1, %s) as n, lateral (select ('2017-01-01'::date + n / 10)::text) as t (day)
"""


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
        """Of the rows, and of their keys and revisions only: whichever form reads more is what is told."""
        forms = [
            await self.explain(form(Table(model), where), parameters) for form in (select, select_revisions)
        ]
        self.nodes = max(forms, key=_rows_read)
        assert all("Seq Scan" not in {node["Node Type"] for node in form} for form in forms), (where, forms)
        return Answer((), None, "")  # type: ignore[arg-type]  # nobody looks

    async def explain(self, query: bytes, parameters: Any) -> list[Mapping[str, Any]]:
        explained = b"explain (analyze, format json) " + query
        [(found,)] = await (await self._connection.execute(explained, parameters)).fetchall()
        return list(_nodes(found[0]["Plan"]))

    @property
    def read(self) -> int:
        return _rows_read(self.nodes)


def _rows_read(nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many rows the table was asked for."""
    return sum(
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        for node in nodes
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


PLACES: Final[Mapping[Sort, tuple[Any, str]]] = {
    "name": ("n3", "p1"),
    "newest": (NOON, "p1"),
    "cheapest": (1500, "p1"),
    "dearest": (1500, "p1"),
}
SHELVES: Final[Sequence[Mapping[str, Any]]] = (
    {},
    {"department": "d8"},
    {"category": "c8"},
    {"department": "d8", "category": "c8"},
)


def lists_of_orders() -> Iterator[Mapping[str, Any]]:
    customers, statuses = (None, "c7"), (None, OrderStatus.PLACED, OrderStatus.COMPLETED)
    times, places = (None, NOON), (None, (NOON, "o1"))
    for customer, status, first, end, newest, behind in product(
        customers, statuses, times, times, (True, False), places
    ):
        wanted = OrderFilter(customer, status, first, end, newest_first=newest)
        yield {"wanted": wanted, "behind": behind, "limit": LIMIT}


def lists_of_products() -> Iterator[Mapping[str, Any]]:
    statuses = (ProductStatus.PUBLISHED, ProductStatus.DRAFT)
    for sort, status, shelf, in_stock in product(PLACES, statuses, SHELVES, (None, False)):
        wanted = ProductFilter(sort, status, currency="EUR", in_stock=in_stock, **shelf)
        for behind in (None, PLACES[sort]):
            yield {"wanted": wanted, "behind": behind, "limit": LIMIT}
    for sort, low, high in product(PLACES, (None, 100), (None, DEAR)):
        wanted = ProductFilter(sort, currency="EUR", price_from=low, price_to=high)
        yield {"wanted": wanted, "behind": None, "limit": LIMIT}


def pages_of_sales() -> Iterator[Mapping[str, Any]]:
    last_days, afters = (date(2018, 1, 31), date.max), ("", "2018-01-15/EUR/L3")
    for last_day, currency, after in product(last_days, (None, "EUR"), afters):
        wanted = SalesFilter(date(2018, 1, 1), last_day, currency)
        yield {"wanted": wanted, "after": after, "limit": LIMIT}


def feeds() -> Iterator[Mapping[str, Any]]:
    said = product((None, "t7"), (None, "k1"), (None, "customer:c7"), (None, "x9"))
    for filters, after in product(said, (0, ROWS // 2, ROWS - STRETCH)):
        wanted = IndexFilter(*filters)
        if wanted != IndexFilter():
            yield {"wanted": wanted, "after": after, "upto": after + STRETCH, "limit": LIMIT}


Query = Callable[..., Coroutine[Any, Any, Answer[Any]]]
CASES: Final[
    Mapping[Query, tuple[ReadModel[Any], LiteralString, Callable[[], Iterable[Mapping[str, Any]]]]]
] = {
    product_of: (PRODUCT_DETAIL, DETAILS, lambda: [{"product_id": "p7"}]),
    product_with_slug: (PRODUCT_DETAIL, DETAILS, lambda: [{"slug": "s7"}]),
    products_of: (PRODUCT_LIST, PRODUCTS, lists_of_products),
    availability_of: (
        STOCK_AVAILABILITY,
        STOCK,
        lambda: ({"skus": [f"k{number}" for number in range(count)]} for count in (1, LIMIT, 4 * LIMIT)),
    ),
    order_of: (ORDER_DETAIL, ORDER_DETAILS, lambda: [{"order_id": "o7"}]),
    orders_of: (ORDER_LIST, ORDERS, lists_of_orders),
    sales_of: (SALES_DAILY, SALES, pages_of_sales),
    indexed: (EVENT_INDEX, EVENTS, feeds),
}


def queries() -> list[Query]:
    """Whatever a module of the read models has that asks rows."""
    modules = [import_module(f"projections.{found.name}") for found in iter_modules(projections.__path__)]
    found = {
        function
        for module in modules
        for _, function in getmembers(module, iscoroutinefunction)
        if Rows in get_type_hints(function).values()
    }
    return sorted(found, key=lambda function: function.__name__)


def test_every_query_and_every_read_model_has_cases_here() -> None:
    assert set(queries()) == set(CASES)
    assert {model.name for model, *_ in CASES.values()} == {model.name for model in READ_MODELS}


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.__name__)
async def test_every_query_is_a_range_of_an_index(filled: Filled, query: Query) -> None:
    model, fill, cases = CASES[query]
    async with filled(model, fill) as explained:
        for arguments in cases():
            await query(explained, ask=Ask(), **arguments)
            assert explained.nodes
            assert explained.read <= AT_MOST_READ, (arguments, explained.nodes)
        keys = select_keys(Table(model))
        nodes = await explained.explain(keys, [[f"p{number}" for number in range(LIMIT)]])
        assert [node["Node Type"] for node in nodes] in (
            ["Index Scan"],
            ["Bitmap Heap Scan", "Bitmap Index Scan"],
        )


async def read_for(explained: Explained, wanted: ProductFilter, *, behind: tuple[Any, str] | None) -> int:
    await products_of(explained, wanted, Ask(), behind=behind, limit=LIMIT)
    return explained.read


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
