"""A feed is the same whether the event index is there, behind, or gone: it only takes another time."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from history import history, uuid_of
from parked_side import catch_up, retried
from poison import poisoned
from read_side import ReadSide, running

from api.audit import _feeding
from api.audit._feeding import until
from api.audit.ports import Filter, HistoryEvent, Index
from domain import CONTEXTS, EVENTS
from domain.envelope import Actor, Token
from projections.event_index import EVENT_INDEX
from projections.ports import Ask
from runtime import audit_index
from runtime.audit_index import AuditIndex
from runtime.audit_log.threaded import ThreadedHistory
from runtime.read_models import builds
from runtime.read_models.resuming import Skip, skip
from runtime.read_models.rows import PostgresRows
from runtime.read_models.tables import Table

pytestmark = pytest.mark.anyio

FILTERS = 60
ACTORS = [Actor("customer", "c1"), Actor("customer", "c2"), Actor("staff", "c1"), Actor("system", "a:b")]
CORRELATIONS = [uuid_of(9, number) for number in range(5)]


class NoIndex:
    async def positions(self, *_: object, **__: object) -> None:
        return None


class CountedIndex:
    """Which of its answers were none."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.answered: list[bool] = []

    async def positions(self, wanted: Filter, *, after: int, upto: int, limit: int) -> Sequence[int] | None:
        found = await self._index.positions(wanted, after=after, upto=upto, limit=limit)
        self.answered.append(found is not None)
        return found


async def write(side: ReadSide, chance: random.Random, appends: int) -> None:
    for facts in history(chance.randrange(1_000), appends):
        correlation = chance.choice(CORRELATIONS) if chance.random() < 0.5 else None
        await side.writer.append(*facts, actor=chance.choice(ACTORS), correlation_id=correlation)


async def applied(side: ReadSide) -> None:
    token = Token(await side.reader.incarnation(), await side.reader.heads())
    async with PostgresRows.open(side.read_url) as rows:
        await rows.select(EVENT_INDEX, "false", {}, Ask(token, 20.0))


def some_filter(chance: random.Random, streams: Sequence[str]) -> Filter:
    def perhaps(values: Sequence[Any], likely: float = 0.3) -> Any:
        return chance.choice(values) if chance.random() < likely else None

    actor = perhaps(ACTORS)
    return Filter(
        context=perhaps(sorted(set(CONTEXTS.values()))),
        category=perhaps(sorted(CONTEXTS)),
        type=perhaps(sorted(EVENTS)),
        stream=perhaps(streams, 0.1),
        actor=(actor.type, actor.id) if actor else None,
        correlation=perhaps(CORRELATIONS),
    )


async def fed(
    log: ThreadedHistory, index: Index, wanted: Filter, after: int, upto: int
) -> list[HistoryEvent]:
    """What the feed has, whose batches say truly how far they go."""
    found: list[HistoryEvent] = []
    reached = after
    async for batch in until(log, index, wanted, after, upto):
        assert batch.upto >= reached
        assert all(reached < event.position <= batch.upto for event in batch.events)
        reached = batch.upto
        found += batch.events
    assert reached == max(after, upto)
    return found


async def must_be_the_same(
    log: ThreadedHistory,
    index: Index,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    filters: int = FILTERS,
) -> None:
    """Random filters over random stretches, in steps of any size: as brute force has it."""
    whole = await log.read(0, 10_000)
    streams = sorted({event.stream for event in whole})
    for _ in range(filters):
        monkeypatch.setattr(_feeding, "BATCH_EVENTS", chance.choice((1, 3, 50, 500)))
        monkeypatch.setattr(_feeding, "MAX_POSITIONS", chance.choice((2, 7, 5_000)))
        monkeypatch.setattr(_feeding, "STRETCH", chance.choice((11, 100, 200_000)))
        wanted = some_filter(chance, streams)
        after = chance.choice((0, chance.randrange(len(whole))))
        upto = chance.choice((len(whole), chance.randrange(len(whole))))
        expected = [event for event in whole if after < event.position <= upto and wanted.takes(event)]
        assert await fed(log, index, wanted, after, upto) == expected, (wanted, after, upto)
        assert await fed(log, NoIndex(), wanted, after, upto) == expected, (wanted, after, upto)


