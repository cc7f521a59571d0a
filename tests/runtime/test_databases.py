"""A database that cannot be used: its variable is named, and nothing of its password."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime import databases, migrate
from runtime.databases import DatabaseUnusable, database_url, require
from runtime.secrets import ROLES
from runtime.settings import Settings
from runtime.status import progress_of

if TYPE_CHECKING:
    from tests.conftest import PostgresForTests


def settings_for(log: str, read: str, home: Path, owner: str | None = None) -> Settings:
    return Settings(
        home=home,
        database_url=log,
        read_database_url=read,
        migration_database_url=owner or log,
        kafka_bootstrap_servers="127.0.0.1:1",
        digest_key=bytes(32),
        tokens={role: role for role in ROLES},
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:s%40cret@db/log",
        "postgresql://shop:secret@[::1]:5432/log",
        "postgresql://one:1,two:2/log?target_session_attrs=read-write",
        "postgresql://log",
        "host=db dbname=log password=secret",
    ],
)
def test_what_libpq_understands_is_taken_as_it_is(url: str) -> None:
    assert database_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "secret",
        "mysql://shop:secret@db/log",
        "postgresql//shop:secret@db/log",
        "postgresql://shop:secret@more@db/log",
        "postgresql://shop:secret/more@db/log",
        "postgresql://shop:12/secret@db/log",
        "postgresql://shop:secret%zz@db/log",
    ],
)
def test_a_url_that_would_be_misread_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="not a PostgreSQL URL") as refused:
        database_url(url)
    for part in ("secret", "more", "12/"):
        assert part not in str(refused.value)


def test_a_password_that_is_refused_is_not_shown(postgres: "PostgresForTests") -> None:
    url = postgres.url("postgres").replace(":owner@", ":opensesame@")
    with pytest.raises(DatabaseUnusable, match=r"^TALLYBOOK_X: .*password authentication failed") as refused:
        asyncio.run(require("TALLYBOOK_X", url))
    assert "opensesame" not in str(refused.value)


def test_a_server_that_is_too_old_is_refused(
    postgres: "PostgresForTests", monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(require("TALLYBOOK_X", postgres.url("postgres")))
    monkeypatch.setattr(databases, "OLDEST", 99)
    with pytest.raises(
        DatabaseUnusable, match=r"^TALLYBOOK_X: it is PostgreSQL 18, and has to be 99 or newer"
    ):
        asyncio.run(require("TALLYBOOK_X", postgres.url("postgres")))


def test_a_migration_names_the_login_that_may_not(
    postgres: "PostgresForTests", new_database: Callable[[], str], tmp_path: Path
) -> None:
    log, read = new_database(), new_database()
    lesser = postgres.service_url(read.rpartition("/")[2])
    with pytest.raises(DatabaseUnusable, match=r"^TALLYBOOK_READ_DATABASE_URL: .*permission denied"):
        asyncio.run(migrate.run(settings_for(log, lesser, tmp_path)))
    gone = postgres.url("nowhere")
    with pytest.raises(DatabaseUnusable, match=r"^TALLYBOOK_MIGRATION_DATABASE_URL: .*does not exist"):
        asyncio.run(migrate.run(settings_for(log, read, tmp_path, owner=gone)))


def test_the_status_of_databases_that_were_never_migrated(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    log, read = new_database(), new_database()
    asyncio.run(migrate.migrate(log, "log"))
    with pytest.raises(DatabaseUnusable, match=r"^TALLYBOOK_READ_DATABASE_URL: .*tallybook migrate"):
        asyncio.run(progress_of(settings_for(log, read, tmp_path)))
