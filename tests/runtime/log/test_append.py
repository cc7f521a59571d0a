"""`log.append` itself: what it refuses, whoever calls it, and who may call it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.ports import LogUnavailable
from domain.envelope import NO_EVENT
from runtime.lanes import lane_of
from runtime.log.batch import CALL
from runtime.log.postgres import ROLE
from runtime.log.session import Session
from runtime.migrate import migrate
from runtime.postgres import TIME_OUTS, Connection, connect, open_pool

pytestmark = pytest.mark.anyio

LISTS = CALL.replace(")b", ")s")
ROLES = (
    "tallybook_writer",
    "tallybook_reader",
    "tallybook_relay",
    "tallybook_projector",
    "tallybook_policies",
)
WRITERS = ("tallybook_writer", "tallybook_policies")
MALFORMED, STALE = "TB003", "TB001"


def two_appends() -> dict[str, Any]:
    """One event to each of two streams, in two appends."""
    streams = ["location-A", "location-B"]
    return {
        "streams": streams,
        "contexts": ["inventory"] * 2,
        "lanes": [lane_of(name, 8) for name in streams],
        "tip_counts": [1, 1],
        "event_counts": [1, 1],
        "digests": [None, None],
        "fingerprints": [None, None],
        "tip_streams": [1, 2],
        "tip_versions": [0, 0],
        "tip_ids": [UUID(NO_EVENT)] * 2,
        "event_tips": [1, 2],
        "event_ids": [uuid4(), uuid4()],
        "event_types": ["location.registered.v1"] * 2,
        "event_data": [b"{}"] * 2,
        "event_metadata": [b"{}"] * 2,
    }


class Caller:
    def __init__(self, connection: Connection, writer: str, generation: int) -> None:
        self.connection = connection
        self.writer = writer
        self.generation = generation

    async def call(self, arrays: dict[str, Any]) -> tuple[Any, ...]:
        call = {"writer": self.writer, "generation": self.generation} | arrays
        async with self.connection.transaction():
            [row] = await (await self.connection.execute(LISTS, call)).fetchall()
        return row

    async def positions(self) -> list[int]:
        return [row[0] async for row in await self.connection.execute("select position from log.events")]


@asynccontextmanager
async def calling(url: str, role: str) -> AsyncIterator[Caller]:
    """A writer that has begun; in the end, nothing of what it did remains."""
    writer = str(uuid4())
    async with connect(url, role) as connection, connection.transaction(force_rollback=True):
        begun = await connection.execute("select generation from log.begin_writing(%s)", (writer,))
        [(generation,)] = await begun.fetchall()
        yield Caller(connection, writer, generation)


@pytest.fixture
async def caller(shared_log_url: str) -> AsyncIterator[Caller]:
    async with calling(shared_log_url, ROLE) as caller:
        yield caller


async def test_what_it_takes(caller: Caller) -> None:
    verdicts, firsts, counts, _ = await caller.call(two_appends())
    assert (verdicts, firsts, counts) == ([1, 1], [1, 2], [1, 1])
    assert await caller.positions() == [1, 2]


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("lanes", [lane_of("location-A", 8), (lane_of("location-B", 8) + 1) % 8]),
        ("streams", ["location-A", "location-A"]),
        ("streams", ["location-A", None]),
        ("streams", None),
        ("streams", []),
        ("contexts", ["inventory"]),
        ("lanes", [lane_of("location-A", 8), None]),
        ("tip_counts", []),
        ("tip_counts", None),
        ("tip_counts", [1]),
        ("tip_counts", [3, -1]),
        ("tip_counts", [1, None]),
        ("tip_counts", [2, 1]),
        ("tip_counts", [[1, 1]]),
        ("event_counts", [3, -1]),
        ("event_counts", [0, 1]),
        ("event_counts", [None, 2]),
        ("digests", [None]),
        ("digests", None),
        ("fingerprints", [None] * 3),
        ("tip_streams", [1, 3]),
        ("tip_streams", [0, 2]),
        ("tip_streams", [1, None]),
        ("tip_versions", [0, None]),
        ("tip_ids", [UUID(NO_EVENT), None]),
        ("tip_ids", [UUID(NO_EVENT)]),
        ("event_tips", [2, 2]),
        ("event_tips", [1, 3]),
        ("event_tips", [0, 2]),
        ("event_tips", [1, None]),
        ("event_ids", [uuid4(), None]),
        ("event_ids", [uuid4()]),
        ("event_types", ["location.registered.v1", None]),
        ("event_data", [b"{}", None]),
        ("event_data", None),
        ("event_metadata", [b"{}"]),
    ],
)
async def test_arrays_that_do_not_fit_are_refused(
    caller: Caller, array: str, value: list[Any] | None
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        await caller.call(two_appends() | {array: value})
    assert refused.value.sqlstate == MALFORMED
    assert await caller.positions() == []


async def test_arrays_count_from_one(caller: Caller) -> None:
    shifted = LISTS.replace("%(event_tips)s::integer[]", "'[0:1]={1,2}'::integer[]")
    arrays = {"writer": caller.writer, "generation": caller.generation} | two_appends()
    with pytest.raises(psycopg.Error) as refused:
        async with caller.connection.transaction():
            await caller.connection.execute(shifted, arrays)
    assert refused.value.sqlstate == MALFORMED


async def test_the_limits_of_an_append_and_of_a_batch(caller: Caller) -> None:
    too_many = two_appends() | {
        "event_counts": [1_001, 0],
        "event_tips": [1] * 1_001,
        "event_ids": [uuid4() for _ in range(1_001)],
        "event_types": ["x.y.v1"] * 1_001,
        "event_data": [b"{}"] * 1_001,
        "event_metadata": [b"{}"] * 1_001,
    }
    nothing: dict[str, Any] = {array: [] for array in two_appends()}
    refusals = {"tip_counts": [0] * 4_097, "event_counts": [0] * 4_097}
    wide = refusals | {"digests": [None] * 4_097, "fingerprints": [None] * 4_097}
    for arrays in (too_many, nothing, nothing | wide):
        with pytest.raises(psycopg.Error) as refused:
            await caller.call(arrays)
        assert refused.value.sqlstate == MALFORMED
    assert await caller.positions() == []


async def test_a_stream_never_changes_its_context(caller: Caller) -> None:
    first = two_appends()
    await caller.call(first)
    moved = two_appends() | {"contexts": ["inventory", "orders"], "tip_versions": [1, 1]}
    with pytest.raises(psycopg.Error, match="of another context"):
        await caller.call(moved | {"tip_ids": first["event_ids"]})


async def test_one_digest_twice_in_a_batch_is_refused(caller: Caller) -> None:
    with pytest.raises(psycopg.Error, match="one digest twice"):
        await caller.call(two_appends() | {"digests": [b"d" * 16] * 2, "fingerprints": [b"f" * 32] * 2})
    assert await caller.positions() == []


async def test_another_generation_is_refused(caller: Caller) -> None:
    for generation in (caller.generation - 1, caller.generation + 1):
        caller.generation = generation
        with pytest.raises(psycopg.Error) as refused:
            await caller.call(two_appends())
        assert refused.value.sqlstate == STALE
    assert await caller.positions() == []


async def test_a_timeline_without_an_incarnation_is_not_written_to(new_database: Callable[[], str]) -> None:
    url = new_database()
    await migrate(url, "log")
    async with connect(url, "postgres") as owner:
        await owner.execute("update log.incarnations set timeline = timeline + 1")
    with pytest.raises(LogUnavailable, match="has no row"):
        await Session.begin(url, ROLE, str(uuid4()))


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_changes_the_log_past_append(shared_log_url: str, role: str) -> None:
    async with connect(shared_log_url, "postgres") as owner:
        found = await owner.execute(
            "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid"
            " where c.relnamespace = 'log'::regnamespace and c.relkind in ('r', 'v') and a.attnum = 1"
        )
        relations = await found.fetchall()
    assert len(relations) == 6
    async with connect(shared_log_url, role) as connection:
        for relation, column in relations:
            await connection.execute(f"select from log.{relation}")
            for statement in (
                f"insert into log.{relation} default values",
                f"update log.{relation} set {column} = null",
                f"delete from log.{relation}",
                f"truncate log.{relation}",
                f"drop table log.{relation}",
                f"create table log.{relation}_too ()",
            ):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)):
                    await connection.execute(statement)


@pytest.mark.parametrize("role", WRITERS)
async def test_who_writes_may_append(shared_log_url: str, role: str) -> None:
    async with calling(shared_log_url, role) as caller:
        verdicts, *_ = await caller.call(two_appends())
        assert verdicts == [1, 1]


@pytest.mark.parametrize("role", sorted(set(ROLES) - set(WRITERS)))
async def test_who_reads_may_not_append(shared_log_url: str, role: str) -> None:
    writer = str(uuid4())
    async with connect(shared_log_url, role) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("select log.begin_writing(%s)", (writer,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await Caller(connection, writer, 1).call(two_appends())


@pytest.mark.parametrize("role", ROLES)
async def test_no_wait_of_a_service_is_endless(
    shared_log_url: str, role: str, service_url: Callable[[str], str]
) -> None:
    async with (
        connect(service_url(shared_log_url), role) as connection,
        open_pool(service_url(shared_log_url), role, size=1) as pool,
        pool.connection() as pooled,
    ):
        for each in (connection, pooled):
            [(user, login)] = await (await each.execute("select current_user, session_user")).fetchall()
            assert (user, login) == (role, "tallybook_service")
            for name, expected in TIME_OUTS.items():
                [(in_force,)] = await (await each.execute(f"show {name}")).fetchall()
                assert in_force in {expected, "1min"}
                assert (in_force == "1min") == (expected == "60s")
        found = await connection.execute("select rolconfig from pg_roles where rolname = %s", (role,))
        assert await found.fetchall() == [([f"{name}={value}" for name, value in TIME_OUTS.items()],)]


async def test_the_login_of_the_services_has_no_rights_but_by_a_role(
    shared_log_url: str, service_url: Callable[[str], str]
) -> None:
    async with await psycopg.AsyncConnection.connect(service_url(shared_log_url), autocommit=True) as service:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await service.execute("select from log.events")
