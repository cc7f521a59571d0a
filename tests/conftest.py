"""Real services for tests: one PostgreSQL and one broker a session, on free ports, in a temporary home."""

import asyncio
import itertools
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psycopg
import pytest
from broker import OwnApacheKafka
from psycopg import sql

from runtime.embedded.apache_kafka.jars import ApacheKafkaUnusable
from runtime.embedded.apache_kafka.node import ApacheKafka
from runtime.embedded.broker import broker_spec
from runtime.embedded.child import Child
from runtime.embedded.postgres import SERVICE, EmbeddedPostgres, create_databases

START_SECONDS = 60.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
SERVICE_PASSWORD = "service"
REQUIRED = "TALLYBOOK_REQUIRE_APACHE_KAFKA"
"""Set where tests on Apache Kafka must run; elsewhere they are skipped without Java and Maven."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Told to stop, pytest would end at once and leave the services behind; so it is interrupted instead.

    Before every test, because a loop in which a test handled a signal puts the default back.
    """
    for told in STOP_SIGNALS:
        if signal.getsignal(told) is signal.SIG_DFL:
            signal.signal(told, _interrupt)


def _interrupt(told: int, _frame: FrameType | None) -> None:
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # `timeout` tells pytest, and so does the `make` it also told
    raise KeyboardInterrupt(signal.Signals(told).name)


class PostgresForTests:
    """`url` is the owner's, a superuser; `service_url` the login's that services use."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    def url(self, database: str) -> str:
        return self._server.url(database)

    def service_url(self, database: str) -> str:
        return self._server.url(database, user=SERVICE, password=SERVICE_PASSWORD)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def session_home() -> Iterator[Path]:
    # Not pytest's own temporary directory: no other account may enter it, and root's PostgreSQL is nobody's.
    with tempfile.TemporaryDirectory(prefix="tallybook-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)
        yield Path(home)


@pytest.fixture(scope="session")
def postgres(session_home: Path) -> Iterator[PostgresForTests]:
    server = EmbeddedPostgres(
        directory=session_home / "postgres",
        port=_free_port(),
        password="owner",
        log=session_home / "postgres.log",
        # No test crashes this server: those that do, start one of their own, with fsync.
        settings={"fsync": "off", "shared_buffers": "64MB"},
    )
    child = Child(server.spec())
    try:
        asyncio.run(_start(child))
        asyncio.run(create_databases(server, (), SERVICE_PASSWORD))
        yield PostgresForTests(server)
    finally:
        asyncio.run(child.stop())


@pytest.fixture
def new_database(postgres: PostgresForTests) -> Iterator[Callable[[], str]]:
    """Calling it makes an empty database that lives until the test ends, and returns its owner's URL."""
    with _databases(postgres) as create:
        yield create


@pytest.fixture(scope="module")
def new_database_of_module(postgres: PostgresForTests) -> Iterator[Callable[[], str]]:
    """As `new_database`, for tests of one module that leave no trace in it."""
    with _databases(postgres) as create:
        yield create


@contextmanager
def _databases(postgres: PostgresForTests) -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def create() -> str:
        name = f"test_{next(_numbers)}"
        _administer(postgres, sql.SQL("create database {}").format(sql.Identifier(name)))
        made.append(name)
        return postgres.url(name)

    yield create
    for name in made:
        _administer(postgres, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


_numbers = itertools.count(1)


def _administer(postgres: PostgresForTests, statement: sql.Composed) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def broker(session_home: Path) -> Iterator[str]:
    """The bootstrap servers of a Kafka-compatible broker."""
    port = _free_port()
    child = Child(broker_spec(port, session_home / "broker.log"))
    try:
        asyncio.run(_start(child))
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run(child.stop())


@pytest.fixture(scope="session")
def apache_kafka(session_home: Path) -> Iterator[OwnApacheKafka]:
    """A node of Apache Kafka, for tests that call `begin` first; it does not run yet."""
    node = ApacheKafka(
        directory=session_home / "kafka",
        port=_free_port(),
        controller_port=_free_port(),
        log=session_home / "kafka.log",
    )
    own = OwnApacheKafka(node)
    try:
        asyncio.run(own.prepare())
    except ApacheKafkaUnusable as unusable:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(str(unusable))
    try:
        yield own
    finally:
        asyncio.run(own.kill())


@pytest.fixture(params=["embedded", "apache"])
def either_broker(request: pytest.FixtureRequest) -> str:
    """The bootstrap servers of a broker of each kind."""
    if request.param == "embedded":
        servers: str = request.getfixturevalue("broker")
        return servers
    own: OwnApacheKafka = request.getfixturevalue("apache_kafka")
    asyncio.run(own.begin())
    return own.servers


async def _start(child: Child) -> None:
    await child.start()
    await child.wait_ready(START_SECONDS)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Calling it names a port that nobody listens on."""
    return _free_port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
