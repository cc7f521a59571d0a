"""What the audit door needs of the log, and of an index of it."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class HistoryEvent(Protocol):
    """An event as it is stored: `data` and `metadata` are the exact bytes, both JSON."""

    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def context(self) -> str: ...
    @property
    def lane(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def metadata(self) -> bytes: ...
    @property
    def recorded_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Filter:
    """All that are said must hold. `actor`: its type and id."""

    context: str | None = None
    category: str | None = None
    type: str | None = None
    stream: str | None = None
    actor: tuple[str, str] | None = None
    correlation: str | None = None

    def takes(self, event: HistoryEvent) -> bool:
        if self.context not in {None, event.context} or self.type not in {None, event.type}:
            return False
        if self.category not in {None, event.stream.partition("-")[0]}:
            return False
        if self.stream not in {None, event.stream}:
            return False
        if self.actor is None and self.correlation is None:
            return True
        metadata = json.loads(event.metadata)
        actor = metadata["actor"]["type"], metadata["actor"]["id"]
        return self.actor in {None, actor} and self.correlation in {None, metadata["correlation_id"]}


class History(Protocol):
    async def head(self) -> int:
        """The last position, 0 when there is none."""
        ...

    async def position_at(self, at: datetime) -> int:
        """Of the last event recorded until then, 0 before the first."""
        ...

    async def read(self, after: int, limit: int) -> Sequence[HistoryEvent]:
        """In order of position."""
        ...

    async def read_stream(self, stream: str, *, after_version: int, limit: int) -> Sequence[HistoryEvent]:
        """In order of version."""
        ...

    async def read_context(
        self, context: str, *, after: int, upto: int, limit: int
    ) -> Sequence[HistoryEvent]:
        """After one position, up to another, in order of position."""
        ...

    async def read_positions(self, positions: Sequence[int]) -> Sequence[HistoryEvent]:
        """Those that are there, in order of position."""
        ...

    async def event(self, event_id: str) -> HistoryEvent | None: ...

    def subscribe(self, after: int, limit: int) -> AsyncGenerator[Sequence[HistoryEvent]]:
        """Batches of events after a position, none of them empty, for ever."""
        ...


class Index(Protocol):
    """Where events may be found faster than by reading the log along."""

    async def positions(self, wanted: Filter, *, after: int, upto: int, limit: int) -> Sequence[int] | None:
        """Of the first `limit` events after one position, up to another, in order.

        By category, type, actor and correlation; there may be some that the filter does not take. None where
        the index has not come up to there, or cannot be asked.
        """
        ...
