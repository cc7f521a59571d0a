"""A log of their own for the library's tests, empty for each."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from runtime.migrate import migrate


@pytest.fixture(scope="module")
def shared_url(new_database_of_module: Callable[[], str]) -> str:
    url = new_database_of_module()
    asyncio.run(migrate(url, "log"))
    return url


@pytest.fixture
def empty_log(shared_url: str) -> str:
    """The owner's URL of a log without events, and without tables that the library made."""
    with psycopg.connect(shared_url) as owner:
        owner.execute("truncate log.events, log.tags, log.requests, log.writers")
        owner.execute("set client_min_messages = warning")
        owner.execute("drop schema if exists audit_log cascade")
    return shared_url
