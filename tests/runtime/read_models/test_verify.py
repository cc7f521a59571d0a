"""What is served is compared with a fold of the log; a row that differs is found and explained."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from history import history
from psycopg import sql
from read_side import ReadSide, running

from domain.envelope import Mark
from projections import READ_MODELS
from projections.order_detail import ORDER_DETAIL
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import verifying as saying
from runtime.audit_log.history import History
from runtime.read_models import builds
from runtime.read_models import verify as verifying
from runtime.read_models.folding import Model
from runtime.read_models.tables import Table
from runtime.read_models.verify import Cut, Difference, NothingServed, Verified, verify
from runtime.verifying import UnknownReadModel, chosen, told

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(side: ReadSide, appends: int = 60) -> AsyncIterator[None]:
    """Some history, which every read model has applied; then nobody runs."""
    await side.write(list(history(seed=5, appends=appends)))
    async with running(side.projector()):
        await side.converge()
    yield


async def verified(side: ReadSide, model: Model) -> Verified:
    with History.open(side.log_url) as history:
        return await verify(history, side.read_url, model, lambda _: None)


async def by_hand(side: ReadSide, model: Model, statement: str) -> str:
    """Changes one row of the table behind the owner's back, and returns its key."""
    async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
        table = Table(model)
        done = await owner.execute(
            sql.SQL(statement).format(
                table=table.identifier,
                key=table.key.identifier,
                one=sql.SQL("(select min({}) from {})").format(table.key.identifier, table.identifier),
            )
        )
        [(key,)] = await done.fetchall()
        return str(key)


@pytest.mark.parametrize("page_events", [2, 1_000])
async def test_what_a_projector_keeps_is_what_the_log_says(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch, page_events: int
) -> None:
    monkeypatch.setattr(verifying, "PAGE_EVENTS", page_events)
    async with served(side):
        for model in READ_MODELS:
            found = await verified(side, model)
            assert (found.differing, found.told) == (0, [])
            assert found.rows > 1 or model is SALES_DAILY


async def test_a_row_that_was_changed_by_hand_is_found_and_explained(side: ReadSide) -> None:
    async with served(side):
        key = await by_hand(
            side,
            STOCK_AVAILABILITY,
            "update {table} set on_hand = on_hand + 1 where {key} = {one} returning {key}",
        )
        found = await verified(side, STOCK_AVAILABILITY)
        [difference] = found.told
        assert (found.differing, difference.key) == (1, key)
        [(name, (stored, expected))] = difference.fields().items()
        assert (name, stored) == ("on_hand", expected + 1)
        stream = f"stock-{difference.expected.sku}@{difference.expected.location}"
        assert {event.stream for event in difference.events} == {stream}
        assert [event.version for event in difference.events] == list(range(1, len(difference.events) + 1))
        words = told(difference)
        assert f"on_hand: {stored}, by the log {expected}" in words
        assert "stock.received.v1" in words


async def test_what_a_row_is_folded_on_from_is_compared_too(side: ReadSide) -> None:
    async with served(side):
        key = await by_hand(
            side,
            STOCK_AVAILABILITY,
            "update {table} set parts = convert_to('{{}}', 'utf8') where {key} = {one} returning {key}",
        )
        found = await verified(side, STOCK_AVAILABILITY)
        [difference] = found.told
        assert (found.differing, difference.key, difference.fields()) == (1, key, {})
        assert "its parts" in told(difference)
        assert "stock.received.v1" in told(difference)


async def test_a_row_that_is_gone_and_one_that_nobody_made_are_found(side: ReadSide) -> None:
    async with served(side):
        gone = await by_hand(side, ORDER_DETAIL, "delete from {table} where {key} = {one} returning {key}")
        invented = await by_hand(
            side,
            ORDER_DETAIL,
            "insert into {table} ({key}, parts, shown, revision) values ('invented', '{{}}', false, 0)"
            " returning {key}",
        )
        found = await verified(side, ORDER_DETAIL)
        assert {difference.key for difference in found.told} == {gone, invented}
        assert found.differing == 2
        by_key = {difference.key: difference for difference in found.told}
        assert by_key[gone].stored is None
        assert "is not served, and by the log it should be" in told(by_key[gone])
        assert by_key[invented].events == []


async def test_of_many_rows_that_differ_all_are_counted_and_some_told(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "MAX_TOLD", 2)
    async with served(side):
        async with await psycopg.AsyncConnection.connect(side.read_url, autocommit=True) as owner:
            table = Table(STOCK_AVAILABILITY).identifier
            changed = await owner.execute(sql.SQL("update {} set reserved = -1").format(table))
        found = await verified(side, STOCK_AVAILABILITY)
        assert (found.differing, len(found.told)) == (changed.rowcount, 2)


async def test_a_counters_row_is_explained_by_the_events_of_every_lane(side: ReadSide) -> None:
    async with served(side):
        await by_hand(
            side, SALES_DAILY, "update {table} set orders = orders + 1 where {key} = {one} returning {key}"
        )
        found = await verified(side, SALES_DAILY)
        [difference] = found.told
        positions = [event.position for event in difference.events]
        assert positions == sorted(positions)
        assert {event.type for event in difference.events} == {"order.placed.v1"}


@pytest.mark.parametrize(
    ("stored", "expected", "words"),
    [
        ("a row", None, "is served, and by the log it should not be"),
        (None, "a row", "is not served, and by the log it should be"),
    ],
)
def test_a_row_too_many_and_a_missing_one_are_told_apart(
    stored: str | None, expected: str | None, words: str
) -> None:
    assert words in told(Difference("key", stored, expected, []))


