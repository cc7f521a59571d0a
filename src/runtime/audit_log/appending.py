"""Writing through the library: `log.append` stays the only way in."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from eventsourcing.persistence import IntegrityError, ProgrammingError
from eventsourcing.postgres import PostgresDatastore
from psycopg import Cursor
from psycopg.rows import DictRow
from uuid_utils import uuid7

from domain import CONTEXTS
from domain.envelope import NOTHING, Tip
from domain.values import category_of
from runtime.audit_log.mapper import Draft
from runtime.lanes import lane_of

APPENDED: Final = 1
_TIPS: Final[LiteralString] = (
    "select e.stream, e.version, e.event_id::text"
    " from unnest(%s::text[], %s::bigint[]) as u (stream, version)"
    " join log.events e on e.stream = u.stream and e.version = u.version"
)
_APPEND: Final[LiteralString] = (
    "select verdicts, head from log.append(%(writer)s::uuid, %(generation)s::bigint,"
    " %(streams)s::text[], %(contexts)s::text[], %(lanes)s::smallint[],"
    " array[%(tip_count)s]::integer[], array[%(event_count)s]::integer[],"
    " array[null]::bytea[], array[null]::bytea[],"
    " %(tip_streams)s::integer[], %(tip_versions)s::bigint[], %(tip_ids)s::uuid[],"
    " %(event_streams)s::integer[], %(event_ids)s::uuid[], %(event_types)s::text[],"
    " %(event_data)s::bytea[], %(event_metadata)s::bytea[],"
    " array[]::integer[], array[]::text[], null::jsonb)"
)


def context_of(stream: str) -> str:
    """ProgrammingError for a stream of no category of the shop."""
    try:
        return CONTEXTS[category_of(stream)]
    except KeyError:
        raise ProgrammingError(f"{stream!r} is not the name of a stream") from None


class Appender:
    """A writer of the log, for any number of threads; it begins its generation with its first append."""

    def __init__(self, context_of: Callable[[str], str] = context_of) -> None:
        self._context_of = context_of
        self._writer = str(uuid7())
        self._begins = threading.Lock()
        self._generation = 0
        self._lanes = 0

    def begin(self, datastore: PostgresDatastore) -> None:
        """Before anything is appended, and committed before; once is enough."""
        with self._begins:
            if not self._generation:
                with datastore.cursor() as cursor:
                    [begun] = cursor.execute(
                        "select generation, lanes from log.begin_writing(%s)", (self._writer,)
                    ).fetchall()
                self._generation, self._lanes = begun["generation"], begun["lanes"]

    def append(self, cursor: Cursor[DictRow], drafts: Sequence[Draft]) -> list[int]:
        """The positions, once the transaction commits: all of the drafts, or IntegrityError.

        The library knows versions only, so the tips are looked up: that the event before a draft is of the
        history the draft was decided on, rests on its version.
        """
        tips = _tips_of(cursor, _first_versions(drafts))
        [said] = cursor.execute(_APPEND, self._parameters(tips, drafts)).fetchall()
        if said["verdicts"] != [APPENDED]:
            raise IntegrityError(f"the log has gone on in one of {', '.join(tips)}")
        head: int = said["head"]
        return list(range(head + 1, head + 1 + len(drafts)))

    def _parameters(self, tips: dict[str, Tip], drafts: Sequence[Draft]) -> dict[str, Any]:
        streams = sorted(tips)
        numbers = {stream: number for number, stream in enumerate(streams, start=1)}
        return {
            "writer": self._writer,
            "generation": self._generation,
            "streams": streams,
            "contexts": [self._context_of(stream) for stream in streams],
            "lanes": [lane_of(stream, self._lanes) for stream in streams],
            "tip_count": len(tips),
            "event_count": len(drafts),
            "tip_streams": list(numbers.values()),
            "tip_versions": [tips[stream].version for stream in streams],
            "tip_ids": [UUID(tips[stream].event_id) for stream in streams],
            "event_streams": [numbers[_stream_of(draft)] for draft in drafts],
            "event_ids": [UUID(draft.event_id) for draft in drafts],
            "event_types": [draft.topic for draft in drafts],
            "event_data": [draft.state for draft in drafts],
            "event_metadata": [draft.metadata for draft in drafts],
        }


def _stream_of(draft: Draft) -> str:
    return str(draft.originator_id)


def _first_versions(drafts: Sequence[Draft]) -> dict[str, int]:
    """By stream. IntegrityError unless the versions of each follow one another."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for draft in drafts:
        stream, version = _stream_of(draft), draft.originator_version
        if version != last.get(stream, version - 1) + 1 or version < 1:
            raise IntegrityError(f"version {version} of {stream} does not follow")
        first.setdefault(stream, version)
        last[stream] = version
    return first


def _tips_of(cursor: Cursor[DictRow], first: dict[str, int]) -> dict[str, Tip]:
    """What stands before the first versions. An event that is there stays, so no lock is needed yet."""
    tips = {stream: NOTHING for stream, version in first.items() if version == 1}
    later = {stream: version - 1 for stream, version in first.items() if version > 1}
    for row in cursor.execute(_TIPS, (list(later), list(later.values()))).fetchall() if later else ():
        tips[row["stream"]] = Tip(row["version"], row["event_id"])
    if missing := sorted(first.keys() - tips.keys()):
        raise IntegrityError(f"nothing stands before what is to be written in {', '.join(missing)}")
    return tips
