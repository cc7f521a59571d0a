"""Tallybook's log: callers, writer and event loop in one process, as in the write door.

`measure` runs one kind of load in as many workers as there are to be processes. They share a log, but no
stream: which of two processes wins a stream is not what is measured here.
"""

from dataclasses import asdict, replace
from typing import Any, Final, Literal

import uvloop

from bench import worker
from bench.loads import Deciding, Hot, Spread
from bench.loops import Measured, Window, in_tasks
from bench.payload import stream_of
from bench.seed import STREAMS
from commands.ports import Log, Rules
from commands.shop import Shop
from domain.envelope import Tip
from runtime.ids import SystemClock, Uuid7s
from runtime.log.postgres import PostgresLog

Kind = Literal["spread", "order", "hot", "deciding", "deciding_hot"]
ANSWER_S: Final = 60.0
"""How much longer than its window a worker may take to answer."""


def measure(
    url: str, kind: Kind, callers: int, window: Window, *, events: int = 1, processes: int = 1
) -> Measured:
    """`callers` and `events` (an append) of each process. The rates of processes are added."""
    task = {"url": url, "kind": kind, "callers": callers, "events": events} | asdict(window)
    share = STREAMS // processes
    tasks = [task | {"first": n * share, "items": share} for n in range(processes)]
    answers = worker.run(__name__, tasks, window.warm + window.seconds + ANSWER_S)
    measured = [Measured(**one) for one in answers]
    return Measured(
        rate=sum(one.rate for one in measured),
        p50_ms=max(one.p50_ms or 0 for one in measured),
        p99_ms=max(one.p99_ms or 0 for one in measured),
        conflicts=sum(one.conflicts for one in measured),
    )


async def _run(task: dict[str, Any]) -> Measured:
    window = Window(task["warm"], task["seconds"])
    items = range(task["first"], task["first"] + task["items"])
    async with PostgresLog.open(task["url"]) as log:
        match task["kind"]:
            case "hot":
                hot = Hot(log, stream_of(items[0]), (await tips_of(log, items[:1]))[stream_of(items[0])])
                worker.wait_for_go()
                return replace(await in_tasks(hot.once, task["callers"], window), conflicts=hot.conflicts)
            case "deciding" | "deciding_hot":
                deciding = Deciding(shop_on(log), items[:1] if task["kind"] == "deciding_hot" else items)
                await deciding.every()
                once = deciding.once
            case kind:
                spread = Spread(log, await tips_of(log, items), events=task["events"])
                once = spread.order if kind == "order" else spread.once
        worker.wait_for_go()
        return await in_tasks(once, task["callers"], window)


async def tips_of(log: Log, items: range) -> dict[str, Tip]:
    found = await log.read_streams(dict.fromkeys(map(stream_of, items), 0))
    return {stream: Tip(events[-1].version, events[-1].event_id) for stream, events in found.items()}


def shop_on(log: Log) -> Shop:
    return Shop(log=log, clock=SystemClock(), ids=Uuid7s(), digest_key=b"b" * 32, rules=Rules())


if __name__ == "__main__":
    worker.answer(asdict(uvloop.run(_run(worker.told()))))
