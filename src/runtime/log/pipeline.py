"""One prepared statement on one connection, called again before the call before it has been answered.

libpq's pipeline mode, each call a transaction of its own. psycopg's own pipelines wait for one caller at a
time; this one is driven by the event loop, so that the next batch is on its way while the database is at the
last.
"""

import asyncio
import select
from collections import deque
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from runtime.postgres import Connection

BINARY: Final = 1


class Pipeline:
    """Takes the connection over: nobody else may use it from then on. Calls are answered in their order."""

    def __init__(self, connection: Connection, statement: str) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._statement = statement.encode()
        self._loop = asyncio.get_running_loop()
        self._called: deque[asyncio.Future[pq.abc.PGresult]] = deque()
        self._result: pq.abc.PGresult | None = None
        self._writing = False
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._read)

    def call(self, parameters: Sequence[bytes | None]) -> asyncio.Future[pq.abc.PGresult]:
        """All parameters and the result in binary form. Fails with psycopg's errors.

        If the connection broke, nobody knows whether the call had its effect.
        """
        answer: asyncio.Future[pq.abc.PGresult] = self._loop.create_future()
        self._called.append(answer)
        try:
            self._pgconn.send_query_prepared(self._statement, parameters, [BINARY] * len(parameters), BINARY)
            self._pgconn.pipeline_sync()
        except psycopg.Error as lost:
            self._break(lost)
        else:
            self._flush()
        return answer

    @property
    def closed(self) -> bool:
        return self._socket < 0 or self._pgconn.status != pq.ConnStatus.OK

    async def close(self) -> None:
        self._break(psycopg.OperationalError("the connection was closed"))
        await self._connection.close()

    def _flush(self) -> None:
        """What the socket does not take now goes when it can. A flush that waits may also have read."""
        try:
            unsent = self._pgconn.flush() == 1
            self._take_in_last()
        except psycopg.Error as lost:
            self._break(lost)
            return
        if unsent and not self._writing:
            self._loop.add_writer(self._socket, self._flush)
        elif self._writing and not unsent:
            self._loop.remove_writer(self._socket)
        self._writing = unsent
        self._take_answers()

    def _read(self) -> None:
        try:
            self._pgconn.consume_input()
            self._take_in_last()
        except psycopg.Error as lost:
            self._break(lost)
            return
        if self._writing:
            self._flush()
        else:
            self._take_answers()

    def _take_in_last(self) -> None:
        """Raises psycopg's OperationalError where the connection was reset, whatever arrived with that.

        The loop may tell of it once only: uvloop then watches the socket no longer, and whoever took that
        for data alone would wait for ever.
        """
        while _is_reset(self._socket):
            self._pgconn.consume_input()

    def _take_answers(self) -> None:
        """A call is answered by a result, the end of its results, and the mark that ends its transaction."""
        while self._called and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                if self._pgconn.status != pq.ConnStatus.OK:
                    self._break(psycopg.OperationalError("the connection is lost"))
                continue
            if result.status != pq.ExecStatus.PIPELINE_SYNC:
                if self._result is None or result.status == pq.ExecStatus.FATAL_ERROR:
                    self._result = result  # an error may follow the row: of the commit
                continue
            answer, result, self._result = self._called.popleft(), self._result, None
            if answer.done():
                continue  # its caller has given up
            if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
                answer.set_result(result)
            elif result is not None:
                answer.set_exception(error_from_result(result))
            else:
                answer.set_exception(psycopg.OperationalError("a call without a result"))

    def _break(self, lost: psycopg.Error) -> None:
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1
        while self._called:
            answer = self._called.popleft()
            if not answer.done():
                answer.set_exception(psycopg.OperationalError(str(lost)))


def _is_reset(socket: int) -> bool:
    asked = select.poll()
    asked.register(socket, 0)  # errors and hang-ups are told in any case
    return bool(asked.poll(0))
