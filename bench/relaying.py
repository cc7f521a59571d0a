"""`tallybook relay`, a process as in any house, publishing a backlog.

Rates are those from the first move of its checkpoint to the last one, so what it takes to start and to make
the topics is not in them.
"""

import os
import subprocess
import time
from dataclasses import dataclass
from typing import Final

import psycopg

from bench.house import CLI
from bench.processes import peak_mb
from runtime.settings import PREFIX, Settings, environment_of

LIMIT_S: Final = 300.0
LOOK_S: Final = 0.01
STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Relayed:
    """Messages a second, and the most that was resident."""

    rate: float
    peak_mb: float


def relayed(settings: Settings, owner_url: str, events: int) -> Relayed:
    """All of the log, to topics that are not there yet. RuntimeError if that takes too long."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("delete from relay.checkpoint")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            **environment_of(settings),
        }
        relay = subprocess.Popen([*CLI, "relay"], env=environment)  # noqa: S603 - our own
        try:
            rate = _rate(owner, events)
            return Relayed(rate, peak_mb(relay.pid))
        finally:
            relay.terminate()
            try:
                relay.wait(STOP_S)
            finally:
                relay.kill()
                relay.wait()


def _rate(owner: psycopg.Connection, events: int) -> float:
    deadline = time.monotonic() + LIMIT_S
    first, began = 0, 0.0
    while (now := time.monotonic()) < deadline:
        found = owner.execute("select position from relay.checkpoint").fetchone()
        position = found[0] if found else 0
        if position and not first:
            first, began = position, now
        if position == events:
            if position == first:
                raise RuntimeError("all was published before the second look: there is no time to divide by")
            return float((position - first) / (now - began))
        time.sleep(LOOK_S)
    raise RuntimeError(f"the relay did not publish {events} events in {LIMIT_S:.0f} s")
