"""A batch of appends as the arrays that `log.append` takes: streams stand once, everything else points at them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, LiteralString

from commands.ports import Append, Appended, Conflict, Duplicate, Mismatch, Verdict
from domain import CONTEXTS
from domain.envelope import Recorded
from domain.values import category_of
from runtime.codec import encode
from runtime.lanes import lane_of

CALL: Final[LiteralString] = """
select verdicts, firsts, counts, at, head from log.append(
    %(writer)s::uuid, %(generation)s::bigint,
    %(streams)s::text[], %(contexts)s::text[], %(lanes)s::smallint[],
    %(tip_counts)s::integer[], %(event_counts)s::integer[], %(digests)s::bytea[], %(fingerprints)s::bytea[],
    %(tip_streams)s::integer[], %(tip_versions)s::bigint[], %(tip_ids)s::uuid[],
    %(event_tips)s::integer[], %(event_ids)s::uuid[], %(event_types)s::text[],
    %(event_data)b::bytea[], %(event_metadata)b::bytea[]
)
"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An append and the bytes of its events."""

    append: Append
    data: tuple[bytes, ...]
    metadata: bytes

    @classmethod
    def of(cls, append: Append) -> "Encoded":
        return cls(append, tuple(encode(new.event) for new in append.events), encode(append.metadata))

    @property
    def size(self) -> int:
        """Bytes of its events as they are stored."""
        return sum(map(len, self.data)) + len(self.metadata) * len(self.data)


@dataclass(slots=True)
class _Arrays:
    streams: dict[str, int] = field(default_factory=dict)
    tip_streams: list[int] = field(default_factory=list)
    tip_versions: list[int] = field(default_factory=list)
    tip_ids: list[str] = field(default_factory=list)
    event_tips: list[int] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    event_types: list[str] = field(default_factory=list)
    event_data: list[bytes] = field(default_factory=list)
    event_metadata: list[bytes] = field(default_factory=list)

    def add(self, encoded: Encoded) -> None:
        tip_of: dict[str, int] = {}
        for stream, tip in encoded.append.tips.items():
            self.tip_streams.append(self.streams.setdefault(stream, len(self.streams) + 1))
            self.tip_versions.append(tip.version)
            self.tip_ids.append(tip.event_id)
            tip_of[stream] = len(self.tip_streams)
        for new, data in zip(encoded.append.events, encoded.data, strict=True):
            self.event_tips.append(tip_of[new.stream])
            self.event_ids.append(new.event_id)
            self.event_types.append(new.event.TYPE)
            self.event_data.append(data)
            self.event_metadata.append(encoded.metadata)


def parameters_of(batch: Sequence[Encoded], lanes: int) -> dict[str, Any]:
    arrays = _Arrays()
    for encoded in batch:
        arrays.add(encoded)
    streams = list(arrays.streams)
    return {
        "streams": streams,
        "contexts": [CONTEXTS[category_of(stream)] for stream in streams],
        "lanes": [lane_of(stream, lanes) for stream in streams],
        "tip_counts": [len(encoded.append.tips) for encoded in batch],
        "event_counts": [len(encoded.append.events) for encoded in batch],
        "digests": [encoded.append.digest for encoded in batch],
        "fingerprints": [encoded.append.fingerprint for encoded in batch],
        "tip_streams": arrays.tip_streams,
        "tip_versions": arrays.tip_versions,
        "tip_ids": arrays.tip_ids,
        "event_tips": arrays.event_tips,
        "event_ids": arrays.event_ids,
        "event_types": arrays.event_types,
        "event_data": arrays.event_data,
        "event_metadata": arrays.event_metadata,
    }


def verdicts_of(batch: Sequence[Encoded], row: Sequence[Any], lanes: int) -> list[Verdict]:
    """What the database said of each append, in order."""
    verdicts, firsts, counts, recorded_at, _ = row
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
