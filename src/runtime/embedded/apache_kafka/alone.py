"""`tallybook kafka`: one node in the foreground, for processes and tests that are started by hand."""

import logging
from pathlib import Path

from runtime.embedded.apache_kafka.node import ApacheKafka
from runtime.embedded.child import LOOPBACK
from runtime.home import Home
from runtime.settings import variable_of
from runtime.supervisor import locked, supervise

logger = logging.getLogger(__name__)


async def run_node(directory: Path, port: int) -> None:
    """Run until cancelled; its controller listens on the port after. Raises CannotStart."""
    home = Home(directory)
    with locked(home):
        node = ApacheKafka(directory=home.kafka, port=port, controller_port=port + 1, log=home.log("broker"))

        async def ready() -> None:
            logger.info(
                "Apache Kafka is up, data in %s\n  %s=%s:%d\nCtrl-C stops it.",
                *(directory, variable_of("kafka_bootstrap_servers"), LOOPBACK, port),
            )

        await supervise(home, (((await node.spec(),), ready),))
