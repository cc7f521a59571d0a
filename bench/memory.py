"""How much memory a write process takes at full load.

The process has the write door's code loaded, decides over so many items that the cache of states is nearly
full, and is driven by 64 callers inside it: as hard as it can be driven, without what HTTP clients cost.
"""

import asyncio
import importlib
import time
from typing import Any, Final

import psutil
import psycopg
import uvloop

from bench import worker
from bench.loads import Deciding
from bench.ours import shop_on
from bench.seed import EMPTY, seed
from bench.server import Server
from runtime.log.postgres import PostgresLog

CALLERS: Final = 64
SAMPLE_S: Final = 0.5
ANSWER_S: Final = 120.0


def measure(server: Server, items: int, seconds: float) -> tuple[float, float]:
    """The most that was resident, in MB of 1,000,000 bytes, and the commands a second meanwhile."""
    with server.database("memory", EMPTY) as database:
        url = server.service_url(database)
        uvloop.run(seed(url, items))
        with psycopg.connect(server.url(database), autocommit=True) as owner:
            owner.execute("vacuum (analyze)")
        task = {"url": url, "items": items, "seconds": seconds}
        with worker.started(__name__, [task], seconds + ANSWER_S) as [running]:
            process = psutil.Process(running.pid)
            most = 0
            until = time.monotonic() + seconds
            while time.monotonic() < until and running.poll() is None:
                most = max(most, process.memory_info().rss)
                time.sleep(SAMPLE_S)
            commands = worker.result_of(running)["commands"]
    return most / 10**6, commands / seconds


async def _run(task: dict[str, Any]) -> int:
    importlib.import_module("runtime.write_api")
    commands = 0

    async def caller(deciding: Deciding) -> None:
        nonlocal commands
        while time.monotonic() < until:
            await deciding.once()
            commands += 1

    async with PostgresLog.open(task["url"]) as log:
        deciding = Deciding(shop_on(log), range(task["items"]))
        await deciding.every()
        worker.wait_for_go()
        until = time.monotonic() + task["seconds"]
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller(deciding))
    return commands


if __name__ == "__main__":
    worker.answer({"commands": uvloop.run(_run(worker.told()))})
