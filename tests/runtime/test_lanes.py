"""The lane of a stream: the same in Python and in the database, for ever."""

from collections.abc import Callable
from random import Random

import psycopg
import pytest

from runtime.lanes import lane_of
from runtime.migrate import migrate

NAMES = 2_000


@pytest.mark.anyio
async def test_the_database_says_the_same(new_database: Callable[[], str]) -> None:
    url = new_database()
    await migrate(url, "log")
    random = Random(3)  # noqa: S311 - any names will do
    alphabet = "abcXYZ0189-@._ äß🐘\\'\""
    names = ["".join(random.choices(alphabet, k=random.randint(0, 120))) for _ in range(NAMES)]
    lanes = [random.choice([1, 2, 3, 7, 8, 64, 1_000, 1_023, 1_024]) for _ in names]
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(
            "select log.lane_of(name, lanes) from unnest(%s::text[], %s::integer[])"
            " with ordinality as u (name, lanes, number) order by number",
            (names, lanes),
        )
        assert [lane for (lane,) in await found.fetchall()] == list(map(lane_of, names, lanes))


def test_lanes_do_not_move() -> None:
    assert [lane_of(f"stock-SKU{n}@BER", 8) for n in range(8)] == [3, 7, 2, 2, 4, 7, 3, 7]
