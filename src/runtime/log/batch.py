"""A batch of appends as the arrays that `log.append` takes: a stream stands once, the rest points at it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from psycopg import pq

from commands.ports import Append, Appended, Conflict, Duplicate, Mismatch, Verdict
from domain import CONTEXTS
from domain.envelope import Recorded
from domain.values import category_of
from runtime import packing
from runtime.codec import encode, encode_metadata
from runtime.lanes import REMEMBERED, lane_of

PARAMETERS: Final = {
    "writer": "uuid",
    "generation": "bigint",
    "streams": "text[]",
    "contexts": "text[]",
    "lanes": "smallint[]",
    "tip_counts": "integer[]",
    "event_counts": "integer[]",
    "digests": "bytea[]",
    "fingerprints": "bytea[]",
    "tip_streams": "integer[]",
    "tip_versions": "bigint[]",
    "tip_ids": "uuid[]",
    "event_streams": "integer[]",
    "event_ids": "uuid[]",
    "event_types": "text[]",
    "event_data": "bytea[]",
    "event_metadata": "bytea[]",
    "tag_events": "integer[]",
    "tags": "text[]",
    "conditions": "jsonb",
}
"""Of `log.append`, in order."""

COST_OF_ITEM: Final = 16
"""In rows: looking for what matches an item of a condition, before its tags and types."""
RESULT: Final = "verdicts, head, at, firsts, counts"
_2000: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""From when PostgreSQL counts its microseconds."""


class Encoded(NamedTuple):
    """An append and the bytes of its events; `rows` and `size` (bytes, about) are what it has in a batch."""

    append: Append
    data: list[bytes]
    metadata: bytes
    rows: int
    size: int

    @classmethod
    def of(cls, append: Append) -> "Encoded":
        """ValueError for an event that cannot be stored."""
        data = [encode(new.event) for new in append.events]
        metadata = encode_metadata(append.metadata)
        rows = max(len(append.tips), len(data), 1)
        size = sum(map(len, append.tips)) + sum(map(len, data)) + len(metadata) * len(data)
        words = [tag for new in append.events if new.tags for tag in new.tags]
        for condition in append.conditions:
            for item in condition.query:
                words += [*item.types, *item.tags]
                rows += COST_OF_ITEM
        return cls(append, data, metadata, rows + len(words), size + sum(map(len, words)))


class Judged(NamedTuple):
    """A batch's verdicts, in order; the log's head, as a position, before it and after it."""

    verdicts: list[Verdict]
    before: int
    after: int


def parameters_of(batch: Sequence[Encoded], lanes: int) -> list[bytes | None]:
    """The parameters of `log.append` but writer and generation."""
    appends = [encoded.append for encoded in batch]
    tips = [(stream, tip) for append in appends for stream, tip in append.tips.items()]
    events = [new for append in appends for new in append.events]
    streams = sorted({stream for stream, _ in tips})
    numbers = {stream: number for number, stream in enumerate(streams, start=1)}
    places = [_place_of(stream, lanes) for stream in streams]
    tags = [(number, tag) for number, new in enumerate(events, start=1) for tag in sorted(new.tags)]
    return [
        packing.texts(streams),
        packing.texts([context for context, _ in places]),
        packing.smallints([lane for _, lane in places]),
        packing.integers([len(append.tips) for append in appends]),
        packing.integers([len(append.events) for append in appends]),
        packing.blobs([append.digest for append in appends]),
        packing.blobs([append.fingerprint for append in appends]),
        packing.integers([numbers[stream] for stream, _ in tips]),
        packing.bigints([tip.version for _, tip in tips]),
        packing.uuids([tip.event_id for _, tip in tips]),
        packing.integers([numbers[new.stream] for new in events]),
        packing.uuids([new.event_id for new in events]),
        packing.texts([new.event.TYPE for new in events]),
        packing.blobs([data for encoded in batch for data in encoded.data]),
        packing.blobs([encoded.metadata for encoded in batch for _ in encoded.data]),
        packing.integers([number for number, _ in tags]),
        packing.texts([tag for _, tag in tags]),
        _conditions_of(appends),
    ]


def _conditions_of(appends: Sequence[Append]) -> bytes | None:
    """As jsonb in binary form: its version, and the text."""
    items = [
        {"append": number, "after": condition.after, "types": sorted(item.types), "tags": sorted(item.tags)}
        for number, append in enumerate(appends, start=1)
        for condition in append.conditions
        for item in condition.query
    ]
    return b"\1" + msgspec.json.encode(items) if items else None


def judged(batch: Sequence[Encoded], result: pq.abc.PGresult, lanes: int) -> Judged:
    """What the database said of a batch."""
    verdicts, head, at, firsts, counts = (result.get_value(0, column) for column in range(5))
    if verdicts is None or head is None or at is None:
        raise AssertionError("a batch without verdicts")
    said = packing.numbers(verdicts)
    if len(said) != len(batch):
        raise AssertionError(f"{len(said)} verdicts on {len(batch)} appends")
    position = before = int.from_bytes(head)
    recorded_at = _2000 + timedelta(microseconds=int.from_bytes(at, signed=True))
    answers: list[Verdict] = []
    for number, (encoded, verdict) in enumerate(zip(batch, said, strict=True)):
        match verdict:
            case 1:
                answers.append(Appended(_recorded(encoded.append, position + 1, recorded_at, lanes)))
                position += len(encoded.data)
            case 2:
                answers.append(Conflict())
            case 3 if firsts and counts:
                answers.append(Duplicate(packing.numbers(firsts)[number], packing.numbers(counts)[number]))
            case 4:
                answers.append(Mismatch())
            case _:
                raise AssertionError(f"no such verdict: {verdict}")
    return Judged(answers, before, position)


def _recorded(append: Append, first: int, recorded_at: datetime, lanes: int) -> tuple[Recorded, ...]:
    """The events as the database numbered them: positions from `first`, versions on from the tips."""
    versions: dict[str, int] = {}
    recorded = []
    for position, new in enumerate(append.events, start=first):
        stream = new.stream
        versions[stream] = versions.get(stream, append.tips[stream].version) + 1
        context, lane = _place_of(stream, lanes)
        recorded.append(
            Recorded(
                position,
                stream,
                versions[stream],
                new.event_id,
                context,
                lane,
                new.event,
                append.metadata,
                recorded_at,
            )
        )
    return tuple(recorded)


@lru_cache(REMEMBERED)
def _place_of(stream: str, lanes: int) -> tuple[str, int]:
    """Its context and lane."""
    return CONTEXTS[category_of(stream)], lane_of(stream, lanes)
