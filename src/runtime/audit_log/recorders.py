"""The log as the library's recorders: its positions are the notification ids."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, LiteralString, ParamSpec, TypeVar
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InterfaceError,
    Notification,
    OperationalError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
)
from eventsourcing.postgres import PostgresDatastore, PostgresRecorder, PostgresTrackingRecorder
from psycopg import Cursor
from psycopg.rows import DictRow, class_row

from domain import CONTEXTS
from domain.envelope import Mark
from runtime.audit_log.appending import Appender, context_of
from runtime.audit_log.mapper import Draft, Kept
from runtime.audit_log.subscription import AuditSubscription

LAST: Final = 2**63 - 1
"""No version and no position is higher."""
PAUSE_S: Final = 0.2
"""Before what was read in vain is read again."""
_SELECT: Final[LiteralString] = (
    "select e.position as id, e.stream as originator_id, e.version as originator_version, e.type as topic,"
    " e.data as state, e.event_id::text as event_id, e.context, e.lane, e.metadata, e.recorded_at"
    " from log.events e"
)
_OF_STREAM: Final[LiteralString] = (
    _SELECT + " where e.stream = %s and e.version > %s and e.version <= %s order by e.version"
)
_BY_POSITION: Final[LiteralString] = _SELECT + " where e.position > %s and e.position <= %s"
# Rows are compared so that only a look-up in (context, lane, position) will do, one a lane.
_OF_CONTEXT: Final[LiteralString] = (
    _SELECT + " join (select found.position from log.settings s"
    " cross join generate_series(0, s.lanes - 1) as l (lane)"
    " cross join lateral (select p.position from log.events p"
    "   where (p.context, p.lane, p.position) > (%(context)s, l.lane::smallint, %(after)s)"
    "   and (p.context, p.lane, p.position) <= (%(context)s, l.lane::smallint, %(upto)s)"
    "   order by p.context, p.lane, p.position limit %(limit)s) found"
    " order by found.position limit %(limit)s) f on f.position = e.position order by e.position"
)
_HEADS: Final[LiteralString] = (
    "select h.context, h.lane, h.position, h.event_id::text as event_id"
    " from unnest(%s::text[]) as c (context) cross join log.settings s"
    " cross join generate_series(0, s.lanes - 1) as l (lane)"
    " cross join lateral (select e.context, e.lane, e.position, e.event_id from log.events e"
    "   where (e.context, e.lane, e.position) <= (c.context, l.lane::smallint, %s)"
    "   order by e.context desc, e.lane desc, e.position desc limit 1) h"
    " where (h.context, h.lane) = (c.context, l.lane)"
)

P = ParamSpec("P")
R = TypeVar("R")
_S = TypeVar("_S", bound=PostgresRecorder)


def again(read: Callable[Concatenate[_S, P], R]) -> Callable[Concatenate[_S, P], R]:
    """Reads again when a connection breaks, for as long as one is waited for.

    A write cannot be repeated: if its answer is lost, whether it was committed is unknown.
    """

    @wraps(read)
    def repeated(recorder: _S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        deadline = time.monotonic() + recorder.datastore.pool.timeout
        while True:
            try:
                return read(recorder, *args, **kwargs)
            except (InterfaceError, OperationalError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE_S)

    return repeated


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

    def _kept(
        self, statement: LiteralString, parameters: Sequence[object] | Mapping[str, object]
    ) -> list[Kept]:
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
    ) -> Sequence[Notification]:
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
        [row] = self._rows("select max(position) as head from log.events", ())
        head: int | None = row["head"]
        return head

    @again
    def select_event(self, event_id: str) -> Kept | None:
        kept = self._kept(_SELECT + " where e.event_id = %s::uuid", (event_id,))
        return kept[0] if kept else None

    @again
    def select_positions(self, positions: Sequence[int]) -> Sequence[Kept]:
        """In the order of the log."""
        return self._kept(_SELECT + " where e.position = any (%s) order by e.position", (list(positions),))

    @again
    def select_context(self, context: str, *, gt: int, lte: int, limit: int) -> Sequence[Kept]:
        """In the order of the log: its lanes, merged."""
        bounds = {"context": context, "after": gt, "upto": lte, "limit": limit}
        return self._kept(_OF_CONTEXT, bounds)

    @again
    def heads(self, upto: int) -> Mapping[tuple[str, int], Mark]:
        """The last event of each (context, lane) up to a position."""
        rows = self._rows(_HEADS, (sorted(set(CONTEXTS.values())), upto))
        return {(row["context"], row["lane"]): Mark(row["position"], row["event_id"]) for row in rows}

    @again
    def incarnation(self) -> str:
        [row] = self._rows(
            "select id::text as id from log.incarnations order by from_position desc, timeline desc limit 1",
            (),
        )
        return str(row["id"])

    def _rows(self, statement: LiteralString, parameters: Sequence[object]) -> list[DictRow]:
        with self.datastore.get_connection() as connection:
            return connection.execute(statement, parameters).fetchall()

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
