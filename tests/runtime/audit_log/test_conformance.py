"""The tests that `eventsourcing` has for whatever keeps its events, run on the log: every method of a case.

The recorders are those of `runtime.audit_log` behind an adapter (see there); positions are asked to be
contiguous. A method of the library that is optional is run too.
"""

import os
from collections.abc import Iterator
from unittest import TestCase

import pytest
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    TrackingRecorder,
)
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.tests import application, persistence
from eventsourcing.utils import Environment, get_topic
from tests.runtime.audit_log import adapter

from runtime.audit_log.factory import ROLE, URL

OWNER = "postgres"


class Log(TestCase):
    """An empty log, and the library's way to its recorders."""

    @pytest.fixture(autouse=True)
    def _of_the_log(self, empty_log: str) -> Iterator[None]:
        self.variables = {
            InfrastructureFactory.PERSISTENCE_MODULE: get_topic(adapter.Factory),
            URL: empty_log,
            ROLE: OWNER,
        }
        self.recorders = InfrastructureFactory.construct(self.variables)
        yield
        self.recorders.close()


class TestAggregateRecorder(Log, persistence.AggregateRecorderTestCase):
    def create_recorder(self) -> adapter.AdaptedAggregateRecorder:
        recorder = self.recorders.aggregate_recorder()
        assert isinstance(recorder, adapter.AdaptedAggregateRecorder)
        return recorder


class TestSnapshotRecorder(Log, persistence.AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return self.recorders.aggregate_recorder(purpose="snapshots")


class TestApplicationRecorder(Log, persistence.ApplicationRecorderTestCase):
    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = True

    def create_recorder(self) -> ApplicationRecorder:
        return self.recorders.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestTrackingRecorder(Log, persistence.TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return self.recorders.tracking_recorder()


class TestProcessRecorder(Log, persistence.ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        return self.recorders.process_recorder()


class TestNonInterleaving(Log, persistence.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return self.recorders.application_recorder()


class Tracked(PostgresTrackingRecorder):
    """A recorder that somebody else has made, named by its topic."""


class TestInfrastructureFactory(Log, persistence.InfrastructureFactoryTestCase):
    def setUp(self) -> None:
        self.env = Environment("TestCase", self.variables)
        super().setUp()

    def expected_factory_class(self) -> type[adapter.Factory]:
        return adapter.Factory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return adapter.AdaptedAggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return adapter.AdaptedApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return PostgresTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return Tracked

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return adapter.AdaptedProcessRecorder


class _InTheEnvironment(Log):
    """The library's applications find the log by the variables of the process."""

    @pytest.fixture(autouse=True)
    def _environment(self, _of_the_log: None, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.variables.items():
            monkeypatch.setitem(os.environ, name, value)


class TestExampleApplication(_InTheEnvironment, application.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(adapter.Factory)


@pytest.mark.filterwarnings("default")  # it counts the warnings that it provokes
class TestApplication(_InTheEnvironment, application.ApplicationTestCase):
    @pytest.mark.heavy  # 100 threads write to one aggregate until 25 versions of it have got through
    def test_check_aggregate_fastforwarding_nonblocking(self) -> None:
        super().test_check_aggregate_fastforwarding_nonblocking()


def cases_of(*modules: object) -> set[type[TestCase]]:
    """What they have for others to run: cases of recorders, of a factory, of an application."""
    return {
        case
        for module in modules
        for case in vars(module).values()
        if isinstance(case, type) and issubclass(case, TestCase) and case is not TestCase
    }


def test_every_case_of_the_library_is_run() -> None:
    """But for one: how JSON is made of Python's objects is nothing that a log could do otherwise."""
    run = {
        base for case in (*Log.__subclasses__(), *_InTheEnvironment.__subclasses__()) for base in case.__mro__
    }
    assert cases_of(persistence, application) - run == {persistence.TranscoderTestCase}
