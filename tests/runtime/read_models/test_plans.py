"""A page of a list of many rows is found by an index: no table is read along, and little for nothing."""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final, LiteralString

import psycopg
import pytest
from psycopg import sql
from read_side import ReadSide

from domain.order import OrderStatus
from projections.order_list import ORDER_LIST, OrderFilter, orders_of
from projections.ports import Answer, Ask, ReadModel
from runtime.read_models import builds
from runtime.read_models.rows import _select
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

ROWS: Final = 30_000
LIMIT: Final = 50
NOON: Final = datetime(2017, 6, 1, 12, tzinfo=UTC)
AT_MOST_READ: Final = 4 * LIMIT
# One in a hundred is not completed; one in three hundred is of a given customer.
FILL: Final = """
insert into {} (order_id, order_no, customer_id, status, currency, total, lines, placed_at, version, parts,
    shown, revision)
select 'o' || n, 'no' || n, 'c' || n %% 300,
    case when n %% 100 = 7 then 'placed' else 'completed' end,
    'EUR', '{{"amount_minor": 1, "currency": "EUR"}}', 3,
    '2017-01-01Z'::timestamptz + n * interval '17 minutes', 1, '{{}}', true, 1
from generate_series(1, %s) as n
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
        query = sql.SQL("explain (analyze, format json) ") + _select(Table(model), where)
        [(found,)] = await (await self._connection.execute(query, parameters)).fetchall()
        self.nodes = list(_nodes(found[0]["Plan"]))
        return Answer((), None, "")  # type: ignore[arg-type]  # nobody looks


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


@pytest.fixture
async def explained(side: ReadSide) -> AsyncIterator[Explained]:
    table = Table(ORDER_LIST)
    async with side.pool.connection() as connection:
        await builds.create(connection, table, 1, await side.reader.incarnation())
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        await owner.execute(sql.SQL(FILL).format(table.identifier), [ROWS])
        await owner.execute(sql.SQL("vacuum analyze {}").format(table.identifier))
        yield Explained(owner)


async def test_every_list_of_orders_is_a_range_of_an_index(explained: Explained) -> None:
    customers, statuses = (None, "c7"), (None, OrderStatus.PLACED, OrderStatus.COMPLETED)
    times, places = (None, NOON), (None, (NOON, "o1"))
    for customer, status, first, end, newest, behind in product(
        customers, statuses, times, times, (True, False), places
    ):
        wanted = OrderFilter(customer, status, first, end, newest_first=newest)
        await orders_of(explained, wanted, Ask(), behind=behind, limit=LIMIT)
        kinds = {node["Node Type"] for node in explained.nodes}
        assert "Seq Scan" not in kinds, (wanted, behind, kinds)
        read = sum(
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            for node in explained.nodes
            if "Scan" in node["Node Type"]
        )
        assert read <= AT_MOST_READ, (wanted, behind, explained.nodes)