async def test_where_only_the_first_events_are_told_that_is_said(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told_at_most(events: int) -> Difference:
        for module in (verifying, saying):
            monkeypatch.setattr(module, "MAX_EVENTS_TOLD", events)
        [difference] = (await verified(side, SALES_DAILY)).told
        return difference

    async with served(side):
        await by_hand(
            side, SALES_DAILY, "update {table} set orders = orders + 1 where {key} = {one} returning {key}"
        )
        whole = await told_at_most(1_000)
        assert len(whole.events) > 1
        assert "there may be more" not in told(whole)
        cut = await told_at_most(1)
    assert cut.events == whole.events[:1]
    assert "(the first 1 events that feed it; there may be more)" in told(cut)


async def test_traffic_goes_on_meanwhile(side: ReadSide) -> None:
    facts = list(history(seed=6, appends=300))
    await side.write(facts[:100])
    async with running(side.projector()):
        await side.converge()
        writing = asyncio.create_task(side.write(facts[100:]))
        rounds = 0
        while not writing.done() or rounds < 2:
            for model in READ_MODELS:
                assert (await verified(side, model)).differing == 0
            rounds += 1
        await writing


@asynccontextmanager
async def between(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Something happens when the log has been folded, and before the rows are looked at."""
    look = Cut.of

    @asynccontextmanager
    async def late(url: str, model: Model) -> AsyncIterator[Cut]:
        await meanwhile()
        async with look(url, model) as cut:
            yield cut

    with monkeypatch.context() as patched:
        patched.setattr(Cut, "of", late)
        yield


async def folded(side: ReadSide, model: Model) -> tuple[Verified, int]:
    """And how many events were folded for it."""
    events: list[int] = []
    with History.open(side.log_url) as log:
        return await verify(log, side.read_url, model, events.append), sum(events)


@pytest.mark.parametrize("model", READ_MODELS, ids=lambda model: model.name)
async def test_the_log_is_folded_on_to_where_the_rows_have_come_meanwhile(
    side: ReadSide, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = list(history(seed=6, appends=120))
    await side.write(facts[:60])
    async with running(side.projector()):
        await side.converge()

        async def grow() -> None:
            await side.write(facts[60:])
            await side.converge()

        async with between(monkeypatch, grow):
            found, events = await folded(side, model)
        again, once = await folded(side, model)
    assert found == again
    assert events == once
    assert found.differing == 0
    assert found.rows > 0


async def test_a_lane_that_had_not_come_as_far_as_others_is_folded_on_from_where_it_was(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(side):
        table = Table(STOCK_AVAILABILITY)
        async with side.pool.connection() as connection:
            marks = await builds.marks_of(connection, table.build)
        late, mark = max(marks.items(), key=lambda one: one[1].position)
        [first, *_] = await side.reader.read_lane(*late, after=0, upto=mark.position)
        behind = Mark(first.position, first.event_id)

        async def stands(at: Mark) -> None:
            async with side.pool.connection() as connection:
                await connection.execute(
                    "update read.checkpoints set position = %s, event_id = %s"
                    " where build = %s and (context, lane) = (%s, %s)",
                    [at.position, at.event_id, table.build, *late],
                )

        _, once = await folded(side, STOCK_AVAILABILITY)
        await stands(behind)
        async with between(monkeypatch, lambda: stands(mark)):
            found, events = await folded(side, STOCK_AVAILABILITY)
        assert (found.differing, found.head, events) == (0, mark.position, once)
        async with between(monkeypatch, lambda: stands(behind)):
            found, events = await folded(side, STOCK_AVAILABILITY)
        assert found.differing > 0  # the rows of that lane are ahead of what is said of it
        assert events > once  # and all is folded again: it cannot be gone back


async def test_what_is_left_out_by_then_is_not_folded(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(side):
        table = Table(STOCK_AVAILABILITY)
        async with side.pool.connection() as connection:
            first = next(event for event in await side.reader.read(0) if event.stream.startswith("stock-"))

            async def leave_out() -> None:
                await connection.execute(
                    "insert into read.skipped"
                    " (declaration, event_id, context, lane, position, stream, reason, skipped_by)"
                    " values (%s, %s, %s, %s, %s, %s, 'a test', 'nobody')",
                    [
                        table.declaration,
                        first.event_id,
                        first.context,
                        first.lane,
                        first.position,
                        first.stream,
                    ],
                )

            async with between(monkeypatch, leave_out):
                found = await verified(side, STOCK_AVAILABILITY)
    [difference] = found.told
    assert first.event_id not in [event.event_id for event in difference.events]


async def test_no_snapshot_is_open_while_the_log_is_folded(side: ReadSide) -> None:
    async with served(side):
        with psycopg.connect(side.read_url, autocommit=True) as owner, History.open(side.log_url) as log:
            seen: list[int] = []

            def look(_events: int) -> None:
                found = owner.execute(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and state = 'idle in transaction' and application_name = 'tallybook_reader'"
                )
                seen.extend(count for (count,) in found.fetchall())

            await verify(log, side.read_url, STOCK_AVAILABILITY, look)
        assert seen
        assert not any(seen)


async def test_what_nobody_has_made_cannot_be_verified(side: ReadSide) -> None:
    with pytest.raises(NothingServed, match="order_detail"):
        await verified(side, ORDER_DETAIL)


def test_a_read_model_is_chosen_by_name() -> None:
    assert chosen([]) == list(READ_MODELS)
    assert chosen(["sales_daily"]) == [SALES_DAILY]
    with pytest.raises(UnknownReadModel, match=r"no read model sales; there are .*sales_daily"):
        chosen(["sales"])
