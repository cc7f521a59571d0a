"""Migrations: each once, never changed, whoever else migrates at the same time."""

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from psycopg.errors import InternalError_, UniqueViolation

from runtime import migrate as module
from runtime.migrate import ChangedMigration, migrate
from runtime.postgres import TIME_OUTS, connect

pytestmark = pytest.mark.anyio

WAIT_S = 10.0
ROLES = (
    "tallybook_writer",
    "tallybook_reader",
    "tallybook_relay",
    "tallybook_projector",
    "tallybook_policies",
)


def names(schema: str) -> list[str]:
    return sorted(entry.name for entry in (files("runtime") / "migrations" / schema).iterdir())


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    async with connect(url, "postgres") as connection:
        return await (await connection.execute(query)).fetchall()


async def alter_roles(url: str, change: str, *roles: str) -> None:
    """The roles are there already when tests begin; so there is something to make."""
    async with connect(url, "postgres") as connection:
        for role in roles:
            await connection.execute(f"alter role {role} {change}")


@pytest.mark.parametrize("schema", ["log", "read"])
async def test_each_file_is_applied_once(new_database: Callable[[], str], schema: str) -> None:
    url = new_database()
    assert await migrate(url, schema) == names(schema) != []
    assert await migrate(url, schema) == []
    assert len(await rows(url, "select from migrations.applied")) == len(names(schema))


async def test_the_log_and_the_read_models_may_share_a_database(new_database: Callable[[], str]) -> None:
    url = new_database()
    await migrate(url, "log")
    assert await migrate(url, "read") == names("read")


async def test_a_file_that_was_changed_is_refused_by_name(new_database: Callable[[], str]) -> None:
    url = new_database()
    first = (await migrate(url, "log"))[0]
    assert await rows(
        url, f"update migrations.applied set sha256 = 'other' where name = '{first}' returning true"
    )
    with pytest.raises(ChangedMigration, match=f"log/{first}"):
        await migrate(url, "log")


async def test_two_at_once_apply_each_file_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    one, two = await asyncio.gather(migrate(url, "log"), migrate(url, "log"))
    assert sorted(one + two) == names("log")


async def test_databases_of_one_cluster_are_migrated_at_once(new_database: Callable[[], str]) -> None:
    urls = [new_database() for _ in range(6)]
    await alter_roles(urls[0], "reset all", *ROLES)
    await asyncio.gather(*(migrate(url, schema) for url in urls for schema in ("log", "read")))
    found = await rows(urls[0], "select rolname, rolconfig from pg_roles where rolname like 'tallybook%'")
    config = [f"{name}={value}" for name, value in TIME_OUTS.items()]
    assert {role: settings for role, settings in found if settings} == dict.fromkeys(ROLES, config)


@pytest.mark.parametrize(
    ("before", "beaten"), [("reset all", UniqueViolation), ("set lock_timeout = '1s'", InternalError_)]
)
async def test_whoever_is_beaten_to_a_role_tries_again(
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    beaten: type[psycopg.Error],
) -> None:
    url, other_url = new_database(), new_database()
    for tries in (1, 2):
        monkeypatch.setattr(module, "ROLES_TRIES", tries)
        await alter_roles(url, before, "tallybook_writer")
        async with await psycopg.AsyncConnection.connect(other_url) as other:
            await other.execute("alter role tallybook_writer set statement_timeout = '30s'")
            migrating = asyncio.create_task(migrate(url, "log"))
            await _waits_for_another(url)
            await other.commit()
            if tries == 1:
                with pytest.raises(beaten):
                    await migrating
            else:
                assert await migrating == names("log")


async def _waits_for_another(url: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await rows(url, "select from pg_locks where not granted"):
            await asyncio.sleep(0.01)


async def test_the_lanes_are_chosen_once(new_database: Callable[[], str]) -> None:
    url, other = new_database(), new_database()
    await migrate(url, "log", lanes=3)
    await migrate(url, "log", lanes=5)
    assert await rows(url, "select lanes from log.settings") == [(3,)]
    await migrate(other, "log")
    assert await rows(other, "select lanes from log.settings") == [(8,)]


@pytest.mark.parametrize("lanes", [0, 1_025])
async def test_a_number_of_lanes_that_no_log_has_is_refused(
    new_database: Callable[[], str], lanes: int
) -> None:
    url = new_database()
    with pytest.raises(psycopg.errors.CheckViolation):
        await migrate(url, "log", lanes=lanes)
    assert await rows(url, "select to_regnamespace('log')") == [(None,)]


async def test_a_log_begins_with_one_incarnation_of_this_timeline(new_database: Callable[[], str]) -> None:
    url, other = new_database(), new_database()
    for each in (url, other):
        await migrate(each, "log")
    [first], [second] = [
        await rows(each, "select id, timeline, from_position from log.incarnations") for each in (url, other)
    ]
    [timeline] = await rows(url, "select timeline_id from pg_control_checkpoint()")
    assert first[1:] == second[1:] == (*timeline, 1)
    assert first[0] != second[0]
