"""What an operator does in a campaign, with commands that are killed at each of their points."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from uuid_utils import uuid7

from bench.campaign.house import POINT, House
from bench.campaign.schedule import OPERATORS_POINTS
from bench.campaign.traffic import LOCATION, POISONED, Traffic
from bench.house import CLI
from commands.ports import Append, Appended, NewEvent
from domain.envelope import NOTHING, Actor, Metadata, Tip
from domain.stock import Reference, StockReceived
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.ids import SystemClock
from runtime.log.postgres import PostgresLog

COMMAND_S: Final = 120.0
PARKED_S: Final = 10.0
NEW_QTY: Final = 7
TOO_MANY: Final = 2**63
"""More than the column of a row can hold."""
MODEL: Final = STOCK_AVAILABILITY.name

Hit = Callable[[str, str], None]


class OperatorFailed(RuntimeError):
    """A command ended otherwise than it had to."""


async def run(house: House, *words: str, point: str = "") -> tuple[int, str]:
    """`tallybook …`: its exit code, and what it said."""
    environment = {**os.environ, "TALLYBOOK_HOME": str(house.home.path)} | ({POINT: point} if point else {})
    process = await asyncio.create_subprocess_exec(
        *CLI, *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


async def rebuild(house: House, hit: Hit) -> None:
    """Killed at each of its points, then to the end. Raises OperatorFailed."""
    for point in OPERATORS_POINTS["rebuild"]:
        await _dies(house, "rebuild", point, (MODEL,), hit)
    await _must(house, "rebuild", MODEL)
    await _must(house, "drop", MODEL)


async def poison_and_skip(house: House, traffic: Traffic, hit: Hit) -> None:
    """An event that no row can hold parks its stream; skipped, the events behind it are folded in order."""
    poison = await _poison(house, traffic)
    await traffic.receive(POISONED, NEW_QTY)
    stream = f"stock-{POISONED}@{LOCATION}"
    parked = await _parked(house, stream)
    code, said = await run(house, "retry", MODEL, stream)
    if code != 1:
        raise OperatorFailed(f"a retry of what is still refused ended with {code}: {said}")
    skipping = (stream, "--event", poison, "--reason", "a campaign's poison")
    first, second = OPERATORS_POINTS["skip"]
    await _dies(house, "skip", first, (MODEL, *skipping), hit)
    await _dies(house, "skip", second, (MODEL, *skipping), hit)
    [last] = OPERATORS_POINTS["retry"]
    await _dies(house, "retry", last, (MODEL, stream), hit)
    for model in parked:
        await _must(
            house, "retry" if model == MODEL else "skip", model, *(skipping if model != MODEL else ())
        )


async def _poison(house: House, traffic: Traffic) -> str:
    """Written as a door with a defect would; the event's id."""
    item, event_id = traffic.items[POISONED], str(uuid7())
    stream = f"stock-{POISONED}@{LOCATION}"
    fact = StockReceived(
        sku=POISONED,
        location=LOCATION,
        product_id=item.product_id,
        variant_id=item.variant_id,
        qty=TOO_MANY,
        reference=Reference("purchase", event_id),
    )
    async with PostgresLog.open(house.settings.database_url) as log:
        before = (await log.read_streams({stream: 0}))[stream]
        tip = Tip(before[-1].version, before[-1].event_id) if before else NOTHING
        metadata = Metadata(SystemClock().now(), Actor("system", "campaign"), event_id, event_id)
        verdict = await log.append(
            Append({stream: tip}, [NewEvent(stream, event_id, fact)], metadata, digest=None, fingerprint=None)
        )
    if not isinstance(verdict, Appended):
        raise OperatorFailed(f"the log does not take the poison: {verdict}")
    return event_id


async def _parked(house: House, stream: str) -> Sequence[str]:
    """The read models in which the stream stands still, once it does."""
    until = monotonic() + PARKED_S
    while monotonic() < until:
        code, said = await run(house, "parked", "--json")
        lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()] if code == 0 else []
        models = sorted({line["model"] for line in lines if line["stream"] == stream})
        if MODEL in models:
            return models
    raise OperatorFailed(f"{stream} is not parked within {PARKED_S:.0f} s: {said}")


async def _dies(house: House, command: str, point: str, words: Sequence[str], hit: Hit) -> None:
    code, said = await run(house, command, *words, point=point)
    if code != -signal.SIGKILL:
        raise OperatorFailed(f"{command} was not killed at {point}, but ended with {code}: {said}")
    hit(command, point)


async def _must(house: House, *words: str) -> str:
    code, said = await run(house, *words)
    if code != 0:
        raise OperatorFailed(f"tallybook {' '.join(words)} ended with {code}: {said}")
    return said
