"""How far each reader is behind the log, as the service's own login sees it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from runtime import migrate
from runtime.secrets import ROLES
from runtime.settings import Settings
from runtime.status import Lag, progress_of

if TYPE_CHECKING:
    from tests.conftest import PostgresForTests

THREE_EVENTS = """
    insert into log.events
    select position, 'stock-' || position, 1, gen_random_uuid(), 'stock.received.v1', 'inventory',
        position % 2, '{}', '{}', now()
    from generate_series(1, 3) as position
"""


@pytest.fixture
def settings(postgres: "PostgresForTests", new_database: Callable[[], str], tmp_path: Path) -> Settings:
    log, read = new_database(), new_database()
    settings = Settings(
        home=tmp_path,
        database_url=postgres.service_url(log.rpartition("/")[2]),
        read_database_url=postgres.service_url(read.rpartition("/")[2]),
        migration_database_url=log,
        read_migration_database_url=read,
        kafka_bootstrap_servers="127.0.0.1:1",
        digest_key=bytes(32),
        tokens={role: role for role in ROLES},
    )
    asyncio.run(migrate.run(settings))
    return settings


def test_a_new_log_has_no_event_and_no_reader(settings: Settings) -> None:
    progress = asyncio.run(progress_of(settings))
    assert (progress.head, progress.lags) == (0, ())


def test_each_reader_is_behind_by_what_it_has_not_read(settings: Settings) -> None:
    with psycopg.connect(settings.migration_database_url) as log:
        log.execute(THREE_EVENTS)
        log.execute("insert into relay.checkpoint values ('kafka', gen_random_uuid(), 1, gen_random_uuid())")
        log.execute(
            "insert into policies.checkpoint values ('expire', gen_random_uuid(), 3, gen_random_uuid())"
        )
    with psycopg.connect(settings.read_migration_database_url) as read:
        read.execute("insert into read.builds (build, model) values ('stock_1', 'stock')")
        read.execute(
            "insert into read.checkpoints values"
            " ('stock_1', 'inventory', 0, gen_random_uuid(), 2, gen_random_uuid()),"
            " ('stock_1', 'inventory', 1, gen_random_uuid(), 1, gen_random_uuid())"
        )
    progress = asyncio.run(progress_of(settings))
    assert progress.head == 3
    assert progress.lags == (Lag("relay kafka", 2), Lag("policy expire", 0), Lag("build stock_1", 1))
