from collections.abc import AsyncIterator
from typing import Protocol

import psycopg
import pytest
from doors import Doors, WriteDoor, doors_over
from psycopg import sql


class PostgresForTests(Protocol):
    def url(self, database: str) -> str: ...


@pytest.fixture
async def door() -> AsyncIterator[WriteDoor]:
    """The write door over a log in memory."""
    door = WriteDoor()
    async with door.http:
        yield door


@pytest.fixture(scope="session")
async def doors(postgres: PostgresForTests) -> AsyncIterator[Doors]:
    """All three doors over one shop, which the tests share: each sells goods of its own."""
    names = ("test_doors_log", "test_doors_read")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        async with doors_over(*map(postgres.url, names)) as doors:
            yield doors
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
