"""Following the log through the library, without relying on any notification."""

import logging
import time
from collections.abc import Sequence
from threading import Thread
from typing import Any, Final, cast

import psycopg
from eventsourcing.persistence import ApplicationRecorder, ListenNotifySubscription
from eventsourcing.postgres import PostgresRecorder

from runtime.audit_log.datastore import AuditDatastore

logger = logging.getLogger(__name__)

CHANNEL: Final = "tallybook_log"
POLL_S: Final = 0.1
"""How long the log's growth stays unseen at most: what a lost notification costs."""


class AuditSubscription(ListenNotifySubscription[ApplicationRecorder]):
    """Asks for the head. The library's own sleeps through a commit between its first read and its LISTEN.

    While its connection is lost nothing wakes it; once it has another, it sees what has come meanwhile. A
    database that stays away for longer than reads are tried again ends the iteration with OperationalError.
    """

    def __init__(self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._listen_thread = Thread(target=self._listen, name="listen to the log", daemon=True)
        self._listen_thread.start()

    def __exit__(self, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - the library's
        try:
            super().__exit__(*args, **kwargs)
        finally:
            self._listen_thread.join()

    def _listen(self) -> None:
        datastore = cast("AuditDatastore", cast("PostgresRecorder", self._recorder).datastore)
        while not self._has_been_stopped:
            try:
                with datastore.connect() as connection:
                    self._watch(connection)
            except psycopg.OperationalError as lost:
                logger.warning("an auditor does not hear the log, again in %.1f s: %s", POLL_S, lost)
                time.sleep(POLL_S)

    def _watch(self, connection: psycopg.Connection[psycopg.rows.DictRow]) -> None:
        """Wakes the pulling whenever the head has moved."""
        connection.execute(f"listen {CHANNEL}")
        seen = None
        while not self._has_been_stopped:
            [row] = connection.execute("select max(position) as head from log.events").fetchall()
            if row["head"] != seen:
                seen = row["head"]
                self._has_been_notified.set()
            for _ in connection.notifies(timeout=POLL_S, stop_after=1):
                pass
