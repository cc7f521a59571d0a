"""The last 50 units and 200 buyers, over HTTP, at two write doors."""

import asyncio
from collections import Counter

import httpx
import pytest
from house import Client

pytestmark = pytest.mark.anyio

UNITS = 50
BUYERS = 200


async def test_fifty_units_make_fifty_orders_and_everybody_else_is_told_the_shortage(client: Client) -> None:
    await client.product("RUSH-1", qty=UNITS)
    doors = [client.house.write_all[number % len(client.house.write_all)] for number in range(BUYERS)]
    answers = await asyncio.gather(*(client.order("RUSH-1", base=door) for door in doors))
    codes = Counter(answer.json().get("code", "placed") for answer in answers)
    assert codes == {"placed": UNITS, "insufficient_stock": BUYERS - UNITS}
    for answer in answers:
        if answer.is_success:
            assert answer.status_code == 201
        else:
            assert answer.status_code == 409
            shortage = answer.json()["shortages"][0]
            assert (shortage["sku"], shortage["requested"], shortage["available"]) == ("RUSH-1", 1, 0)
    await _nothing_is_left(client, next(answer for answer in answers if answer.is_success))


async def _nothing_is_left(client: Client, placed: httpx.Response) -> None:
    history = await client.history("stock-RUSH-1@DEPOT")
    types = Counter(event["type"] for event in history)
    assert types["stock.reserved.v1"] == UNITS
    assert (
        min(event["data"]["available_after"] for event in history if "available_after" in event["data"]) == 0
    )
    stock = await client.get("customer", "/stock/RUSH-1", after=placed)
    last = max(history, key=lambda event: event["version"])
    for _ in range(100):
        rows = stock.json()["stock"]
        if rows and rows[0]["version"] >= last["version"]:
            break
        await asyncio.sleep(0.1)
        stock = await client.get("customer", "/stock/RUSH-1")
    assert rows[0]["available"] == 0
    assert rows[0]["reserved"] == UNITS
