"""How long after a command's acknowledgement a query shows its effect, at a fixed rate of commands.

Commands are sent when they are due, whether earlier ones are answered or not: a house that cannot keep up
does not make the clients wait with it. Each receives stock of another SKU. After some of them, evenly spread,
a query of that SKU with the command's Consistency-Token follows at once, and waits for it.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from statistics import quantiles
from typing import Any, Final

import uvloop

from bench import worker
from bench.house import House
from bench.http_client import Answer, Client, request
from bench.payload import LOCATION, ids, sku_of
from runtime.settings import url_of

LIMIT_S: Final = 120.0
BODY: Final = b'{"qty":1,"reference":{"type":"purchase","id":"bench"}}'
AGAIN: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_EARLY})
WATCHED: Final = 100
"""Queries a second, at most: one after each of 500 commands would be a load of its own."""
PAUSE_S: Final = 0.1
TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """In milliseconds. `late_p99_ms`: from when commands were due to when they were sent.

    `cpu_s`: of the clients, in `seconds`, which end with the last answer. `refused`: answers that one may ask
    for again, as all do, a little later; their waits have that in them.
    """

    p50_ms: float
    p99_ms: float
    written_p99_ms: float
    late_p99_ms: float
    cpu_s: float
    seconds: float
    refused: int


def seen(house: House, skus: int, rate: int, warm: float, seconds: float) -> Seen:
    """RuntimeError if anything is refused for good, or not seen."""
    settings = house.settings
    task = {
        "write": url_of(settings.host, settings.write_port),
        "read": house.read,
        "token": house.tokens["admin"],
        "skus": skus,
        "rate": rate,
        "warm": warm,
        "seconds": seconds,
    }
    [answer] = worker.run(__name__, [task], warm + seconds + LIMIT_S)
    return Seen(**answer)


@dataclass(frozen=True, slots=True)
class _One:
    """Seconds; `visible`: None where nobody looked."""

    late: float
    written: float
    visible: float | None


class _Shopper:
    def __init__(self, task: Mapping[str, Any]) -> None:
        self._write, self._read = Client(task["write"]), Client(task["read"])
        self._token = task["token"]
        self.refused = 0

    async def once(self, number: int, due: float, *, watched: bool) -> _One:
        sent = time.perf_counter()
        sku = sku_of(number)
        path = f"/v1/stock/{sku}@{LOCATION}/receive"
        command = request("POST", path, self._token, {"Idempotency-Key": ids.new()}, BODY)
        written = await self._well(self._write, command)
        acknowledged = time.perf_counter()
        if not watched:
            return _One(sent - due, acknowledged - sent, None)
        asked = {"Consistency-Token": written.header("Consistency-Token"), "Prefer": "wait=30"}
        await self._well(self._read, request("GET", f"/v1/stock/{sku}", self._token, asked))
        return _One(sent - due, acknowledged - sent, time.perf_counter() - acknowledged)

    async def _well(self, door: Client, asked: bytes) -> Answer:
        for _ in range(TRIES):
            answer = await door.ask(asked)
            if answer.status == HTTPStatus.OK:
                return answer
            if answer.status not in AGAIN:
                break
            self.refused += 1
            await asyncio.sleep(PAUSE_S)
        raise RuntimeError(f"{answer.status}: {answer.body.decode(errors='replace')}")

    def close(self) -> None:
        self._write.close()
        self._read.close()


async def _run(task: dict[str, Any]) -> dict[str, float]:
    rate, warming = task["rate"], round(task["rate"] * task["warm"])
    numbers = list(range(task["skus"]))
    random.shuffle(numbers)
    shopper, every = _Shopper(task), max(1, rate // WATCHED)
    worker.wait_for_go()
    began, cpu = time.perf_counter(), time.process_time()
    tasks = []
    async with asyncio.TaskGroup() as group:
        for turn in range(warming + round(rate * task["seconds"])):
            due = began + turn / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(
                group.create_task(shopper.once(numbers[turn % len(numbers)], due, watched=turn % every == 0))
            )
    ended = time.perf_counter()
    shopper.close()
    found = [one.result() for one in tasks[warming:]]
    visible = quantiles([one.visible for one in found if one.visible is not None], n=100)
    return {
        "p50_ms": 1_000 * visible[49],
        "p99_ms": 1_000 * visible[98],
        "written_p99_ms": 1_000 * quantiles([one.written for one in found], n=100)[98],
        "late_p99_ms": 1_000 * quantiles([one.late for one in found], n=100)[98],
        "cpu_s": time.process_time() - cpu,
        "seconds": ended - began,
        "refused": shopper.refused,
    }


if __name__ == "__main__":
    worker.answer(uvloop.run(_run(worker.told())))
