"""What conditions cost, and who wins, in PostgreSQL: two processes, full batches, a long log, plans."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from log_tools import Appends, answers, stream

from commands.ports import Appended, Condition, Conflict, Item
from runtime.log.postgres import PostgresLog
from runtime.postgres import Connection, connect

pytestmark = pytest.mark.anyio


def no_event_with(*tags: str, types: tuple[str, ...] = (), after: int = 0) -> list[Condition]:
    return [Condition((Item(frozenset(types), frozenset(tags)),), after)]


async def test_of_two_processes_that_claim_one_name_one_has_it(
    log_url: str, owner: Connection, appends: Appends
) -> None:
    names = "abcdefgh"
    async with PostgresLog.open(log_url) as one, PostgresLog.open(log_url) as two:
        claims = [
            log.append(appends.of(stream(), tags=[name], conditions=no_event_with(name)))
            for _ in range(10)
            for name in names
            for log in (one, two)
        ]
        told = await asyncio.gather(*claims)
    assert sum(isinstance(verdict, Appended) for verdict in told) == len(names)
    found = await owner.execute("select tag from log.tags order by tag")
    assert [tag for (tag,) in await found.fetchall()] == list(names)


async def test_a_full_batch_of_claims_is_judged_in_bounded_time(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log:
        claims = [
            appends.of(stream(), tags=(str(n), "claim"), conditions=no_event_with(str(n)))
            for n in range(1_000)
        ]
        async with asyncio.timeout(5):
            told = await answers(log, claims)
        assert {type(verdict) for verdict in told} == {Appended}


@pytest.fixture
async def long_log(log_url: str, owner: Connection) -> str:
    """10,001 events; every hundredth has a tag of its own, every one the same other tag."""
    await owner.execute(
        "insert into log.events"
        " select n, 'location-' || n, 1, gen_random_uuid(), 'location.registered.v1', 'inventory',"
        "   log.lane_of('location-' || n, 8), '{}', '{}', now()"
        " from generate_series(1, 10001) as n"
    )
    await owner.execute(
        "insert into log.tags"
        " select tag, n, 'location.registered.v1' from generate_series(1, 10001) as n,"
        "   unnest(array['all'] || case when n % 100 = 0 then array['n' || n] end) as t (tag)"
    )
    await owner.execute("analyze log.events")
    await owner.execute("analyze log.tags")
    return log_url


async def test_a_condition_without_tags_does_not_read_the_log_from_far_back(
    long_log: str, appends: Appends
) -> None:
    async with PostgresLog.open(long_log) as log:
        never = ("nothing.happened.v1",)
        told = await answers(
            log,
            [
                appends.of(conditions=no_event_with(types=never)),
                appends.of(conditions=no_event_with(types=never, after=1)),
                appends.of(conditions=no_event_with("z")),
                appends.of(conditions=no_event_with("z") + no_event_with(types=never)),
                appends.of(conditions=no_event_with("z", types=never)),
            ],
        )
    assert told == [Conflict(), Appended(()), Appended(()), Conflict(), Appended(())]


@pytest.fixture
async def explained(long_log: str) -> AsyncIterator[tuple[Connection, list[str]]]:
    """A connection, and the plan of every statement it runs, those within functions too."""
    plans: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        plans.append(notice.message_primary or "")

    async with connect(long_log, "postgres") as connection:
        await connection.execute("load 'auto_explain'")
        connection.add_notice_handler(keep)
        for setting in (
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_nested_statements = on",
            "client_min_messages = log",
        ):
            await connection.execute(f"set {setting}".encode())
        plans.clear()
        yield connection, plans


@pytest.mark.parametrize("types", [[], ["nothing.happened.v1"]], ids=["of any type", "of a type"])
@pytest.mark.parametrize("tags", [["n500"], ["all", "n500"], ["n500", "all"]])
async def test_tags_are_looked_up_by_the_primary_key(
    explained: tuple[Connection, list[str]], types: list[str], tags: list[str]
) -> None:
    connection, plans = explained
    await connection.execute("select log.positions_of(%s, %s, 100, 10001, 1)", (types, tags))
    [counted, plan] = [plan for plan in plans if "log.tags" in plan]
    assert counted.count("using tags_pkey") == 1  # of each tag, up to a thousand
    assert "Seq Scan" not in counted + plan
    assert "Sort" not in plan
    assert plan.count("using tags_pkey") == 2  # the rarest tag's events, and whether they have the others
    assert 'Index Cond: ((tag = ($7)::text) AND ("position" > $3) AND ("position" <= $4))' in plan
    assert 'Index Cond: ((tag = (u.tag)::text) AND ("position" = t."position"))' in plan
