"""The end of a campaign: is the log whole, what does it have, do the read models equal it?"""

import asyncio
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.campaign import operators
from bench.campaign.house import House
from bench.campaign.ledger import Account, Effect, Ledger, account
from bench.campaign.probe import behind_of, relay_behind
from domain.stock import Stock, StockEvent, evolve
from runtime.log.reading import LogReader, StoredEvent

logger = logging.getLogger(__name__)

SETTLE_S: Final = 120.0
LOOK_S: Final = 0.1
PAGE: Final = 5_000
_VERIFIED: Final = re.compile(r"^(\w+): ([\d,]+) rows, ([\d,]+) differ ", re.MULTILINE)

MARKS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "order.placed.v1": lambda data: str(data["customer_id"]),
    "order.confirmed.v1": lambda data: str(data["order_id"]),
    "order.cancelled.v1": lambda data: f"{data['order_id']} {data['reason']}",
    "stock.received.v1": lambda data: str(data["reference"]["id"]),
    "stock.reserved.v1": lambda data: str(data["holder"]["id"]),
    "price.set.v1": lambda data: str(data["reason"]),
    "location.registered.v1": lambda data: str(data["location"]),
    "product.drafted.v1": lambda data: str(data["slug"]),
    "variant.added.v1": lambda data: str(data["sku"]),
    "product.published.v1": lambda data: str(data["product_id"]),
}
"""By stored name: what the command that brought about an event can be known by, of the event's data."""


@dataclass(frozen=True, slots=True)
class Findings:
    """`misplaced`: positions that are not one more than the one before; `oversold`: stock below 0."""

    account: Account
    events: int
    misplaced: int
    oversold: int
    rows: int
    differing: int
    models: int
    stale_reads: int
    changed_answers: int


@dataclass(slots=True)
class LogFound:
    effects: Counter[Effect]
    ids: dict[int, str]
    misplaced: int = 0
    oversold: int = 0


async def examined(house: House, ledger: Ledger) -> Findings:
    """Once nobody is behind. TimeoutError."""
    await _settled(house)
    log = await _read(house)
    code, said = await operators.run(house, "verify")
    found = [
        (int(rows.replace(",", "")), int(wrong.replace(",", "")))
        for _, rows, wrong in _VERIFIED.findall(said)
    ]
    differing = sum(wrong for _, wrong in found)
    if (code == 0) != (differing == 0) or not found:
        raise operators.OperatorFailed(f"verify ended with {code}: {said}")
    if differing:
        logger.error("rows differ from a replay:\n%s", said)
    return Findings(
        account=account(ledger.told, log.effects, log.ids),
        events=len(log.ids),
        misplaced=log.misplaced,
        oversold=log.oversold,
        rows=sum(rows for rows, _ in found),
        differing=differing,
        models=len(found),
        stale_reads=ledger.stale_reads,
        changed_answers=ledger.changed_answers,
    )


async def _settled(house: House) -> None:
    async with asyncio.timeout(SETTLE_S):
        while True:
            behind = await behind_of(house.settings)
            if not any(behind.values()) and not await relay_behind(house.settings):
                return
            await asyncio.sleep(LOOK_S)


async def _read(house: House) -> LogFound:
    found, stocks = LogFound(Counter(), {}), defaultdict[str, Stock](Stock)
    last = 0
    async with LogReader.open(house.settings.database_url) as reader:
        while events := await reader.read(last, PAGE):
            for event in events:
                found.misplaced += event.position != last + 1
                last = event.position
                found.ids[last] = event.event_id
                if mark := MARKS.get(event.type):
                    found.effects[Effect(event.type, mark(json.loads(event.data)))] += 1
                found.oversold += _oversells(event, stocks)
    return found


def _oversells(event: StoredEvent, stocks: dict[str, Stock]) -> bool:
    fact = LogReader.decode(event).event
    if not isinstance(fact, StockEvent):
        return False
    after = stocks[event.stream] = evolve(stocks[event.stream], fact)
    return min(after.available, after.on_hand, after.reserved, after.committed) < 0
