"""A log and read models in databases of their own, and the services that keep one up with the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fresh_fold import differing_rows
from history import Facts, Writer
from psycopg.errors import UndefinedTable

from projections import READ_MODELS
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.migrate import migrate
from runtime.postgres import Pool, open_pool
from runtime.projector import ROLE, Projector
from runtime.relay import Relay

CONVERGE_SECONDS = 20.0
NO_BROKER = "127.0.0.1:1"


@dataclass(frozen=True)
class ReadSide:
    log_url: str
    read_url: str
    log: PostgresLog
    writer: Writer
    reader: LogReader
    pool: Pool

    async def write(self, appends: Sequence[Facts]) -> None:
        for facts in appends:
            await self.writer.append(*facts)

    def projector(self, servers: str = NO_BROKER) -> Projector:
        return Projector(self.reader, self.pool, servers)

    def relay(self, servers: str) -> Relay:
        return Relay(self.log_url, self.reader, servers, recreate_topics=True)

    async def differing(self) -> list[str]:
        async with self.pool.connection() as connection:
            return [
                row for model in READ_MODELS for row in await differing_rows(self.reader, connection, model)
            ]

    async def converge(self) -> None:
        """Until every read model has caught up once, and every row equals a fresh fold of the log."""
        async with asyncio.timeout(CONVERGE_SECONDS):
            while not await self._equal():
                await asyncio.sleep(0.05)

    async def _equal(self) -> bool:
        try:
            async with self.pool.connection() as connection:
                ready = await connection.execute("select from read.builds where served")
            return ready.rowcount == len(READ_MODELS) and await self.differing() == []
        except UndefinedTable:  # a projector is only starting
            return False


@asynccontextmanager
async def read_side(new_database: Callable[[], str], *, apart: bool = False) -> AsyncIterator[ReadSide]:
    """In one database, or in two: making one is what takes time."""
    log_url = new_database()
    read_url = new_database() if apart else log_url
    await migrate(log_url, "log")
    await migrate(read_url, "read")
    async with (
        PostgresLog.open(log_url) as log,
        LogReader.open(log_url, ROLE) as reader,
        open_pool(read_url, ROLE, size=4, autocommit=True) as pool,
    ):
        yield ReadSide(log_url, read_url, log, Writer(log), reader, pool)


@asynccontextmanager
async def running(*services: Projector | Relay) -> AsyncIterator[None]:
    """The services as tasks; one that fails fails the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(service.run()) for service in services]
        yield
        for task in tasks:
            task.cancel()
