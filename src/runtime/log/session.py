"""A writer's connection: one generation of it, for as long as it lasts."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

from commands.ports import LogUnavailable
from runtime.log.batch import CALL
from runtime.log.packing import Packed, send_packed
from runtime.postgres import Connection, arguments

CALL_S: Final = 35.0
"""Longer than the role's statement_timeout: when it passes, the connection is as good as lost."""


class Session:
    def __init__(self, connection: Connection, writer: str) -> None:
        self._connection = connection
        self._writer = writer
        self.generation = 0
        self.incarnation = ""
        self.lanes = 0

    @classmethod
    async def begin(cls, url: str, role: str, writer: str) -> "Session":
        """Once this returns, what earlier sessions of the writer sent is committed or never will be.

        `LogUnavailable` if it cannot begin.
        """
        try:
            async with asyncio.timeout(CALL_S):
                connection = await Connection.connect(url, autocommit=True, **arguments(role))
                session = cls(connection, writer)
                try:
                    await session._begin()
                except BaseException:
                    await connection.close()
                    raise
        except (psycopg.Error, TimeoutError) as error:
            raise LogUnavailable(str(error)) from error
        return session

    async def _begin(self) -> None:
        send_packed(self._connection)
        begun = await self._connection.execute(
            "select generation, incarnation::text, lanes from log.begin_writing(%s)", (self._writer,)
        )
        [(self.generation, self.incarnation, self.lanes)] = await begun.fetchall()

    @property
    def broken(self) -> bool:
        return self._connection.closed

    async def append(self, parameters: Mapping[str, Packed]) -> Sequence[Any]:
        """One call of `log.append`: its row. Whatever it raises, the batch may have been committed."""
        everything = {"writer": self._writer, "generation": self.generation, **parameters}
        async with asyncio.timeout(CALL_S), self._connection.cursor(binary=True) as cursor:
            await cursor.execute(CALL, everything, prepare=True)
            [row] = await cursor.fetchall()
            return row

    async def close(self) -> None:
        await self._connection.close()
