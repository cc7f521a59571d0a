"""A batch of appends as the arrays that `log.append` takes: a stream stands once, the rest points at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from commands.ports import Append, Appended, Conflict, Duplicate, Mismatch, NewEvent, Verdict
from domain import CONTEXTS
from domain.envelope import Recorded, Tip
from domain.values import category_of
from runtime.codec import encode
from runtime.lanes import lane_of
from runtime.log import packing
from runtime.log.packing import Packed

CALL: Final[LiteralString] = """
select verdicts, firsts, counts, at from log.append(
    %(writer)s::uuid, %(generation)s::bigint,
    %(streams)b::text[], %(contexts)b::text[], %(lanes)b::smallint[],
    %(tip_counts)b::integer[], %(event_counts)b::integer[], %(digests)b::bytea[], %(fingerprints)b::bytea[],
    %(tip_streams)b::integer[], %(tip_versions)b::bigint[], %(tip_ids)b::uuid[],
    %(event_tips)b::integer[], %(event_ids)b::uuid[], %(event_types)b::text[],
    %(event_data)b::bytea[], %(event_metadata)b::bytea[]
)
"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An append and the bytes of its events; `size` is about what it has in a batch, in bytes."""

    append: Append
    data: list[bytes]
    metadata: bytes
    size: int

    @classmethod
    def of(cls, append: Append) -> "Encoded":
        """ValueError for an event that cannot be stored."""
        data = [encode(new.event) for new in append.events]
        metadata = encode(append.metadata)
        names = sum(map(len, append.tips))
        return cls(append, data, metadata, names + sum(map(len, data)) + len(metadata) * len(data))


def parameters_of(batch: Sequence[Encoded], lanes: int) -> dict[str, Packed]:
    streams: dict[str, int] = {}
    tip_streams: list[int] = []
    tips: list[Tip] = []
    event_tips: list[int] = []
    events: list[NewEvent] = []
    data: list[bytes] = []
    metadata: list[bytes] = []
    for encoded in batch:
        place: dict[str, int] = {}
        for stream, tip in encoded.append.tips.items():
            tip_streams.append(streams.setdefault(stream, len(streams) + 1))
            tips.append(tip)
            place[stream] = len(tips)
        for new in encoded.append.events:
            event_tips.append(place[new.stream])
            events.append(new)
            metadata.append(encoded.metadata)
        data += encoded.data
    return {
        "streams": packing.texts(streams),
        "contexts": packing.texts([CONTEXTS[category_of(stream)] for stream in streams]),
        "lanes": packing.smallints([lane_of(stream, lanes) for stream in streams]),
        "tip_counts": packing.integers([len(encoded.append.tips) for encoded in batch]),
        "event_counts": packing.integers([len(encoded.data) for encoded in batch]),
        "digests": packing.blobs([encoded.append.digest for encoded in batch]),
        "fingerprints": packing.blobs([encoded.append.fingerprint for encoded in batch]),
        "tip_streams": packing.integers(tip_streams),
        "tip_versions": packing.bigints([tip.version for tip in tips]),
        "tip_ids": packing.uuids([tip.event_id for tip in tips]),
        "event_tips": packing.integers(event_tips),
        "event_ids": packing.uuids([new.event_id for new in events]),
        "event_types": packing.texts([new.event.TYPE for new in events]),
        "event_data": packing.blobs(data),
        "event_metadata": packing.blobs(metadata),
    }


def verdicts_of(batch: Sequence[Encoded], row: Sequence[Any], lanes: int) -> list[Verdict]:
    """What the database said of each append, in order."""
    verdicts, firsts, counts, recorded_at = row
    if not len(verdicts) == len(firsts) == len(counts) == len(batch):
        raise AssertionError(f"{len(verdicts)} verdicts on {len(batch)} appends")
    said: list[Verdict] = []
    for encoded, verdict, first, count in zip(batch, verdicts, firsts, counts, strict=True):
        match verdict:
            case 1:
                said.append(Appended(_recorded(encoded.append, first, recorded_at, lanes)))
            case 2:
                said.append(Conflict())
            case 3:
                said.append(Duplicate(first, count))
            case 4:
                said.append(Mismatch())
            case _:
                raise AssertionError(f"no such verdict: {verdict}")
    return said


def _recorded(append: Append, first: int, recorded_at: datetime, lanes: int) -> tuple[Recorded, ...]:
    """The events as the database numbered them: positions from `first`, versions on from the tips."""
    versions: dict[str, int] = {}
    recorded = []
    for position, new in enumerate(append.events, start=first):
        versions[new.stream] = versions.get(new.stream, append.tips[new.stream].version) + 1
        recorded.append(
            Recorded(
                position,
                new.stream,
                versions[new.stream],
                new.event_id,
                CONTEXTS[category_of(new.stream)],
                lane_of(new.stream, lanes),
                new.event,
                append.metadata,
                recorded_at,
            )
        )
    return tuple(recorded)
