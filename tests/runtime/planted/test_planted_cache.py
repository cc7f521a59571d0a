"""Bugs planted in how entries of the cache are named, each noticed by a way to be told something old."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final

import pytest
from own_cache import OwnCache
from stale_reads import (
    Stage,
    Stale,
    a_build_is_dropped_and_made_again,
    a_row_changes_and_no_position_does,
    an_old_reader_is_late,
    another_build_is_served,
    rows_change_under_their_readers,
    stage_of,
    two_shops_share_a_cache,
)

from runtime import projector
from runtime.read_models import cached
from runtime.read_models import rows as rows_module
from runtime.read_models.cached import Place

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

_stands_at: ContextVar[int] = ContextVar("stands_at")


@pytest.fixture
async def stage(
    new_database: Callable[[], str], own_cache: OwnCache, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    monkeypatch.setattr(projector, "WATCH_S", 0.01)
    async with stage_of(new_database, own_cache) as stage:
        yield stage


def by_position(place: Place, key: str, _revision: int) -> str:
    return f"{place.life}/{place.build}/{key}/{_stands_at.get()}"


def by_key_alone(place: Place, key: str, _revision: int) -> str:
    return f"{place.life}/{place.build}/{key}"


def of_any_build(place: Place, key: str, revision: int) -> str:
    return f"{place.life}/{key}/{revision}"


def of_any_number(place: Place, key: str, revision: int) -> str:
    return f"{place.life}/{place.build.partition('.')[0]}/{key}/{revision}"


def of_any_database(place: Place, key: str, revision: int) -> str:
    return f"{place.build}/{key}/{revision}"


PLANTS: Final[Sequence[tuple[Callable[[Place, str, int], str], Callable[[Stage], Any]]]] = (
    (by_position, a_row_changes_and_no_position_does),
    (by_key_alone, rows_change_under_their_readers),
    (by_key_alone, an_old_reader_is_late),
    (of_any_number, a_build_is_dropped_and_made_again),
    (of_any_build, another_build_is_served),
)
"""And the way that notices it; in the order in which one stage can be used."""


async def test_every_planted_name_is_noticed(
    stage: Stage, own_cache: OwnCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rows_module._ask

    async def noting(*arguments: Any) -> Any:
        build, seen = await asked(*arguments)
        _stands_at.set(max((mark.position for mark in seen.at.marks.values()), default=0))
        return build, seen

    monkeypatch.setattr(rows_module, "_ask", noting)
    for plant, way in PLANTS:
        async with own_cache.client() as client:
            await client.flushall()
        monkeypatch.setattr(cached, "name_of", plant)
        with pytest.raises(Stale):
            await way(stage)


async def test_a_name_without_the_database_is_noticed(
    stage: Stage, new_database: Callable[[], str], own_cache: OwnCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "name_of", of_any_database)
    async with stage_of(new_database, own_cache) as other:
        with pytest.raises(Stale):
            await two_shops_share_a_cache(stage, other)
