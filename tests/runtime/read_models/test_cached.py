"""Rows through the cache are the rows that the snapshot says are current, whatever the cache has."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from history import history
from own_cache import OwnCache
from pydantic import TypeAdapter
from read_side import ReadSide, running
from stale_reads import WAYS, Stage, stage_of, two_shops_share_a_cache

from projections import READ_MODELS
from projections.ports import Answer, Ask, ReadModel
from projections.product_detail import PRODUCT_DETAIL
from runtime import cache, projector
from runtime.cache import Cache
from runtime.read_models import cached
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

PRODUCTS: Final = 3
NAMES: Final = f"{cached.FORMAT}/*"


@pytest.fixture
async def shop(side: ReadSide) -> ReadSide:
    """With products, stock and orders, all applied."""
    await side.write(list(history(seed=72, appends=40)))
    async with running(side.projector()):
        await side.converge()
    return side


@pytest.fixture
async def rows(shop: ReadSide, own_cache: OwnCache) -> AsyncIterator[PostgresRows]:
    async with Cache.open(own_cache.url) as held, PostgresRows.open(shop.read_url, held) as rows:
        yield rows


async def everything(rows: PostgresRows, model: ReadModel[Any] = PRODUCT_DETAIL) -> Answer[Any]:
    return await rows.select(model, f"true order by {Table(model).key.name} desc", {}, Ask())


def counted(model: ReadModel[Any] = PRODUCT_DETAIL) -> tuple[int, int, int]:
    """Hits, misses and corrupt entries until now."""
    return tuple(
        int(one.labels(model.name)._value.get()) for one in (cached.HITS, cached.MISSES, cached.CORRUPT)
    )  # type: ignore[return-value]  # three


def more(before: tuple[int, int, int]) -> list[int]:
    return [now - then for then, now in zip(before, counted(), strict=True)]


async def test_every_row_is_the_same_from_the_cache_to_the_last_byte(
    shop: ReadSide, rows: PostgresRows
) -> None:
    for model in READ_MODELS:
        held_model = replace(model, cached=True)
        rendered = TypeAdapter(list[model.row]).dump_json  # type: ignore[name-defined]  # a class
        async with PostgresRows.open(shop.read_url) as plain:
            expected = await everything(plain, replace(model, cached=False))
        assert expected.rows
        before, _, _ = counted(model)
        for hits in (0, len(expected.rows)):
            answer = await everything(rows, held_model)
            assert answer == expected
            assert rendered([one.row for one in answer.rows]) == rendered([one.row for one in expected.rows])
            assert counted(model)[0] == before + hits, model.name


async def test_only_what_the_cache_lost_is_read_again(own_cache: OwnCache, rows: PostgresRows) -> None:
    expected = await everything(rows)
    assert len(expected.rows) == PRODUCTS
    async with own_cache.client() as client:
        names = [name async for name in client.scan_iter(NAMES)]
        assert len(names) == PRODUCTS
        await client.delete(names[0])
    before = counted()
    assert await everything(rows) == expected
    assert more(before) == [PRODUCTS - 1, 1, 0]
    async with own_cache.client() as client:
        await client.flushall()
    assert await everything(rows) == expected
    assert await everything(rows) == expected
    assert more(before) == [2 * PRODUCTS - 1, 1 + PRODUCTS, 0]


async def test_what_is_not_as_it_was_put_is_not_believed(own_cache: OwnCache, rows: PostgresRows) -> None:
    expected = await everything(rows)
    async with own_cache.client() as client:
        first, second, third = [name async for name in client.scan_iter(NAMES)]
        value = await client.get(first)
        assert isinstance(value, bytes)
        for nonsense in (b"", b"x", value[:-1], value[:-2] + b"!}", b"\0" * len(value)):
            await client.set(first, nonsense)
            before = counted()
            assert await everything(rows) == expected
            assert more(before) == [PRODUCTS - 1, 1, 1], nonsense
        await client.set(first, await client.get(second))
        await client.delete(third)
        await client.execute_command("RPUSH", third, "x")
        before = counted()
        assert await everything(rows) == expected
        assert more(before) == [1, 2, 1]
    assert await everything(rows) == expected


async def test_without_its_cache_everything_is_answered(
    own_cache: OwnCache, rows: PostgresRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "REST_S", 0.0)  # it is asked again and again
    expected = await everything(rows)
    own_cache.freeze()
    assert await everything(rows) == expected
    await own_cache.stop()
    assert await everything(rows) == expected
    await own_cache.start()
    assert await everything(rows) == expected


@pytest.fixture
async def stage(
    new_database: Callable[[], str], own_cache: OwnCache, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    monkeypatch.setattr(projector, "WATCH_S", 0.01)
    async with stage_of(new_database, own_cache) as stage:
        yield stage


async def test_nobody_is_told_anything_old(stage: Stage) -> None:
    for way in WAYS:
        await way(stage)


async def test_nobody_is_told_of_another_shop(
    stage: Stage, new_database: Callable[[], str], own_cache: OwnCache
) -> None:
    async with stage_of(new_database, own_cache) as other:
        await two_shops_share_a_cache(stage, other)
