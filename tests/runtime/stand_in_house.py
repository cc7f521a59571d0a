"""A house with real services and stand-ins for our own processes, as a process of its own: HOME PORT_BASE."""

import os
import sys
from pathlib import Path

from runtime.embedded.broker import broker_spec
from runtime.embedded.child import ChildSpec
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.home import Home
from runtime.logs import configure_logging
from runtime.process import SUPERVISOR_VARIABLE, run_process
from runtime.supervisor import locked, supervise

POLITE = """
import asyncio
from runtime.process import run_process
raise SystemExit(run_process(asyncio.sleep(600)))
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


async def house(home: Home, base: int) -> None:
    with locked(home):
        server = EmbeddedPostgres(
            directory=home.postgres,
            port=base,
            password="owner",
            log=home.log("postgres"),
            settings={"shared_buffers": "32MB"},
        )
        environment = {SUPERVISOR_VARIABLE: str(os.getpid())}
        polite, stubborn = (
            ChildSpec(
                name=name,
                command=(sys.executable, "-c", script),
                log=home.log(name),
                environment=environment,
                stop_seconds=1,
            )
            for name, script in (("polite", POLITE), ("stubborn", STUBBORN))
        )

        async def nothing() -> None: ...

        async def say_ready() -> None:
            sys.stdout.write("ready\n")
            sys.stdout.flush()

        services = (server.spec(), broker_spec(base + 1, home.log("broker")))
        await supervise(home, ((services, nothing), ((polite, stubborn), say_ready)))


if __name__ == "__main__":
    configure_logging()
    raise SystemExit(run_process(house(Home(Path(sys.argv[1])), int(sys.argv[2]))))
