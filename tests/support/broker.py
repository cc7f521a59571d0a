"""A broker that a test may kill, and start again without its memory."""

import signal
from dataclasses import replace
from pathlib import Path

from runtime.embedded.broker import broker_spec
from runtime.embedded.child import Child

START_SECONDS = 20.0


class OwnBroker:
    def __init__(self, port: int, log: Path) -> None:
        self.servers = f"127.0.0.1:{port}"
        self._spec = replace(broker_spec(port, log), stop_signal=signal.SIGKILL)
        self._child: Child | None = None

    async def start(self) -> None:
        self._child = Child(self._spec)
        await self._child.start()
        await self._child.wait_ready(START_SECONDS)

    async def kill(self) -> None:
        if self._child:
            await self._child.stop()
        self._child = None
