"""PostgreSQL from the wheel: started by whoever we are, found again, ended."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from runtime.embedded.child import Child
from runtime.embedded.postgres import EmbeddedPostgres, PostgresUnusable, accepts

as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")


def test_a_new_database_is_empty_and_utf8(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        row = connection.execute(
            "select current_setting('server_encoding'), current_setting('server_version_num')::int / 10000,"
            " (select count(*) from pg_class where relnamespace = 'public'::regnamespace)"
        ).fetchone()
    assert row == ("UTF8", 18, 0)


def test_its_wal_segments_are_short(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        assert connection.execute("show wal_segment_size").fetchone() == ("2MB",)


def test_a_wrong_password_is_refused(new_database: Callable[[], str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(new_database(), password="wrong")


def test_it_listens_on_loopback_and_on_no_unix_socket(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        row = connection.execute(
            "select current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
    assert row == ("127.0.0.1", "")


def test_the_services_login_has_no_rights_of_its_own(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database()) as connection:
        row = connection.execute(
            "select rolcanlogin, rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls"
            " from pg_roles where rolname = 'tallybook_service'"
        ).fetchone()
    assert row == (True, False)


@contextmanager
def running(directory: Path, port: int) -> Iterator[tuple[EmbeddedPostgres, Child]]:
    server = EmbeddedPostgres(
        directory=directory,
        port=port,
        password="owner",
        log=directory.with_suffix(".log"),
        settings={"fsync": "off"},
    )
    child = Child(server.spec())
    try:
        asyncio.run(child.start())
        asyncio.run(child.wait_ready(30))
        yield server, child
    finally:
        asyncio.run(child.stop())


@as_root_only
def test_below_a_closed_directory_root_runs_it_in_a_user_namespace(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    with running(tmp_path / "postgres", free_port()) as (server, child):
        assert server.data.stat().st_uid == 0
        assert child.spec.command[0] == "unshare"
        assert psutil.Process(child.pid).name() == "postgres"
    assert child.exit_code == 0


@as_root_only
def test_where_nothing_will_do_it_names_the_closed_directory(
    free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresUnusable, match="TALLYBOOK_HOME") as refused:
        EmbeddedPostgres(directory=closed / "pg", port=free_port(), password="x", log=tmp_path / "log").spec()
    outermost = next(path for path in reversed((closed / "pg").parents) if not path.stat().st_mode & 0o001)
    assert f"cannot enter {outermost}:" in str(refused.value)


def test_an_orphan_is_ended_before_the_next_one_starts(free_port: Callable[[], int], tmp_path: Path) -> None:
    directory = tmp_path / "postgres"
    with running(directory, free_port()) as (first, orphan), running(directory, free_port()) as (second, _):
        assert orphan.exit_code is not None
        assert not asyncio.run(accepts(first.url("postgres")))
        assert asyncio.run(accepts(second.url("postgres")))


def test_a_lock_file_that_names_another_process_by_now_is_forgotten(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    with running(tmp_path / "postgres", free_port()) as (server, _):
        lock = (server.data / "postmaster.pid").read_text()
    _, _, rest = lock.partition("\n")
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{rest}")
    with running(tmp_path / "postgres", free_port()) as (again, _):
        assert asyncio.run(accepts(again.url("postgres")))


def test_an_interrupted_first_start_is_begun_again(free_port: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data.new" / "base").mkdir(parents=True)
    (tmp_path / "postgres" / "password.new").write_text("of another attempt")
    with running(tmp_path / "postgres", free_port()) as (server, _):
        assert asyncio.run(accepts(server.url("postgres")))
