"""One PostgreSQL for every contender that uses one: ours, as `tallybook up` runs it, with fsync."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
from psycopg import sql

from runtime.embedded.child import LOOPBACK, Child
from runtime.embedded.postgres import SERVICE, EmbeddedPostgres, create_databases

START_S: Final = 60.0
SETTINGS: Final = {
    "shared_buffers": f"{psutil.virtual_memory().total // 4 // 2**20}MB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "16GB",
    "min_wal_size": "4GB",
}
"""All that differs from `tallybook up`: a quarter of the memory, as PostgreSQL's manual advises, and
checkpoints as rare as in docker-compose.yml."""


@dataclass(frozen=True, slots=True)
class Server:
    embedded: EmbeddedPostgres
    service_password: str

    def url(self, database: str) -> str:
        """The owner's, a superuser."""
        return self.embedded.url(database)

    def service_url(self, database: str) -> str:
        return self.embedded.url(database, user=SERVICE, password=self.service_password)

    @contextmanager
    def database(self, name: str, template: str = "template1") -> Iterator[str]:
        """A copy of a template, dropped again, which writes a checkpoint: what follows begins with one."""
        self.create(name, template)
        try:
            yield name
        finally:
            self.drop(name)

    def create(self, name: str, template: str = "template1") -> None:
        self._administer(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )

    def drop(self, name: str) -> None:
        self._administer(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def server_in(directory: Path) -> Iterator[Server]:
    embedded = EmbeddedPostgres(
        directory=directory / "postgres",
        port=free_port(),
        password=secrets.token_hex(16),
        log=directory / "postgres.log",
        settings=SETTINGS,
    )
    child = Child(embedded.spec())
    server = Server(embedded, secrets.token_hex(16))
    try:
        asyncio.run(_start(child, server))
        yield server
    finally:
        asyncio.run(child.stop())


async def _start(child: Child, server: Server) -> None:
    await child.start()
    await child.wait_ready(START_S)
    await create_databases(server.embedded, (), server.service_password)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
