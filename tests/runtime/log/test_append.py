"""`log.append` itself: what it refuses, whoever calls it, and who may call it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from commands.ports import LogUnavailable
from domain.envelope import NO_EVENT
from runtime.lanes import lane_of
from runtime.log.batch import PARAMETERS, RESULT
from runtime.log.postgres import ROLE
from runtime.log.session import Session
from runtime.log.writer import FAULTY_STATES
from runtime.migrate import migrate
from runtime.postgres import TIME_OUTS, Connection, connect, open_pool

pytestmark = pytest.mark.anyio

CALL = f"select {RESULT} from log.append({{}})".format(
    ", ".join(f"in_{name} => %({name})s::{type_}" for name, type_ in PARAMETERS.items())
)
ROLES = (
    "tallybook_writer",
    "tallybook_reader",
    "tallybook_relay",
    "tallybook_projector",
    "tallybook_policies",
)
WRITERS = ("tallybook_writer", "tallybook_policies")
MALFORMED, STALE = "TB003", "TB001"
LANE_A, LANE_B = lane_of("location-A", 8), lane_of("location-B", 8)


def two_appends() -> dict[str, Any]:
    """One event to each of two streams, in two appends."""
    streams = ["location-A", "location-B"]
    return {
        "streams": streams,
        "contexts": ["inventory"] * 2,
        "lanes": [LANE_A, LANE_B],
        "tip_counts": [1, 1],
        "event_counts": [1, 1],
        "digests": [None, None],
        "fingerprints": [None, None],
        "tip_streams": [1, 2],
        "tip_versions": [0, 0],
        "tip_ids": [UUID(NO_EVENT)] * 2,
        "event_streams": [1, 2],
        "event_ids": [uuid4(), uuid4()],
        "event_types": ["location.registered.v1"] * 2,
        "event_data": [b"{}"] * 2,
        "event_metadata": [b"{}"] * 2,
        "tag_events": [1, 2],
        "tags": ["a", "b"],
        "conditions": None,
    }


class Caller:
    def __init__(self, connection: Connection, writer: str, generation: int) -> None:
        self.connection = connection
        self.writer = writer
        self.generation = generation

    async def call(self, arrays: dict[str, Any], *, keep: bool = True) -> tuple[Any, ...]:
        call = {"writer": self.writer, "generation": self.generation} | arrays
        async with self.connection.transaction(force_rollback=not keep):
            [row] = await self.rows(CALL, call)
        return row

    async def rows(self, query: str, parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self.connection.execute(query.encode(), parameters)).fetchall()

    async def positions(self) -> list[int]:
        return [position for (position,) in await self.rows("select position from log.events", ())]


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
    verdicts, head, _, firsts, counts = await caller.call(two_appends())
    assert (verdicts, head, firsts, counts) == ([1, 1], 0, None, None)
    assert await caller.positions() == [1, 2]


MALFORMED_ARRAYS: Final[dict[str, list[Any]]] = {
    "streams": [
        None,
        [],
        ["location-A"] * 2,
        ["location-B", "location-A"],
        ["location-A", None],
        [None, "location-B"],
    ],
    "contexts": [["inventory"], ["inventory", None], ["inventory", "kitchen"]],
    "lanes": [[LANE_A, None], [LANE_A, (LANE_B + 1) % 8]],
    "tip_counts": [None, [], [1], [3, -1], [1, None], [2, 1], [0, 1], [[1, 1]]],
    "event_counts": [[3, -1], [0, 1], [1, 2], [None, 2], [[1, 1]]],
    "digests": [None, [None], [b"d" * 15, None], [b"d" * 16, None]],  # the last has no fingerprint
    "fingerprints": [[None] * 3],
    "tip_streams": [[1]],
    "tip_versions": [[0] * 3],
    "tip_ids": [[UUID(NO_EVENT)]],
    "event_streams": [[1], [1, 3], [0, 2], [-1, 2], [1, None]],
    "event_ids": [[uuid4()], [uuid4(), None], [UUID(int=7)] * 2],
    "event_types": [["location.registered.v1", None]],
    "event_data": [None, [b"{}", None]],
    "event_metadata": [[b"{}"]],
    "tags": [None, ["a"], ["a", None], ["a", ""], ["a", "b" * 121]],
    "tag_events": [None, [1, 3], [0, 2], [1, None]],
}


@pytest.mark.parametrize("array", MALFORMED_ARRAYS)
async def test_arrays_that_do_not_fit_are_refused(caller: Caller, array: str) -> None:
    for value in MALFORMED_ARRAYS[array]:
        await refused(caller, two_appends() | {array: value})


async def test_arrays_count_from_one(caller: Caller) -> None:
    """Else a stream would be paired with the tip or the lane of the one before it."""
    one_event = two_appends() | {"event_counts": [1, 0], "tag_events": [], "tags": []}
    one_event |= {array: value[:1] for array, value in one_event.items() if array.startswith("event_")}
    one_event["event_counts"] = [1, 0]
    verdicts, *_ = await caller.call(one_event, keep=False)
    assert verdicts == [1, 1]
    for array in (
        "streams",
        "contexts",
        "lanes",
        "tip_counts",
        "event_counts",
        "tip_streams",
        "tip_versions",
        "tip_ids",
        "event_streams",
        "event_ids",
    ):
        [(written,)] = await caller.rows(f"select %s::{PARAMETERS[array]}::text", (one_event[array],))
        await refused(caller, one_event | {array: f"[2:{len(one_event[array]) + 1}]={written}"}, MALFORMED)


async def test_a_stream_stands_once_in_the_dictionary(caller: Caller) -> None:
    """Else what one append writes to it would not be seen by the next, which reads it."""
    one_event = two_appends() | {"tag_events": [], "tags": []}
    one_event |= {array: value[:1] for array, value in one_event.items() if array.startswith("event_")}
    one_event["event_counts"] = [1, 0]
    lanes = {"location-A": LANE_A, "location-B": LANE_B, None: None}
    for streams in (
        ["location-A", "location-A"],
        ["location-B", "location-A"],
        ["location-A", "location-B", "location-A"],
        ["location-A", None, "location-A"],
    ):
        dictionary = {
            "streams": streams,
            "contexts": ["inventory"] * len(streams),
            "lanes": [lanes[name] for name in streams],
            "tip_streams": [1, len(streams)],
        }
        await refused(caller, one_event | dictionary, MALFORMED)


async def test_a_condition_that_would_be_overlooked_is_refused(caller: Caller) -> None:
    good: dict[str, Any] = {"append": 2, "after": 0, "types": [], "tags": ["nobody's"]}
    verdicts, *_ = await caller.call(two_appends() | {"conditions": Jsonb([good])}, keep=False)
    assert verdicts == [1, 1]
    wrong: list[dict[str, Any]] = [
        *({"append": number} for number in (3, 0, None)),
        *({"after": position} for position in (-1, None)),
        {"types": None},
        {"tags": None},
    ]
    for item in wrong:
        await refused(caller, two_appends() | {"conditions": Jsonb([good, good | item])}, MALFORMED)
    for item in ({"tags": "a"}, {"after": "a"}, {"append": 2**40}):
        await refused(caller, two_appends() | {"conditions": Jsonb([good | item])})
    for no_list in ("{}", "null", "7"):
        await refused(caller, two_appends() | {"conditions": no_list})


async def refused(caller: Caller, call: dict[str, Any], states: Any = FAULTY_STATES) -> None:
    with pytest.raises(psycopg.Error) as fault:
        await caller.call(call)
    assert (fault.value.sqlstate or "").startswith(states), fault.value
    assert await caller.positions() == []


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("tip_streams", [1, 3]),
        ("tip_streams", [1, 0]),
        ("tip_streams", [1, None]),
        ("tip_versions", [0, None]),
        ("tip_versions", [0, -1]),
        ("tip_ids", [UUID(NO_EVENT), None]),
    ],
)
async def test_a_tip_that_is_nothing_is_no_streams_tip(caller: Caller, array: str, value: list[Any]) -> None:
    verdicts, *_ = await caller.call(two_appends() | {array: value})
    assert verdicts == [1, 2]
    assert await caller.positions() == [1]


async def test_versions_follow_from_the_stream_whoever_writes_to_it(caller: Caller) -> None:
    verdicts, *_ = await caller.call(two_appends() | {"event_streams": [1, 1]})
    assert verdicts == [1, 1]
    written = await caller.rows("select stream, version, lane from log.events order by position", ())
    assert written == [("location-A", 1, LANE_A), ("location-A", 2, LANE_A)]


async def test_an_append_leaves_its_tags_and_a_conflict_leaves_none(caller: Caller) -> None:
    calls = two_appends() | {"tip_versions": [1, 0], "tag_events": [1, 2, 2], "tags": ["a", "a", "b"]}
    verdicts, *_ = await caller.call(calls)
    assert verdicts == [2, 1]
    tags = await caller.rows("select tag, position, type from log.tags order by tag", ())
    assert tags == [(tag, 1, "location.registered.v1") for tag in ("a", "b")]


async def test_the_limits_of_an_append_and_of_a_batch(caller: Caller) -> None:
    too_many = two_appends() | {
        "event_counts": [1_001, 0],
        "event_streams": [1] * 1_001,
        "event_ids": [uuid4() for _ in range(1_001)],
        "event_types": ["x.y.v1"] * 1_001,
        "event_data": [b"{}"] * 1_001,
        "event_metadata": [b"{}"] * 1_001,
    }
    nothing: dict[str, Any] = {array: [] for array in two_appends()} | {"conditions": None}
    refusals = {"tip_counts": [0] * 4_097, "event_counts": [0] * 4_097}
    wide = refusals | {"digests": [None] * 4_097, "fingerprints": [None] * 4_097}
    read = two_appends() | {
        "tip_counts": [1_025, 0],
        "tip_streams": [1] * 1_025,
        "tip_versions": [0] * 1_025,
        "tip_ids": [UUID(NO_EVENT)] * 1_025,
    }
    tagged = {"tag_events": [1] * 65_537, "tags": [str(n) for n in range(65_537)]}
    for arrays in (too_many, nothing, nothing | wide, read, two_appends() | tagged):
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
            " and c.relname <> 'snapshots'"  # only a cache
        )
        relations = await found.fetchall()
    assert len(relations) == 7
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
