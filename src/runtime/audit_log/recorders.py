"""The log as the library's recorders: its positions are the notification ids."""

from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InterfaceError,
    OperationalError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
)
from eventsourcing.postgres import PostgresDatastore, PostgresRecorder, PostgresTrackingRecorder
from eventsourcing.utils import retry
from psycopg import Cursor
from psycopg.rows import DictRow, class_row

from runtime.audit_log.appending import Appender, context_of
from runtime.audit_log.mapper import Draft, Kept
from runtime.audit_log.subscription import AuditSubscription

LAST: Final = 2**63 - 1
"""No version and no position is higher."""
_SELECT: Final[LiteralString] = (
    "select e.position as id, e.stream as originator_id, e.version as originator_version, e.type as topic,"
    " e.data as state, e.event_id::text as event_id, e.context, e.lane, e.metadata, e.recorded_at"
    " from log.events e"
)
_OF_STREAM: Final[LiteralString] = (
    _SELECT + " where e.stream = %s and e.version > %s and e.version <= %s order by e.version"
)
_BY_POSITION: Final[LiteralString] = _SELECT + " where e.position > %s and e.position <= %s"

again = retry((InterfaceError, OperationalError), max_attempts=10, wait=0.2)
"""Reading can be repeated; a write cannot: if its answer is lost, whether it was committed is unknown."""


class AuditAggregateRecorder(PostgresRecorder, AggregateRecorder):
    """Streams of the log. What is written are `Draft`s; what is read are `Kept`s."""

    context_of: Callable[[str], str] = staticmethod(context_of)

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore)
        self._appender = Appender(self.context_of)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:  # noqa: ANN401 - the library's
        """In one transaction, or IntegrityError: the streams are not at the versions before these.

        OperationalError: the outcome may be unknown; nothing is sent again. No NOTIFY: readers poll too.
        """
        self._insert(stored_events, **kwargs)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> list[int]:  # noqa: ANN401 - the library's
        drafts = [_draft(stored) for stored in stored_events]
        if drafts:
            self._appender.begin(self.datastore)
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_beside(cursor, **kwargs)
            return self._appender.append(cursor, drafts) if drafts else []

    def _insert_beside(self, cursor: Cursor[DictRow], **_: Any) -> None:  # noqa: ANN401 - the library's
        """What else is written in the transaction of the events, before the log's lock is taken."""

    @again
    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        statement = _OF_STREAM + (" desc limit %s::bigint" if desc else " limit %s::bigint")
        versions = (0 if gt is None else gt, LAST if lte is None else lte)
        return self._kept(statement, (str(originator_id), *versions, limit))

    def _kept(self, statement: LiteralString, parameters: Sequence[object]) -> list[Kept]:
        with (
            self.datastore.get_connection() as connection,
            connection.cursor(binary=True, row_factory=class_row(Kept)) as cursor,
        ):
            return cursor.execute(statement, parameters).fetchall()


class AuditApplicationRecorder(AuditAggregateRecorder, ApplicationRecorder):
    """The whole log: ids are positions, 1…head without a hole, in the order of the commits."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:  # noqa: ANN401 - the library's
        """The positions of the events. Raises as for an aggregate's."""
        return self._insert(stored_events, **kwargs) or None

    @again
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Kept]:
        """In the order of the log; `topics` are stored names, for which the log is read along."""
        after = 0 if start is None else start - inclusive_of_start
        statement: LiteralString = _BY_POSITION
        parameters: list[object] = [after, LAST if stop is None else stop]
        if topics:
            statement += " and e.type = any (%s)"
            parameters.append(list(topics))
        return self._kept(statement + " order by e.position limit %s", [*parameters, limit])

    @again
    def max_notification_id(self) -> int | None:
        with self.datastore.get_connection() as connection:
            [row] = connection.execute("select max(position) as head from log.events").fetchall()
            head: int | None = row["head"]
            return head

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        return AuditSubscription(self, gt, topics)


class AuditProcessRecorder(PostgresTrackingRecorder, AuditApplicationRecorder, ProcessRecorder):
    """Events go through `log.append`, and in its transaction the tracking moves on: both or neither.

    The table for tracking is the library's own, beside the log.
    """

    def _insert_beside(self, cursor: Cursor[DictRow], **kwargs: Any) -> None:  # noqa: ANN401 - the library's
        """IntegrityError for a tracking that is not ahead of the last one."""
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is not None:
            self._insert_tracking(cursor, tracking)
        super()._insert_beside(cursor, **kwargs)


def _draft(stored: StoredEvent) -> Draft:
    if not isinstance(stored, Draft):
        raise ProgrammingError(f"{type(stored).__name__} has no event id: it was not made by our mapper")
    return stored
