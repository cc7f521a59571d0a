"""One node of Apache Kafka, broker and controller in one process, on loopback; its data outlive it.

It is started as it was left, also after a kill -9. What is in its topics may still be lost, with the machine
or with the directory: the log is the truth.
"""

import asyncio
import base64
import logging
import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from uuid_utils import uuid7

from runtime.embedded.apache_kafka import jars
from runtime.embedded.child import LOOPBACK, ChildFailed, ChildSpec, require_free

logger = logging.getLogger(__name__)

HEAP: Final = "512m"
FRUGAL: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""The second compiler doubles what the node takes in its first minute under load; later nothing is gained."""
FORMAT_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 2.0
STOP_SECONDS: Final = 5.0
"""Half a second is usual; it starts after a kill, too."""
UNFIT: Final = frozenset(",\\")
"""A list of directories is divided by the one, a line of properties continued by the other."""
API_VERSIONS: Final = 18
"""The request that every client begins with. It is answered once the controller has let the broker in."""
CORRELATION: Final = 0x7A11
ANSWER: Final = struct.Struct(">iih")
"""How an answer begins: its length, the request's correlation, an error or 0."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        # The relay makes the topics, with as many partitions as the log has lanes.
        "auto.create.topics.enable": "false",
        # There is nobody to replicate to; as they come, these want three brokers.
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Fifty as it comes, each with files that a start opens; all would be led by this node.
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        # A group's first member need not wait 3 s for the others: they join as they come.
        "group.initial.rebalance.delay.ms": "0",
        # A node that was killed is let in again only when its old session has ended: 9 s as it comes.
        "broker.heartbeat.interval.ms": "250",
        "broker.session.timeout.ms": "1000",
        # When it writes to disk is left to the system, as it comes: what a crash of the machine takes from
        # the topics, readers take from the log. For the same reason little is kept: a day, at most 128 MiB a
        # partition with the segment that is written; a reader further behind has the log.
        "log.segment.bytes": str(32 * 1024 * 1024),
        "log.retention.bytes": str(96 * 1024 * 1024),
        "log.retention.hours": "24",
        # Of the heap, for compacting committed offsets: 128 MiB as it comes.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApacheKafka:
    """A node whose files are below `directory`, which is its own."""

    directory: Path
    port: int
    controller_port: int
    log: Path

    @property
    def data(self) -> Path:
        return self.directory / "data"

    async def spec(self) -> ChildSpec:
        """Sees that Java and the jars are there, which may take minutes once. Raises ApacheKafkaUnusable."""
        if not str(self.directory).isascii() or set(str(self.directory)) & UNFIT:
            raise jars.ApacheKafkaUnusable(
                f"Apache Kafka cannot keep its data in {self.directory}: it takes ASCII without comma and "
                "backslash only"
            )
        java, classpath = await jars.java(), f"{await jars.jars()}/*"
        properties = self.directory / "server.properties"
        return ChildSpec(
            name="broker",
            command=(
                *(java, f"-Xmx{HEAP}", "-XX:+ExitOnOutOfMemoryError", *FRUGAL),
                *("-cp", classpath, "kafka.Kafka", str(properties)),
            ),
            log=self.log,
            port=self.port,
            ready=partial(answers, self.port),
            before_start=partial(self._before_start, java, classpath, properties),
            stop_seconds=STOP_SECONDS,
        )

    async def _before_start(self, java: str, classpath: str, properties: Path) -> None:
        require_free("the broker's controller", LOOPBACK, self.controller_port)  # it would end without a word
        if self._prepare(properties):
            await self._format(java, classpath)

    def _prepare(self, properties: Path) -> bool:
        """Whether there are no data yet."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        properties.write_text(self._properties(self.data))
        return not self.data.exists()

    async def _format(self, java: str, classpath: str) -> None:
        """Elsewhere first: a directory of the right name is complete. Raises ChildFailed."""
        logger.info("formatting the storage of Apache Kafka in %s", self.directory)
        attempt, properties = self.directory / "data.new", self.directory / "format.properties"
        shutil.rmtree(attempt, ignore_errors=True)  # of an attempt that was interrupted
        properties.write_text(self._properties(attempt))
        code, told = await jars.run(
            *(java, "-cp", classpath, "kafka.tools.StorageTool", "format"),
            *("--cluster-id", _cluster_id(), "--config", str(properties)),
            seconds=FORMAT_SECONDS,
        )
        if code != 0:
            raise ChildFailed(f"Apache Kafka could not format {attempt}:\n{told.strip()}")
        properties.unlink()
        attempt.rename(self.data)

    def _properties(self, data: Path) -> str:
        own = {
            # The voter is named here and not found in the data: both ports may be others the next time.
            "controller.quorum.voters": f"1@{LOOPBACK}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "log.dirs": str(data),
        }
        return "".join(f"{name}={value}\n" for name, value in {**SETTINGS, **own}.items())


def _cluster_id() -> str:
    """As Kafka writes its ids; the first bits of a UUIDv7 are zero, so it does not look like an option."""
    return base64.urlsafe_b64encode(uuid7().bytes).decode().rstrip("=")


async def answers(port: int) -> bool:
    """Whether a broker of Kafka answers a request there, and without an error."""
    return await asyncio.to_thread(_answers, port)  # asyncio leaves sockets of refused connections open


def _answers(port: int) -> bool:
    request = struct.pack(">hhih", API_VERSIONS, 0, CORRELATION, -1)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=PROBE_SECONDS) as broker:
            broker.sendall(struct.pack(">i", len(request)) + request)
            with broker.makefile("rb") as answer:
                head = answer.read(ANSWER.size)
    except OSError:
        return False
    if len(head) < ANSWER.size:
        return False
    _, correlation, error = ANSWER.unpack(head)
    return (correlation, error) == (CORRELATION, 0)
