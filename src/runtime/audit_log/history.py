"""History as auditors read it: through the library's recorder, mapper and repository."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import reduce
from typing import Any, Final, TypeVar, cast

from eventsourcing.application import Repository
from eventsourcing.persistence import EventStore, Mapper

from domain.envelope import Mark
from domain.values import Aggregate
from runtime.audit_log.datastore import WAIT_S, AuditDatastore
from runtime.audit_log.factory import READER, ROLE, URL, WAIT, AuditLogFactory
from runtime.audit_log.mapper import Historic, Kept
from runtime.audit_log.recorders import AuditApplicationRecorder
from runtime.audit_log.subscription import Watch
from runtime.process import CannotStart

PAGE_EVENTS: Final = 500
STRETCH: Final = 1_000_000
"""How far one query reads along at most, where it looks for types: a statement has a limited time."""
S = TypeVar("S")


class NoSuchRange(CannotStart):
    """The range is not one of the log, or ends before it begins."""


class History:
    """One page of it is in memory at a time, however long it is. Synchronous: a door gives it threads.

    Events are told decoded, or, by what is named `read`, as they are stored. Raises the library's
    OperationalError or InterfaceError when the database is away.
    """

    def __init__(self, recorder: AuditApplicationRecorder, mapper: Mapper[str]) -> None:
        self._recorder = recorder
        self._mapper = mapper

    @classmethod
    @contextmanager
    def open(cls, url: str, role: str = READER, *, wait_s: float = WAIT_S) -> Iterator["History"]:
        """Connects when something is read, and waits so long for a database that is away."""
        with closing(AuditLogFactory({URL: url, ROLE: role, WAIT: str(wait_s)})) as factory:
            yield cls(factory.application_recorder(), factory.mapper())

    def head(self) -> int:
        """The last position, 0 when the log is empty."""
        return self._recorder.max_notification_id() or 0

    def end(self, asked: int | None) -> int:
        """The position asked for, the head if none. Raises NoSuchRange beyond the head."""
        head = self.head()
        if asked is not None and asked > head:
            raise NoSuchRange(f"the log ends at position {head}")
        return head if asked is None else asked

    def incarnation(self) -> str:
        return self._recorder.incarnation()

    def heads(self, upto: int) -> Mapping[tuple[str, int], Mark]:
        """The last event of each (context, lane) up to a position."""
        return self._recorder.heads(upto)

    def position_at(self, at: datetime) -> int:
        """Of the last event recorded until then, 0 before the first: recorded_at grows with the position."""
        before, after = 0, self.head() + 1
        while after - before > 1:
            middle = (before + after) // 2
            [kept] = self.read(middle - 1, 1)
            before, after = (middle, after) if kept.recorded_at <= at else (before, middle)
        return before

    def read(self, after: int, limit: int) -> Sequence[Kept]:
        events = self._recorder.select_notifications(after, limit, inclusive_of_start=False)
        return cast("Sequence[Kept]", events)

    def read_stream(self, stream: str, *, after_version: int, limit: int) -> Sequence[Kept]:
        events = self._recorder.select_events(stream, gt=after_version, limit=limit)
        return cast("Sequence[Kept]", events)

    def read_context(self, context: str, *, after: int, upto: int, limit: int) -> Sequence[Kept]:
        """After one position, up to another."""
        return self._recorder.select_context(context, gt=after, lte=upto, limit=limit)

    def read_positions(self, positions: Sequence[int]) -> Sequence[Kept]:
        return self._recorder.select_positions(positions)

    def event(self, event_id: str) -> Kept | None:
        return self._recorder.select_event(event_id)

    def watch(self, grown: Callable[[], object]) -> Watch:
        """To be started, and stopped."""
        return Watch(cast("AuditDatastore", self._recorder.datastore), grown)

    def events(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        types: Sequence[str] = (),
        wanted: Callable[[Kept], bool] | None = None,
    ) -> Iterator[Historic]:
        """In the order of the log, after one position, up to another (default: the head as reading begins).

        Of these stored names only, if any are given; and of those that are wanted, which are decoded only
        then.
        """
        head = self.head()
        last = head if upto is None else min(head, upto)
        while after < last:
            stop = min(last, after + STRETCH)
            page = self._recorder.select_notifications(
                after, PAGE_EVENTS, stop, types, inclusive_of_start=False
            )
            yield from self._decoded(filter(wanted, cast("Sequence[Kept]", page)) if wanted else page)
            after = page[-1].id if len(page) == PAGE_EVENTS else stop

    def of_stream(self, stream: str, *, after_version: int = 0) -> Iterator[Historic]:
        """In order of version."""
        while page := self._recorder.select_events(stream, gt=after_version, limit=PAGE_EVENTS):
            yield from self._decoded(page)
            after_version = page[-1].originator_version

    def state_of(self, aggregate: Aggregate[S, Any], stream: str, *, version: int | None = None) -> S:
        """As of a version (default: the last), folded by the library's repository.

        The repository reads a stream at once: this takes memory with the stream's length.
        """

        def fold(_: S | None, events: Iterable[Historic]) -> S:
            return reduce(aggregate.evolve, (historic.event for historic in events), aggregate.initial)

        repository: Repository[str] = Repository(EventStore(self._mapper, self._recorder))
        return cast("S", repository.get(stream, version=version, projector_func=cast("Any", fold)))

    def _decoded(self, page: Iterable[Any]) -> Iterator[Historic]:
        return (cast("Historic", self._mapper.to_domain_event(stored)) for stored in page)
