"""PostgreSQL from the wheel: started, found again, ended."""

from collections.abc import Callable

import psycopg
import pytest


def test_a_new_database_is_empty_and_utf8(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        row = connection.execute(
            "select current_setting('server_encoding'), current_setting('server_version_num')::int / 10000,"
            " (select count(*) from pg_class where relnamespace = 'public'::regnamespace)"
        ).fetchone()
    assert row == ("UTF8", 18, 0)


def test_a_wrong_password_is_refused(new_database: Callable[[], str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(new_database(), password="wrong")
