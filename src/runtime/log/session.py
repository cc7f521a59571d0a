"""A writer's connection: one generation of it, for as long as it lasts."""

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import psycopg
from psycopg import pq

from commands.ports import LogUnavailable
from runtime.log.batch import PARAMETERS, RESULT
from runtime.log.pipeline import Pipeline
from runtime.postgres import Connection, arguments

CALL_S: Final = 12.0
"""Longer than the statement's own time: when it passes, the connection is as good as lost."""
TIME_OUTS: Final = {"statement_timeout": "10s", "lock_timeout": "8s"}
"""Of a call; shorter than a door's time for a request, so that clients are told."""

_NAME: Final = "append"
_PREPARE: Final = (
    f"prepare {_NAME} ({', '.join(PARAMETERS.values())}) as"
    f" select {RESULT} from log.append({', '.join(f'${n}' for n in range(1, len(PARAMETERS) + 1))})"
)


class Session:
    def __init__(self, pipeline: Pipeline, generation: Sequence[bytes], incarnation: str, lanes: int) -> None:
        self._pipeline = pipeline
        self._generation = generation
        self.incarnation = incarnation
        self.lanes = lanes

    @classmethod
    async def begin(cls, url: str, role: str, writer: str) -> "Session":
        """Once this returns, what earlier sessions of the writer sent is committed or never will be.

        `LogUnavailable` if it cannot begin.
        """
        try:
            async with asyncio.timeout(CALL_S):
                connection = await Connection.connect(url, autocommit=True, **arguments(role, **TIME_OUTS))
                try:
                    begun = await connection.execute(
                        "select generation, incarnation::text, lanes from log.begin_writing(%s)", (writer,)
                    )
                    [(generation, incarnation, lanes)] = await begun.fetchall()
                    await connection.execute(_PREPARE.encode())
                    writing = (UUID(writer).bytes, generation.to_bytes(8))
                    return cls(Pipeline(connection, _NAME), writing, incarnation, lanes)
                except BaseException:
                    await connection.close()
                    raise
        except (psycopg.Error, TimeoutError) as error:
            raise LogUnavailable(str(error)) from error

    @property
    def broken(self) -> bool:
        return self._pipeline.closed

    def append(self, parameters: Sequence[bytes | None]) -> asyncio.Future[pq.abc.PGresult]:
        """A call of `log.append`, made now; up to any number in a row, answered in their order.

        Whatever it fails with, the batch may have been committed.
        """
        return self._pipeline.call([*self._generation, *parameters])

    async def close(self) -> None:
        await self._pipeline.close()
