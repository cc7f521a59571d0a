"""Ways to be told something old by a cache of rows. Each fails with `Stale` where that can be."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from history import history, received, stock_of
from own_cache import OwnCache
from psycopg import sql
from read_side import ReadSide, read_side, running

from domain.envelope import Token
from projections.ports import Ask
from projections.product_detail import PRODUCT_DETAIL, ProductDetail, product_of
from runtime.audit_log.history import History
from runtime.cache import Cache
from runtime.read_models.rebuild import Rebuild
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

WAIT_S: Final = 10.0
RACE_S: Final = 0.7
READERS: Final = 4


class Stale(AssertionError):
    """An answer that is not what the snapshot says."""


@dataclass(frozen=True)
class Stage:
    """A shop that no projector follows just now. `rows` ask the cache, `truth` does not."""

    side: ReadSide
    held: Cache
    rows: PostgresRows
    truth: PostgresRows

    async def told(self) -> ProductDetail:
        """One product, asked for twice: what the first does not find in the cache, the second does."""
        for _ in range(2):
            [one] = (await product_of(self.rows, "p0", Ask())).rows
            [other] = (await product_of(self.truth, "p0", Ask())).rows
            if one != other:
                raise Stale(f"told {one}, stored is {other}")
        return one.row

    async def write(self, columns: str) -> None:
        """Into the row of the product, in the build that is served."""
        async with await psycopg.AsyncConnection.connect(self.side.read_url, autocommit=True) as owner:
            found = await owner.execute(
                "select build from read.builds where served and model = 'product_detail'"
            )
            [(build,)] = await found.fetchall()
            table = sql.Identifier("read", build).as_string()
            await owner.execute(f"update {table} set {columns} where product_id = 'p0'".encode())

    async def follow(self) -> None:
        """With a projector, until all is applied."""
        async with running(self.side.projector()):
            await self.side.converge()


@asynccontextmanager
async def stage_of(new_database: Callable[[], str], cache: OwnCache, seed: int = 71) -> AsyncIterator[Stage]:
    async with (
        read_side(new_database) as side,
        Cache.open(cache.url) as held,
        PostgresRows.open(side.read_url, held) as rows,
        PostgresRows.open(side.read_url) as truth,
    ):
        stage = Stage(side, held, rows, truth)
        await side.write(list(history(seed, appends=0)))
        await stage.follow()
        yield stage


async def rows_change_under_their_readers(stage: Stage) -> None:
    """Each answer is the fold of the events up to the position at which it is said to hold."""
    clock = asyncio.get_running_loop().time
    end = clock() + RACE_S

    async def write() -> None:
        while clock() < end:
            await stage.side.writer.append((stock_of(0), received(0, 1)))
            await asyncio.sleep(0.002)

    async def read() -> list[tuple[int, Token]]:
        answers = []
        while clock() < end:
            answer = await product_of(stage.rows, "p0", Ask())
            answers.append((answer.rows[0].row.variants[0].stock[0].available, answer.at))
        return answers

    async with running(stage.side.projector()), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        readers = [tasks.create_task(read()) for _ in range(READERS)]
    told = [answer for reader in readers for answer in reader.result()]
    events = await stage.side.reader.read_stream(stock_of(0), limit=1_000_000)
    lane = events[0].context, events[0].lane
    received_at: list[tuple[int, Any]] = [
        (one.position, stage.side.reader.decode(one).event) for one in events
    ]
    assert len({at.marks[lane] for _, at in told}) > READERS, "nothing changed"
    for available, at in told:
        expected = sum(event.qty for position, event in received_at if position <= at.marks[lane].position)
        if available != expected:
            raise Stale(f"told {available} at {at.marks[lane]}, where it is {expected}")


async def a_row_changes_and_no_position_does(stage: Stage) -> None:
    """As when what was parked is applied, behind positions that were passed long ago."""
    for brand in ("one", "other"):
        await stage.told()
        await stage.write(f"brand = '{brand}', revision = revision + 1")
        assert (await stage.told()).brand == brand


async def another_build_is_served(stage: Stage) -> None:
    """In which the row has the same revision, and is another."""
    await stage.write("brand = 'drifted', revision = 1000")
    assert (await stage.told()).brand == "drifted"
    with History.open(stage.side.log_url) as past:
        await Rebuild(stage.side.read_url, stage.side.reader, past, PRODUCT_DETAIL, lambda _: None).run(
            serve=True
        )
    await stage.write("revision = 1000")
    assert (await stage.told()).brand is None


async def a_build_is_dropped_and_made_again(stage: Stage) -> None:
    """Under the same name."""
    await stage.write("brand = 'drifted', revision = 1")
    assert (await stage.told()).brand == "drifted"
    build = Table(PRODUCT_DETAIL).build
    async with await psycopg.AsyncConnection.connect(stage.side.read_url, autocommit=True) as owner:
        await owner.execute(sql.SQL("drop table {} cascade").format(sql.Identifier("read", build)))
        await owner.execute("delete from read.builds where build = %s", [build])
    await stage.follow()
    await stage.write("revision = 1")
    assert (await stage.told()).brand is None


async def an_old_reader_is_late(stage: Stage) -> None:
    """What it read long ago, it puts into the cache only now."""
    await stage.write("brand = 'older', revision = revision + 1")
    late: list[Mapping[str, bytes]] = []
    put = stage.held.put

    async def later(values: Mapping[str, bytes]) -> None:
        late.append(values)

    stage.held.put = later  # type: ignore[method-assign]  # of this one
    await stage.told()
    stage.held.put = put  # type: ignore[method-assign]  # as it was
    await stage.write("brand = 'newer', revision = revision + 1")
    await stage.told()
    assert late
    await put(late[0])
    assert (await stage.told()).brand == "newer"


WAYS: Final[tuple[Callable[[Stage], Coroutine[Any, Any, None]], ...]] = (
    rows_change_under_their_readers,
    a_row_changes_and_no_position_does,
    an_old_reader_is_late,
    a_build_is_dropped_and_made_again,
    another_build_is_served,
)
"""One after the other, on one stage."""


async def two_shops_share_a_cache(stage: Stage, other: Stage) -> None:
    """Builds, keys and revisions of both are named alike."""
    for one, brand in ((stage, "one"), (other, "other")):
        await one.write(f"brand = '{brand}', revision = 1")
        await one.told()
    for one in (stage, other):
        await one.told()
