"""History as auditors read it: through the library's recorder, mapper and repository."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import reduce
from typing import Any, Final, TypeVar, cast

from eventsourcing.application import Repository
from eventsourcing.persistence import ApplicationRecorder, EventStore, InfrastructureFactory, Mapper

from domain.values import Aggregate
from runtime.audit_log.factory import READER, ROLE, URL
from runtime.audit_log.mapper import Historic

PAGE_EVENTS: Final = 500
STRETCH: Final = 1_000_000
"""How far one query reads along at most, where it looks for types: a statement has a limited time."""
S = TypeVar("S")


class History:
    """One page of it is in memory at a time, however long it is. Synchronous: a door gives it a thread."""

    def __init__(self, recorder: ApplicationRecorder, mapper: Mapper[str]) -> None:
        self._recorder = recorder
        self._mapper = mapper

    @classmethod
    @contextmanager
    def open(cls, url: str, role: str = READER) -> Iterator["History"]:
        """Connects when something is read."""
        env = {InfrastructureFactory.PERSISTENCE_MODULE: "runtime.audit_log", URL: url, ROLE: role}
        with closing(InfrastructureFactory.construct(env)) as factory:
            yield cls(factory.application_recorder(), factory.mapper())

    def head(self) -> int:
        """The last position, 0 when the log is empty."""
        return self._recorder.max_notification_id() or 0

    def events(
        self, *, after: int = 0, upto: int | None = None, types: Sequence[str] = ()
    ) -> Iterator[Historic]:
        """In the order of the log, after one position, up to another (default: the head as reading begins).

        Of these stored names only, if any are given.
        """
        head = self.head()
        last = head if upto is None else min(head, upto)
        while after < last:
            stop = min(last, after + STRETCH)
            page = self._recorder.select_notifications(
                after, PAGE_EVENTS, stop, types, inclusive_of_start=False
            )
            yield from self._decoded(page)
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
