"""What the audit door needs of the log."""

from collections.abc import AsyncGenerator, Sequence
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

    async def event(self, event_id: str) -> HistoryEvent | None: ...

    def subscribe(self, after: int, limit: int) -> AsyncGenerator[Sequence[HistoryEvent]]:
        """Batches of events after a position, none of them empty, for ever."""
        ...
