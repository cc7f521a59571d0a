"""Connections as the library's recorders want them, which take a role and wait for nothing without end."""

import select
from typing import Any, Final, Literal

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.rows import DictRow, dict_row

from runtime.postgres import arguments

MAX_CONNECTIONS: Final = 16
WAIT_S: Final = 30.0
"""For one of them: an auditor has more time than a client of a door."""


class AuditDatastore(PostgresDatastore):
    """`schema` is that of the tables which the library makes itself, for tracking and snapshots."""

    def __init__(
        self, url: str, role: str, *, schema: str, originator_id_type: Literal["uuid", "text"]
    ) -> None:
        super().__init__("", "", "", "", "", schema=schema, originator_id_type=originator_id_type)
        self._url = url
        self._arguments: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            **arguments(role),
        }
        # The pool that the library has made was never opened: it cannot be told a URL, a role or time-outs.
        self.pool = ConnectionPool(
            url,
            connection_class=psycopg.Connection[DictRow],
            kwargs=self._arguments,
            min_size=0,
            max_size=MAX_CONNECTIONS,
            timeout=WAIT_S,
            check=_check,
            open=False,
        )

    def connect(self) -> psycopg.Connection[DictRow]:
        """A connection beside the pool, to listen on. Raises psycopg's OperationalError."""
        return psycopg.connect(self._url, **self._arguments)


def _check(connection: psycopg.Connection[Any]) -> None:
    """Asks the server only where it has said something unasked: likely that it has ended the connection."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        ConnectionPool.check_connection(connection)
