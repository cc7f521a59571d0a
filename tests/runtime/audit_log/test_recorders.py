"""A shop's log as the library sees it: written through `log.append`, followed, and never half tracked."""

import ast
import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from queue import Queue
from typing import Any

import psycopg
import pytest
from eventsourcing.application import Application
from eventsourcing.persistence import (
    InfrastructureFactory,
    IntegrityError,
    Notification,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
)
from log_tools import LOCK, T0, UNLOCK, Appends
from tree import SRC

from commands.ports import Appended
from domain.envelope import Actor, Metadata, Recorded
from domain.location import LocationRegistered
from runtime.audit_log import AuditLogFactory, subscription
from runtime.audit_log.factory import ROLE, URL
from runtime.audit_log.mapper import Draft, Fact
from runtime.ids import Uuid7s
from runtime.log import reading
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader

OWNER = "postgres"
WAIT_S = 10.0
ids = Uuid7s()


def environment(url: str, role: str = OWNER) -> dict[str, str]:
    return {InfrastructureFactory.PERSISTENCE_MODULE: "runtime.audit_log", URL: url, ROLE: role}


def fact(name: str, version: int = 1) -> Fact:
    metadata = Metadata(T0, Actor("auditor", "a1"), ids.new(), ids.new())
    return Fact(f"location-{name}", version, ids.new(), LocationRegistered(name, "Lager", "DE"), metadata)


@pytest.fixture
def factory(empty_log: str) -> Iterator[AuditLogFactory]:
    made = InfrastructureFactory.construct(environment(empty_log))
    assert isinstance(made, AuditLogFactory)
    with closing(made):
        yield made


@pytest.fixture
def owner(empty_log: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_log, autocommit=True) as connection:
        yield connection


def drafts(factory: AuditLogFactory, *facts: Fact) -> list[Draft]:
    return [factory.mapper().to_stored_event(one) for one in facts]  # type: ignore[misc] # ours makes drafts


def shop_reads(url: str) -> list[Recorded]:
    async def read() -> list[Recorded]:
        async with LogReader.open(url) as reader:
            return [reader.decode(stored) for stored in await reader.read(0)]

    return asyncio.run(read())


def shop_appends(url: str, *streams: str) -> None:
    async def append() -> None:
        async with PostgresLog.open(url) as log:
            assert isinstance(await log.append(Appends().of(*streams)), Appended)

    asyncio.run(append())


def until(owner: psycopg.Connection[Any], found: str) -> None:
    """Asks until there is a row."""
    deadline = time.monotonic() + WAIT_S
    while not owner.execute(found.encode()).fetchall():
        assert time.monotonic() < deadline, found


def test_an_application_of_the_library_replays_a_shop(empty_log: str) -> None:
    shop_appends(empty_log, "location-A", "location-B", "location-A")
    with closing(Application[str](environment(empty_log, "tallybook_reader"))) as application:
        repository: Any = application.repository  # its types want an aggregate of the library's own kind
        names = repository.get(
            "location-A", projector_func=lambda _, events: [told.event.name for told in events]
        )
        section = application.notification_log["1,10"]
    assert names == ["Lager ä 0", "Lager ä 2"]
    assert [(item.id, item.topic) for item in section.items] == [
        (position, LocationRegistered.TYPE) for position in (1, 2, 3)
    ]


def test_what_the_library_writes_is_as_if_the_shop_had(factory: AuditLogFactory, empty_log: str) -> None:
    one, two, three = fact("A"), fact("B"), fact("A", 2)
    assert factory.application_recorder().insert_events(drafts(factory, one, two, three)) == [1, 2, 3]
    shop_appends(empty_log, "location-C")
    read = shop_reads(empty_log)
    assert [(event.position, event.stream, event.version) for event in read] == [
        (1, "location-A", 1),
        (2, "location-B", 1),
        (3, "location-A", 2),
        (4, "location-C", 1),
    ]
    assert [(event.event_id, event.event, event.metadata) for event in read[:3]] == [
        (one.event_id, one.event, one.metadata),
        (two.event_id, two.event, two.metadata),
        (three.event_id, three.event, three.metadata),
    ]
    assert {event.context for event in read} == {"inventory"}


def test_the_order_is_that_of_positions_whatever_the_ids(factory: AuditLogFactory) -> None:
    recorder = factory.application_recorder()
    given = drafts(factory, *(fact("A", version) for version in range(1, 6)))
    backwards = [
        replace(draft, event_id=later) for draft, later in zip(given, later_first(given), strict=True)
    ]
    recorder.insert_events(backwards)
    assert [kept.id for kept in recorder.select_notifications(None, 10)] == [1, 2, 3, 4, 5]
    kept = recorder.select_events("location-A", desc=True, limit=2)
    assert [stored.originator_version for stored in kept] == [5, 4]


def later_first(given: list[Draft]) -> list[str]:
    return sorted((draft.event_id for draft in given), reverse=True)


def test_versions_that_do_not_follow_are_conflicts(factory: AuditLogFactory, empty_log: str) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events(drafts(factory, fact("A"), fact("A", 2)))
    for wrong in (
        [fact("A")],
        [fact("A", 2)],
        [fact("A", 4)],
        [fact("A", 0)],
        [fact("B"), fact("B")],
        [fact("B"), fact("A", 2)],
    ):
        with pytest.raises(IntegrityError):
            recorder.insert_events(drafts(factory, *wrong))
    assert len(shop_reads(empty_log)) == 2


