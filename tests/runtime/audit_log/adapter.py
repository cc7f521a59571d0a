"""What the library's own tests need of a log, and no shop does.

Their ids are UUIDs, their versions start at 0 or at 1, their topics are module paths and their states any
bytes. Each id becomes a stream of a category that no shop has; a stream's first version, 0 or 1, is in the
metadata of its events, for the log's own start at 1. Versions, ids and bytes are given back as they came.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import IntegrityError, Mapper, Notification, StoredEvent
from uuid_utils import uuid7

from runtime.audit_log.factory import AuditLogFactory
from runtime.audit_log.mapper import Draft, Kept
from runtime.audit_log.recorders import (
    AuditAggregateRecorder,
    AuditApplicationRecorder,
    AuditProcessRecorder,
)

CATEGORY: Final = "conformance"
CONTEXT: Final = "audit"


def _stream_of(originator_id: UUID | str) -> str:
    return f"{CATEGORY}-{originator_id}"


def _started_at(kept: Kept) -> int:
    return int(kept.metadata)


class _Adapted(AuditAggregateRecorder):
    """Its own face is the library's; what `super()` sees is the log's."""

    context_of = staticmethod(lambda _: CONTEXT)

    def _insert(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> list[int]:
        starts: dict[str, int] = {}
        drafts = []
        for stored in stored_events:
            stream = _stream_of(stored.originator_id)
            if stream not in starts:
                starts[stream] = self._start_of(stream, stored.originator_version)
            start = starts[stream]
            version = stored.originator_version - start + 1
            drafts.append(
                Draft(stream, version, stored.topic, stored.state, str(uuid7()), str(start).encode())
            )
        return super()._insert(drafts, **kwargs)

    def _start_of(self, stream: str, version: int) -> int:
        """What the stream's first version is called; of a new stream, what is to be its first."""
        first = super().select_events(stream, limit=1)
        if not first and version not in (0, 1):
            raise IntegrityError(f"{stream} cannot start at version {version}")
        return _started_at(_kept(first[0])) if first else version

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        stream = _stream_of(originator_id)
        by = 1 - self._start_of(stream, 1)
        found = super().select_events(
            stream,
            gt=None if gt is None else gt + by,
            lte=None if lte is None else lte + by,
            desc=desc,
            limit=limit,
        )
        return [_given_back(_kept(stored)) for stored in found]


class AdaptedAggregateRecorder(_Adapted):
    pass


class AdaptedApplicationRecorder(_Adapted, AuditApplicationRecorder):
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        found = super().select_notifications(
            start, limit, stop, topics, inclusive_of_start=inclusive_of_start
        )
        return [_numbered(_kept(stored)) for stored in found]


class AdaptedProcessRecorder(AuditProcessRecorder, AdaptedApplicationRecorder):
    pass


class Factory(AuditLogFactory):
    mapper_class = Mapper
    aggregate_recorder_class = AdaptedAggregateRecorder
    application_recorder_class = AdaptedApplicationRecorder
    process_recorder_class = AdaptedProcessRecorder
    originator_id_type = "uuid"


def _kept(stored: StoredEvent) -> Kept:
    assert isinstance(stored, Kept)
    return stored


def _given_back(kept: Kept) -> StoredEvent:
    numbered = _numbered(kept)
    return StoredEvent(numbered.originator_id, numbered.originator_version, numbered.topic, numbered.state)


def _numbered(kept: Kept) -> Notification:
    return Notification(
        UUID(str(kept.originator_id).partition("-")[2]),
        kept.originator_version + _started_at(kept) - 1,
        kept.topic,
        kept.state,
        kept.id,
    )
