"""What is appended to a log to try it."""

import itertools
from datetime import UTC, datetime
from uuid import UUID

from commands.ports import Append, NewEvent
from domain.envelope import NOTHING, Actor, Metadata, Recorded, Tip
from domain.location import LocationRegistered
from runtime.ids import Uuid7s

T0 = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
numbers = itertools.count(1)


class Appends:
    """Makes appends. Streams are locations: any name will do for a log."""

    def __init__(self) -> None:
        self.ids = Uuid7s()

    def metadata(self) -> Metadata:
        return Metadata(T0, Actor("staff", "s1"), self.ids.new(), self.ids.new(), None, "ab" * 16)

    def digest(self) -> bytes:
        return UUID(self.ids.new()).bytes

    def of(
        self,
        *streams: str,
        tips: dict[str, Tip] | None = None,
        digest: bytes | None = None,
        fingerprint: bytes | None = None,
    ) -> Append:
        """An event to each of the streams, in order; `tips` (default: none exists), more than those read."""
        known = dict.fromkeys(streams, NOTHING) | (tips or {})
        events = [
            NewEvent(
                stream, self.ids.new(), LocationRegistered(stream.partition("-")[2], f"Lager ä {n}", "DE")
            )
            for n, stream in enumerate(streams)
        ]
        if digest is not None and fingerprint is None:
            fingerprint = b"f" * 32
        return Append(known, events, self.metadata(), digest, fingerprint)


def stream(name: str = "") -> str:
    return f"location-{name or 'L'}{next(numbers)}"


def tip(recorded: Recorded) -> Tip:
    return Tip(recorded.version, recorded.event_id)
