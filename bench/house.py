"""A whole house, and the commands beside it, each a process of its own."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.processes import Used, used_by_house
from runtime.embedded.child import LOOPBACK
from runtime.home import Home
from runtime.settings import Settings
from runtime.status import progress_of
from runtime.supervisor import Supervisor, records_of

STOP_S: Final = 15.0
CATCH_UP_S: Final = 600.0
LOOK_S: Final = 0.1
ANSWER_S: Final = 120.0
TRIES: Final = 100
PORTS: Final = 41
"""After its base, as many as a house may take; the controller of Apache Kafka is on the fortieth."""
CLI: Final = (sys.executable, "-P", "-m", "runtime.cli")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended: its exit code, what it said on standard output, what it took."""

    words: tuple[str, ...]
    code: int
    said: str
    seconds: float
    used: Used

    def must(self, code: int = 0) -> "Ran":
        """RuntimeError if it ended with another."""
        if self.code != code:
            command = " ".join(("tallybook", *self.words))
            raise RuntimeError(f"{command} ended with {self.code}, not {code}: {self.said}")
        return self


@dataclass(frozen=True, slots=True)
class House:
    """What `up --json` says, and its process."""

    home: Home
    read: str
    audit: str
    tokens: Mapping[str, str]
    pid: int

    @property
    def settings(self) -> Settings:
        return Settings.model_validate_json(self.home.settings.read_bytes())

    def client(self, url: str, role: str) -> httpx.Client:
        return httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {self.tokens[role]}"},
            timeout=ANSWER_S,
            trust_env=False,
        )

    def pids(self) -> Mapping[str, int]:
        return {record.name: record.pid for record in records_of(self.home)}

    def used(self) -> Mapping[str, Used]:
        return used_by_house(self.home, self.pid)

    def run(self, *words: str, seconds: float) -> Ran:
        """`tallybook …`, killed after so many seconds. Its progress goes to our standard error."""
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen([*CLI, *words], env=_environment(self.home), stdout=said)  # noqa: S603 - our own
            alarm = threading.Timer(seconds, process.kill)
            alarm.start()
            try:
                # Waited for by hand: nothing else tells what one child alone has used.
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                alarm.cancel()
                process.kill()
                process.wait()
            said.seek(0)
            took = time.monotonic() - began
            return Ran(words, process.returncode, said.read(), took, Used.by_ended(usage))


@contextmanager
def house_in(directory: Path, *words: str, **settings: str) -> Iterator[House]:
    """An empty house, ready; `words`: of `up`. Whatever happens, nothing of it is left running.

    RuntimeError if it is not ready.
    """
    home, log = Home(directory / "home"), directory / "up.log"
    command = [*CLI, "up", "--json", "--port-base", str(free_port_base()), *words]
    with log.open("w") as said:
        up = subprocess.Popen(  # noqa: S603 - our own
            command, env=_environment(home, **settings), stdout=subprocess.PIPE, stderr=said, text=True
        )
    try:
        line = up.stdout.readline() if up.stdout else ""
        if not line:
            raise RuntimeError(f"the house does not start:\n{log.read_text()}")
        told = json.loads(line)
        yield House(home, told["read"], told["audit"], told["tokens"], up.pid)
    finally:
        up.terminate()
        try:
            up.wait(STOP_S)
        finally:
            up.kill()
            up.communicate()
            if home.processes.exists():
                asyncio.run(Supervisor(home).end_leftovers())


async def caught_up(settings: Settings, *, relayed: bool = False) -> int:
    """The log's head, once no read model is behind it, nor the relay. TimeoutError if that does not come."""
    async with asyncio.timeout(CATCH_UP_S):
        while True:
            progress = await progress_of(settings)
            behind = [build.positions for build in progress.builds]
            behind += [relay.positions for relay in progress.relays if relayed]
            if progress.builds and not any(behind):
                return progress.head
            await asyncio.sleep(LOOK_S)


def _environment(home: Home, **settings: str) -> Mapping[str, str]:
    """Ours, without what it says of another house."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TALLYBOOK_")}
    return {**ours, "TALLYBOOK_HOME": str(home.path), **settings}


def free_port_base() -> int:
    for _ in range(TRIES):
        base = random.randrange(20_000, 30_000, 50)  # noqa: S311 - not a secret
        with ExitStack() as stack:
            try:
                for port in range(base + 1, base + PORTS):
                    stack.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")
