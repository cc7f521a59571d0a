"""One process with the projector in it, made to take all from Kafka, or all from the log.

`hears`: the projector as it is but for its watchdog, which would read the backlog from the log at once. So
each event is polled, read as a message, found to be the next of its chain, folded and committed as ever.
`catches_up`: the projector as it is, without a broker, and with an empty database.
"""

import asyncio
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, LiteralString

import uvloop
from prometheus_client import REGISTRY

from bench import worker
from bench.processes import peak_mb
from bench.server import free_port
from projections import READ_MODELS
from runtime.embedded.child import LOOPBACK
from runtime.log.reading import LogReader
from runtime.postgres import Pool, open_pool
from runtime.projector import POOL_SIZE, ROLE, Projector
from runtime.read_models.folding import Model, contexts_of
from runtime.stopping import cancel

Kind = Literal["hears", "catches_up"]
LIMIT_S: Final = 300.0
LOOK_S: Final = 0.01
LOOK_AT_DATABASE_S: Final = 0.05
"""A look is a query, of the process that is measured."""


@dataclass(frozen=True, slots=True)
class Projected:
    """Events a second, each counted once however many read models it feeds; the most that was resident."""

    rate: float
    peak_mb: float


def heard(log_url: str, read_url: str, servers: str, models: Sequence[str]) -> Projected:
    """From the first events that are applied. RuntimeError if one comes from the log."""
    return _answer({"kind": "hears", "servers": servers}, log_url, read_url, models)


def caught_up(log_url: str, read_url: str, models: Sequence[str]) -> Projected:
    """From an empty database, its tables not made yet, until all builds are at the log's end."""
    nobody = f"{LOOPBACK}:{free_port()}"
    return _answer({"kind": "catches_up", "servers": nobody}, log_url, read_url, models)


def _answer(task: Mapping[str, Any], log_url: str, read_url: str, models: Sequence[str]) -> Projected:
    told = {**task, "log_url": log_url, "read_url": read_url, "models": list(models)}
    [answer] = worker.run(__name__, [told], LIMIT_S)
    return Projected(**answer)


class _ByKafkaAlone(Projector):
    async def _watch(self) -> None:
        """Of the backlog nothing is read from the log: the builds are told to be up with it."""
        for build in self._builds.values():
            build.caught_up = True


async def _run(task: dict[str, Any]) -> float:
    models = [model for model in READ_MODELS if model.name in task["models"]]
    async with (
        LogReader.open(task["log_url"], ROLE) as reader,
        open_pool(task["read_url"], ROLE, size=POOL_SIZE, autocommit=True) as pool,
    ):
        heads = await reader.heads()
        events = max(mark.position for mark in heads.values())
        worker.wait_for_go()
        if task["kind"] == "hears":
            projector: Projector = _ByKafkaAlone(reader, pool, task["servers"], models)
            return await _while_running(projector, _all_heard(models, events))
        wanted = sum(
            mark.position for model in models for lane, mark in heads.items() if lane[0] in contexts_of(model)
        )
        projector = Projector(reader, pool, task["servers"], models)
        return await _while_running(projector, _all_caught_up(pool, wanted, events))


async def _while_running(projector: Projector, measuring: Coroutine[Any, Any, float]) -> float:
    """RuntimeError if the projector ends by itself, or does not get there."""
    running, measured = asyncio.create_task(projector.run()), asyncio.create_task(measuring)
    try:
        await asyncio.wait({running, measured}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if measured.done():
            return measured.result()
        failure = running.exception() if running.done() else None
        raise RuntimeError(f"the projector ended, or took {LIMIT_S:.0f} s") from failure
    finally:
        await cancel(measured)
        await cancel(running)


async def _all_heard(models: Sequence[Model], events: int) -> float:
    first, began = 0, 0.0
    while (applied := _applied(models)) < events:
        _require_none_from_log(models)
        if applied and not first:
            first, began = applied, time.perf_counter()
        await asyncio.sleep(LOOK_S)
    if not first:
        raise RuntimeError("all was heard before the first look: there is no time to divide by")
    took = time.perf_counter() - began
    _require_none_from_log(models)
    return (applied - first) / took


def _require_none_from_log(models: Sequence[Model]) -> None:
    for model in models:
        for counter in ("log_events", "gaps"):
            if seen := _counted(counter, model):
                raise RuntimeError(f"{model.name} has not all from Kafka: {seen} {counter}")


def _applied(models: Sequence[Model]) -> int:
    """By the slowest of them."""
    return min(_counted("applied_events", model) for model in models)


def _counted(counter: str, model: Model) -> int:
    labels = {"model": model.name}
    name = f"tallybook_projector_{counter}"
    if name not in {metric.name for metric in REGISTRY.collect()}:
        raise RuntimeError(f"the projector counts no {name} any more")
    return int(REGISTRY.get_sample_value(f"{name}_total", labels) or 0)


async def _all_caught_up(pool: Pool, wanted: int, events: int) -> float:
    """Until the checkpoints add up to that; while a build is filled in bulk, they are below 0.

    It goes on until the builds are served, for who needs that; this is not in the rate.
    """
    began = time.perf_counter()
    await _until(pool, "select sum(position)::bigint from read.checkpoints", wanted)
    took = time.perf_counter() - began
    await _until(pool, "select bool_and(served) from read.builds", True)  # noqa: FBT003 - what is waited for
    return events / took


async def _until(pool: Pool, query: LiteralString, wanted: object) -> None:
    while True:
        async with pool.connection() as connection:
            found = await (await connection.execute(query)).fetchone()
        if found == (wanted,):
            return
        await asyncio.sleep(LOOK_AT_DATABASE_S)


if __name__ == "__main__":
    rate = uvloop.run(_run(worker.told()))
    worker.answer(asdict(Projected(rate, peak_mb(os.getpid()))))
