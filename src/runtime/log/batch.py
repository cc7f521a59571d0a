"""A batch of appends as the arrays that `log.append` takes: a stream stands once, the rest points at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from commands.ports import Append, Appended, Conflict, Duplicate, Mismatch, Verdict
from domain import CONTEXTS
from domain.envelope import Recorded
from domain.values import category_of
from runtime.codec import encode
from runtime.lanes import lane_of
from runtime.log import packing
from runtime.log.packing import BIGINT, BYTEA, INTEGER, SMALLINT, TEXT, UUID, Packed, array, array_of

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
    """An append, and what of it can be packed before it is known who shares its batch."""

    append: Append
    digest: bytes
    fingerprint: bytes
    tip_versions: bytes
    tip_ids: bytes
    event_tips: tuple[int, ...]
    """Of each event, the place of its stream among the tips, from 0."""
    event_ids: bytes
    event_types: bytes
    data: bytes
    metadata: bytes

    @classmethod
    def of(cls, append: Append) -> "Encoded":
        """ValueError for an event that cannot be stored."""
        places = {stream: place for place, stream in enumerate(append.tips)}
        tips, events = append.tips.values(), append.events
        return cls(
            append,
            packing.element(append.digest),
            packing.element(append.fingerprint),
            packing.integers([tip.version for tip in tips], BIGINT[1]),
            packing.ids(tip.event_id for tip in tips),
            tuple(places[new.stream] for new in events),
            packing.ids(new.event_id for new in events),
            b"".join(packing.element(new.event.TYPE.encode()) for new in events),
            b"".join(packing.element(encode(new.event)) for new in events),
            packing.element(encode(append.metadata)) * len(events),
        )

    @property
    def size(self) -> int:
        """About as many bytes as it has in a batch."""
        return (
            sum(map(len, self.append.tips))
            + len(self.tip_versions)
            + len(self.tip_ids)
            + len(self.event_ids)
            + len(self.data)
            + len(self.metadata)
        )


def parameters_of(batch: Sequence[Encoded], lanes: int) -> dict[str, Packed]:
    streams: dict[str, int] = {}
    tip_streams: list[int] = []
    event_tips: list[int] = []
    for encoded in batch:
        first = len(tip_streams) + 1
        tip_streams.extend(streams.setdefault(stream, len(streams) + 1) for stream in encoded.append.tips)
        event_tips.extend(first + place for place in encoded.event_tips)
    tips, events, appends = len(tip_streams), len(event_tips), len(batch)
    contexts = (CONTEXTS[category_of(stream)] for stream in streams)
    return {
        "streams": array(TEXT, len(streams), (packing.element(stream.encode()) for stream in streams)),
        "contexts": array(TEXT, len(streams), (packing.element(context.encode()) for context in contexts)),
        "lanes": array_of(SMALLINT, [lane_of(stream, lanes) for stream in streams]),
        "tip_counts": array_of(INTEGER, [len(encoded.append.tips) for encoded in batch]),
        "event_counts": array_of(INTEGER, [len(encoded.append.events) for encoded in batch]),
        "digests": array(BYTEA, appends, (encoded.digest for encoded in batch)),
        "fingerprints": array(BYTEA, appends, (encoded.fingerprint for encoded in batch)),
        "tip_streams": array_of(INTEGER, tip_streams),
        "tip_versions": array(BIGINT[0], tips, (encoded.tip_versions for encoded in batch)),
        "tip_ids": array(UUID, tips, (encoded.tip_ids for encoded in batch)),
        "event_tips": array_of(INTEGER, event_tips),
        "event_ids": array(UUID, events, (encoded.event_ids for encoded in batch)),
        "event_types": array(TEXT, events, (encoded.event_types for encoded in batch)),
        "event_data": array(BYTEA, events, (encoded.data for encoded in batch)),
        "event_metadata": array(BYTEA, events, (encoded.metadata for encoded in batch)),
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
