"""Connections as the library's recorders want them, which take a role and wait for nothing without end."""

import select
import time
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolTimeout

from runtime.postgres import ASK_S, RECONNECT_S, arguments

MAX_CONNECTIONS: Final = 16
WAIT_S: Final = 30.0
"""For one of them: an auditor at a terminal has more time than a client of a door."""
ANSWER_S: Final = 35.0
"""Longer than a statement may take: a peer may fall silent without a word."""
LOOK_S: Final = 0.1
"""How often psycopg looks whether it has been interrupted."""

R = TypeVar("R")


class _Connection(psycopg.Connection[DictRow]):
    """Ends when it has no answer in time, with psycopg's OperationalError."""

    def wait(self, gen: PQGen[R], interval: float = LOOK_S, timeout: float | None = None) -> R:
        try:
            return super().wait(gen, interval, ANSWER_S if timeout is None else timeout)
        except psycopg.OperationalError:
            if timeout is None and self.info.transaction_status == TransactionStatus.ACTIVE:
                self.close()
                raise psycopg.OperationalError(f"no answer in {ANSWER_S:.1f} s") from None
            raise


class _Pool(ConnectionPool[psycopg.Connection[DictRow]]):
    """As `runtime.postgres.Pool`, for threads."""

    def getconn(self, timeout: float | None = None) -> psycopg.Connection[DictRow]:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            connection = super().getconn(deadline - time.monotonic())
            if _works(connection):
                return connection
            self.putconn(connection)

    def reconnect_failed(self) -> None:
        if self.get_stats().get("requests_waiting"):
            with suppress(PoolTimeout):
                self.putconn(super().getconn(ASK_S))


class AuditDatastore(PostgresDatastore):
    """`schema` is that of the tables which the library makes itself, for tracking and snapshots.

    `wait_s`: how long one waits for a connection.
    """

    def __init__(
        self,
        url: str,
        role: str,
        *,
        schema: str,
        originator_id_type: Literal["uuid", "text"],
        wait_s: float = WAIT_S,
    ) -> None:
        super().__init__("", "", "", "", "", schema=schema, originator_id_type=originator_id_type)
        self._url = url
        self._arguments: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            **arguments(role),
        }
        # The pool that the library has made was never opened: it cannot be told a URL, a role or time-outs.
        self.pool = _Pool(
            url,
            connection_class=_Connection,
            kwargs=self._arguments,
            min_size=0,
            max_size=MAX_CONNECTIONS,
            timeout=wait_s,
            reconnect_timeout=RECONNECT_S,
            open=False,
        )

    def connect(self) -> psycopg.Connection[DictRow]:
        """A connection beside the pool, to listen on. Raises psycopg's OperationalError."""
        return _Connection.connect(self._url, **self._arguments)


def _works(connection: psycopg.Connection[Any]) -> bool:
    """Asks the server only where it has said something unasked: likely that it has ended the connection."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.OperationalError:
            return False
    return True
