"""Events of the shop as the library passes them on: stored, and decoded with their envelope."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeGuard

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import (
    Cipher,
    Compressor,
    Mapper,
    Notification,
    NotSupportedError,
    ProgrammingError,
    StoredEvent,
    Transcoder,
)

from domain.envelope import Metadata, Recorded
from domain.values import Event
from runtime.codec import decode, decode_metadata, encode, encode_metadata


@dataclass(frozen=True)
class Kept(Notification):
    """A row of the log: the topic is the stored name of its event, the state its exact bytes.

    Under the log's own names, too.
    """

    event_id: str
    context: str
    lane: int
    metadata: bytes
    recorded_at: datetime

    @property
    def position(self) -> int:
        return self.id

    @property
    def stream(self) -> str:
        return str(self.originator_id)

    @property
    def version(self) -> int:
        return self.originator_version

    @property
    def type(self) -> str:
        return self.topic

    @property
    def data(self) -> bytes:
        return self.state


@dataclass(frozen=True)
class Draft(StoredEvent):
    """What is to become a row of the log."""

    event_id: str
    metadata: bytes


class Historic(Recorded):
    """An event of the log, under the names that the library has for its stream and version too."""

    __slots__ = ()

    @property
    def originator_id(self) -> str:
        return self.stream

    @property
    def originator_version(self) -> int:
        return self.version


@dataclass(frozen=True, slots=True)
class Fact:
    """An event that is to be recorded."""

    originator_id: str
    originator_version: int
    event_id: str
    event: Event
    metadata: Metadata


class _Enveloped(Protocol):
    originator_id: str
    originator_version: int
    event_id: str
    event: Event
    metadata: Metadata


class AuditMapper(Mapper[str]):
    """Knows the shop's events by their stored names: no module path is stored or resolved.

    The log keeps the bytes that its codec wrote, so there is neither a cipher nor a compressor.
    """

    def __init__(
        self,
        transcoder: Transcoder,
        compressor: Compressor | None = None,
        cipher: Cipher | None = None,
    ) -> None:
        if compressor or cipher:
            raise NotSupportedError("the log keeps the exact bytes of an event: no cipher, no compressor")
        super().__init__(transcoder)

    def to_domain_event(self, stored_event: StoredEvent) -> Historic:
        """`runtime.codec`'s errors; ProgrammingError for what is no row of the log."""
        if not isinstance(stored_event, Kept):
            raise ProgrammingError(f"{type(stored_event).__name__} is no row of the log")
        return Historic(
            stored_event.id,
            str(stored_event.originator_id),
            stored_event.originator_version,
            stored_event.event_id,
            stored_event.context,
            stored_event.lane,
            decode(stored_event.topic, stored_event.state),
            decode_metadata(stored_event.metadata),
            stored_event.recorded_at,
        )

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> Draft:
        """Of a `Fact` or a `Historic`. ProgrammingError for anything else, a snapshot say."""
        if not _is_enveloped(domain_event):
            raise ProgrammingError(f"{type(domain_event).__name__} is no event of the shop with its envelope")
        return Draft(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=domain_event.event.TYPE,
            state=encode(domain_event.event),
            event_id=domain_event.event_id,
            metadata=encode_metadata(domain_event.metadata),
        )


def _is_enveloped(event: object) -> TypeGuard[_Enveloped]:
    return isinstance(event, Fact | Historic)
