"""How an application of the library finds the log: by the variables of its environment."""

import contextlib
from typing import Any, ClassVar, Final, Literal, TypeVar, cast

from eventsourcing.persistence import (
    AggregateRecorder,
    InfrastructureFactory,
    Mapper,
    ProcessRecorder,
    Transcoder,
)
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresRecorder, PostgresTrackingRecorder
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool
from psycopg.sql import SQL, Identifier

from runtime.audit_log.datastore import WAIT_S, AuditDatastore
from runtime.audit_log.mapper import AuditMapper
from runtime.audit_log.recorders import (
    AuditAggregateRecorder,
    AuditApplicationRecorder,
    AuditProcessRecorder,
)

URL: Final = "AUDIT_LOG_URL"
ROLE: Final = "AUDIT_LOG_ROLE"
"""The one that only reads is the default. Who writes and tracks needs one that may do so."""
SCHEMA: Final = "AUDIT_LOG_SCHEMA"
WAIT: Final = "AUDIT_LOG_WAIT_S"
"""How long a database that is away is waited for."""
READER: Final = "tallybook_reader"
CREATE_TABLE: Final = "CREATE_TABLE"
EVENTS: Final = "events"

_Recorder = TypeVar("_Recorder", bound=PostgresRecorder)


class AuditLogFactory(InfrastructureFactory[PostgresTrackingRecorder]):
    """Recorders of one log. OSError where the environment does not say which.

    Tables for tracking and for what is no event (snapshots) are made when a recorder for them is, in a schema
    of their own, unless CREATE_TABLE says no.
    """

    mapper_class: ClassVar[type[Mapper[Any]]] = AuditMapper
    aggregate_recorder_class: ClassVar[type[AuditAggregateRecorder]] = AuditAggregateRecorder
    application_recorder_class: ClassVar[type[AuditApplicationRecorder]] = AuditApplicationRecorder
    tracking_recorder_class: ClassVar[type[PostgresTrackingRecorder]] = PostgresTrackingRecorder
    process_recorder_class: ClassVar[type[AuditProcessRecorder]] = AuditProcessRecorder
    originator_id_type: ClassVar[Literal["uuid", "text"]] = "text"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        url = self.env.get(URL)
        if not url:
            raise OSError(f"{URL} is not set: the URL of the log's database")
        self.datastore = AuditDatastore(
            url,
            self.env.get(ROLE) or READER,
            schema=self.env.get(SCHEMA) or "audit_log",
            originator_id_type=self.originator_id_type,
            wait_s=float(self.env.get(WAIT) or WAIT_S),
        )

    def mapper(
        self,
        transcoder: Transcoder | None = None,
        mapper_class: type[Mapper[Any]] | None = None,
    ) -> Mapper[Any]:
        if mapper_class is None and not self.env.get(self.MAPPER_TOPIC):
            mapper_class = self.mapper_class
        return super().mapper(transcoder, mapper_class)

    def aggregate_recorder(self, purpose: str = EVENTS) -> AggregateRecorder:
        if purpose == EVENTS:
            return self.aggregate_recorder_class(self.datastore)
        recorder = PostgresAggregateRecorder(self.datastore, events_table_name=self._table("stored", purpose))
        return self._with_table(recorder)

    def application_recorder(self) -> AuditApplicationRecorder:
        return self.application_recorder_class(self.datastore)

    def tracking_recorder(
        self, tracking_recorder_class: type[PostgresTrackingRecorder] | None = None
    ) -> PostgresTrackingRecorder:
        topic = self.env.get(self.TRACKING_RECORDER_TOPIC)
        wanted = tracking_recorder_class or (resolve_topic(topic) if topic else self.tracking_recorder_class)
        recorder = wanted(self.datastore, tracking_table_name=self._table("notification", "tracking"))
        return self._with_table(cast("PostgresTrackingRecorder", recorder))

    def process_recorder(self) -> ProcessRecorder:
        recorder = self.process_recorder_class(
            self.datastore, tracking_table_name=self._table("notification", "tracking")
        )
        return self._with_table(recorder)

    def _table(self, prefix: str, purpose: str) -> str:
        """Named as the library names its own: after the application, where that has a name."""
        return f"{self.env.name.lower() or prefix}_{purpose}"

    def _with_table(self, recorder: _Recorder) -> _Recorder:
        if strtobool(self.env.get(CREATE_TABLE) or "yes"):
            with self.datastore.cursor() as cursor:
                cursor.execute(
                    SQL("create schema if not exists {}").format(Identifier(self.datastore.schema))
                )
            recorder.create_table()
        return recorder

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # where the environment was not enough
            self.datastore.close()
