"""Following the log through the library, without relying on any notification."""

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any, Final, cast

import psycopg
from eventsourcing.persistence import ApplicationRecorder, ListenNotifySubscription
from eventsourcing.postgres import PostgresRecorder

from runtime.audit_log.datastore import AuditDatastore

logger = logging.getLogger(__name__)

CHANNEL: Final = "tallybook_log"
POLL_S: Final = 0.1
"""How long the log's growth stays unseen at most: what a lost notification costs."""


class Watch(Thread):
    """Says whenever the log has grown, and whenever it may have while its connection was lost."""

    def __init__(self, datastore: AuditDatastore, grown: Callable[[], object]) -> None:
        super().__init__(name="listen to the log", daemon=True)
        self._datastore = datastore
        self._grown = grown
        self._poll_s = POLL_S
        self._told_to_stop = Event()

    def stop(self) -> None:
        """When it looks up next."""
        self._told_to_stop.set()

    def run(self) -> None:
        while not self._told_to_stop.is_set():
            try:
                with self._datastore.connect() as connection:
                    self._watch(connection)
            except psycopg.Error as lost:
                logger.warning("an auditor does not hear the log, again in %.1f s: %s", self._poll_s, lost)
                self._told_to_stop.wait(self._poll_s)

    def _watch(self, connection: psycopg.Connection[psycopg.rows.DictRow]) -> None:
        connection.execute(f"listen {CHANNEL}")
        seen = None
        while not self._told_to_stop.is_set():
            [row] = connection.execute("select max(position) as head from log.events").fetchall()
            if row["head"] != seen:
                seen = row["head"]
                self._grown()
            for _ in connection.notifies(timeout=self._poll_s, stop_after=1):
                pass


class AuditSubscription(ListenNotifySubscription[ApplicationRecorder]):
    """Asks for the head. The library's own sleeps through a commit between its first read and its LISTEN.

    A database that stays away for longer than a connection is waited for ends the iteration with
    OperationalError.
    """

    def __init__(self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        datastore = cast("AuditDatastore", cast("PostgresRecorder", recorder).datastore)
        self._watch = Watch(datastore, self._wake)
        super().__init__(recorder, gt, topics)  # which may stop at once
        self._watch.start()

    def _wake(self) -> None:
        self._has_been_notified.set()

    def stop(self) -> None:
        super().stop()
        self._watch.stop()

    def __exit__(self, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - the library's
        try:
            super().__exit__(*args, **kwargs)
        finally:
            self._watch.join()