@pytest.fixture
async def log(side: ReadSide) -> AsyncIterator[ThreadedHistory]:
    async with ThreadedHistory.open(side.log_url) as log:
        yield log


@asynccontextmanager
async def indexed(url: str, log: ThreadedHistory) -> AsyncIterator[CountedIndex]:
    async with AuditIndex.open(url, log) as index:
        yield CountedIndex(index)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in (2, 3))])
async def test_with_the_index_a_feed_is_what_it_is_without(
    side: ReadSide, log: ThreadedHistory, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a history, not a secret
    await write(side, chance, 150)
    async with running(side.projector()):
        await applied(side)
    async with indexed(side.read_url, log) as index:
        await must_be_the_same(log, index, chance, monkeypatch)
        assert index.answered
        assert all(index.answered)


@pytest.mark.parametrize("mended", ["nothing", "skipped", "resumed"])
async def test_an_index_with_a_parked_stream_is_used_before_it_only(
    side: ReadSide, log: ThreadedHistory, monkeypatch: pytest.MonkeyPatch, mended: str
) -> None:
    chance = random.Random(7)  # noqa: S311 - a history, not a secret
    await write(side, chance, 60)
    poison = (await side.reader.read(40, 1))[0]
    model = poisoned(EVENT_INDEX, {poison.event_id})
    await catch_up(side, model)
    async with side.pool.connection() as connection:
        await builds.has_caught_up(connection, Table(model))
        if mended == "skipped":
            wanted = Skip(poison.stream, poison.event_id, "a test", "me")
            await skip(connection, side.reader, Table(model), wanted)
    if mended != "nothing":
        assert await retried(side, EVENT_INDEX if mended == "resumed" else model) == [None]
    async with indexed(side.read_url, log) as index:
        await must_be_the_same(log, index, chance, monkeypatch, filters=20)
        assert any(index.answered)
        assert all(index.answered) is (mended == "resumed")


async def test_an_index_that_is_behind_is_used_as_far_as_it_goes(
    side: ReadSide, log: ThreadedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_index, "WAIT_S", 0.0)
    chance = random.Random(4)  # noqa: S311 - a history, not a secret
    await write(side, chance, 80)
    async with running(side.projector()):
        await applied(side)
    for facts in history(seed=5, appends=40, items=12):
        if all(stream.startswith(("order-", "stock-")) for stream, _ in facts):
            await side.writer.append(*facts, actor=chance.choice(ACTORS))
    async with indexed(side.read_url, log) as index:
        await must_be_the_same(log, index, chance, monkeypatch)
        assert {True, False} == set(index.answered)


async def test_an_index_that_never_was_is_not_missed(
    side: ReadSide, log: ThreadedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_index, "WAIT_S", 0.0)
    chance = random.Random(6)  # noqa: S311 - a history, not a secret
    await write(side, chance, 40)
    async with indexed(side.read_url, log) as index:
        await must_be_the_same(log, index, chance, monkeypatch)
        assert not any(index.answered)


async def test_an_index_that_cannot_be_asked_is_left_alone_for_a_while(
    side: ReadSide, log: ThreadedHistory, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_index, "ANSWER_S", 0.2)
    chance = random.Random(7)  # noqa: S311 - a history, not a secret
    await write(side, chance, 40)
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    async with AuditIndex.open(nowhere, log) as index:
        counted = CountedIndex(index)
        await must_be_the_same(log, counted, chance, monkeypatch)
        assert len(counted.answered) > 10
        assert not any(counted.answered)
        assert index._rests_until > 0


async def test_an_index_of_another_history_is_not_believed(
    side: ReadSide, log: ThreadedHistory, new_database: Callable[[], str]
) -> None:
    await write(side, random.Random(8), 20)  # noqa: S311 - a history, not a secret
    async with running(side.projector()):
        await applied(side)
    async with side.pool.connection() as connection:
        await connection.execute("update read.checkpoints set incarnation = gen_random_uuid()")
    async with indexed(side.read_url, log) as index:
        assert await index.positions(Filter(type="stock.received.v1"), after=0, upto=9, limit=9) is None
