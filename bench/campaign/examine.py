"""The end of a campaign: is the log whole, does it have what was acknowledged, do the read models equal it?"""

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.campaign import operators
from bench.campaign.house import House
from bench.campaign.ledger import Account, Effect, Ledger, account
from domain.stock import Stock, StockFact, evolve
from runtime.log.reading import LogReader, StoredEvent
from runtime.status import progress_of

SETTLE_S: Final = 120.0
LOOK_S: Final = 0.1
PAGE: Final = 5_000
_VERIFIED: Final = re.compile(r"^(\w+): ([\d,]+) rows, ([\d,]+) differ ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Findings:
    """`misplaced`: positions that are not one more than the one before; `oversold`: states of stock below 0."""

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
            progress = await progress_of(house.settings)
            if not any(one.positions for one in (*progress.relays, *progress.policies, *progress.builds)):
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
                data = json.loads(event.data)
                if mark := mark_of(event.type, data):
                    found.effects[Effect(event.type, mark)] += 1
                found.oversold += _oversells(event, stocks)
    return found


def _oversells(event: StoredEvent, stocks: dict[str, Stock]) -> bool:
    fact = LogReader.decode(event).event
    if not isinstance(fact, StockFact):
        return False
    after = stocks[event.stream] = evolve(stocks[event.stream], fact)
    return min(after.available, after.on_hand, after.reserved, after.committed) < 0


def mark_of(stored: str, data: Mapping[str, Any]) -> str | None:
    """What the command that brought about an event of this stored name can be known by; None: nobody's."""
    match stored:
        case "order.placed.v1":
            return str(data["customer_id"])
        case "order.confirmed.v1":
            return str(data["order_id"])
        case "order.cancelled.v1":
            return f"{data['order_id']} {data['reason']}"
        case "stock.received.v1":
            return str(data["reference"]["id"])
        case "stock.reserved.v1":
            return str(data["holder"]["id"])
        case "price.set.v1":
            return data.get("reason")
        case "location.registered.v1":
            return str(data["location"])
        case "product.drafted.v1":
            return str(data["slug"])
        case "variant.added.v1":
            return str(data["sku"])
        case "product.published.v1":
            return str(data["product_id"])
        case _:
            return None