def test_an_event_id_is_recorded_once(factory: AuditLogFactory, empty_log: str) -> None:
    recorder = factory.application_recorder()
    [draft] = drafts(factory, fact("A"))
    recorder.insert_events([draft])
    with pytest.raises(IntegrityError):
        recorder.insert_events([Draft("location-B", 1, draft.topic, draft.state, draft.event_id, b"{}")])
    assert len(shop_reads(empty_log)) == 1


def test_only_events_of_the_shop_are_recorded(factory: AuditLogFactory, empty_log: str) -> None:
    recorder = factory.application_recorder()
    with pytest.raises(ProgrammingError, match="no event id"):
        recorder.insert_events([StoredEvent("location-A", 1, "topic", b"{}")])
    with pytest.raises(ProgrammingError, match="'conformance-A' is not the name of a stream"):
        recorder.insert_events([Draft("conformance-A", 1, "topic", b"{}", ids.new(), b"{}")])
    assert shop_reads(empty_log) == []


def test_events_and_tracking_are_recorded_together_or_not_at_all(
    factory: AuditLogFactory, empty_log: str
) -> None:
    recorder = factory.process_recorder()
    assert recorder.insert_events(drafts(factory, fact("A")), tracking=Tracking("shop", 1)) == [1]
    with pytest.raises(IntegrityError):  # the events conflict
        recorder.insert_events(drafts(factory, fact("A")), tracking=Tracking("shop", 2))
    assert recorder.max_tracking_id("shop") == 1
    with pytest.raises(IntegrityError):  # the tracking does
        recorder.insert_events(drafts(factory, fact("B")), tracking=Tracking("shop", 1))
    assert [event.stream for event in shop_reads(empty_log)] == ["location-A"]


def test_an_append_whose_connection_breaks_is_not_sent_again(
    factory: AuditLogFactory, empty_log: str, owner: psycopg.Connection[Any]
) -> None:
    recorder = factory.process_recorder()
    recorder.insert_events(drafts(factory, fact("A")), tracking=Tracking("shop", 1))
    owner.execute(LOCK)
    told: Queue[object] = Queue()

    def insert() -> None:
        try:
            told.put(recorder.insert_events(drafts(factory, fact("B")), tracking=Tracking("shop", 2)))
        except OperationalError as lost:
            told.put(lost)

    inserting = threading.Thread(target=insert)
    inserting.start()
    until(
        owner,
        "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and not granted",
    )
    assert isinstance(told.get(timeout=WAIT_S), OperationalError)
    owner.execute(UNLOCK)
    inserting.join()
    assert [event.stream for event in shop_reads(empty_log)] == ["location-A"]
    assert recorder.max_tracking_id("shop") == 1


@pytest.fixture
def followed(factory: AuditLogFactory) -> Iterator[Callable[[], Notification]]:
    """What a subscription tells next, from the first event on."""
    with factory.application_recorder().subscribe(gt=0) as following:
        yield lambda: next_of(following)


def next_of(following: Subscription[Any]) -> Notification:
    told: Queue[Notification] = Queue()
    threading.Thread(target=lambda: told.put(next(following)), daemon=True).start()
    return told.get(timeout=WAIT_S)


def test_a_subscription_needs_no_notification(
    followed: Callable[[], Notification], factory: AuditLogFactory
) -> None:
    recorder = factory.application_recorder()
    for version in (1, 2, 3):
        recorder.insert_events(drafts(factory, fact("A", version)))  # which notifies nobody
        assert (followed().id, version) == (version, version)


def test_a_subscription_is_woken_by_the_shop(
    monkeypatch: pytest.MonkeyPatch, factory: AuditLogFactory, owner: psycopg.Connection[Any]
) -> None:
    monkeypatch.setattr(subscription, "POLL_S", 60.0)
    recorder = factory.application_recorder()
    with recorder.subscribe(gt=0) as following:
        until(
            owner,
            "select 1 from pg_stat_activity where query like 'select max(position)%' and state = 'idle'",
        )
        recorder.insert_events(drafts(factory, fact("A")))
        wake = f"select pg_notify('{reading.CHANNEL}', '')"
        owner.execute(wake.encode())
        assert next_of(following).id == 1
        following.stop()
        owner.execute(wake.encode())


def test_a_subscription_outlives_its_connections(
    followed: Callable[[], Notification], factory: AuditLogFactory, owner: psycopg.Connection[Any]
) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events(drafts(factory, fact("A")))
    assert followed().id == 1
    owner.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    recorder.insert_events(drafts(factory, fact("A", 2)))
    assert followed().id == 2


def test_the_channel_is_the_one_that_writers_notify() -> None:
    assert subscription.CHANNEL == reading.CHANNEL


def test_the_environment_says_which_log() -> None:
    with pytest.raises(OSError, match="AUDIT_LOG_URL is not set"):
        InfrastructureFactory.construct({InfrastructureFactory.PERSISTENCE_MODULE: "runtime.audit_log"})


def imported(source: str) -> set[str]:
    """The modules that it names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=str(module), names=names):
                found |= {module, *(f"{module}.{name.name}" for name in names)}
            case _:
                pass
    return found


def shared_with_the_writers(source: str) -> set[str]:
    return {name for name in imported(source) if name == "runtime.log" or name.startswith("runtime.log.")}


def test_auditors_share_no_code_with_the_log_of_the_writers() -> None:
    for path in sorted((SRC / "runtime" / "audit_log").glob("*.py")):
        assert shared_with_the_writers(path.read_text()) == set(), path
    assert shared_with_the_writers("from runtime import log") == {"runtime.log"}
    assert shared_with_the_writers("import runtime.log.reading") == {"runtime.log.reading"}
