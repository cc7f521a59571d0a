"""A build is made, compared and served, and the old one again, while a client asks 200 times a second."""

import asyncio
import itertools
import os
import sys
import time
from collections import Counter

import psycopg
import pytest
from house import Client, client_of, free_port_base, house_in, new_home
from psycopg import sql

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

RATE = 200.0
LOCATIONS = ("DEPOT", "NORTH", "SOUTH")
SKUS = ("BUILD-1", "BUILD-2")
MARK = 1_000_000
"""Added to what is on hand in each row of the old build: an answer of both would have some rows of each."""
WAIT_S = 60.0


class Asking:
    """Each answer has all locations of a SKU, as one of the builds has them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self.answers = Counter[str]()

    async def for_ever(self) -> None:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in self._numbers:
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                group.create_task(self._once(SKUS[number % len(SKUS)]))

    async def _once(self, sku: str) -> None:
        answer = await self._client.get("customer", f"/stock/{sku}")
        assert answer.status_code == 200, answer.text
        rows = answer.json()["stock"]
        assert {row["location"] for row in rows} == set(LOCATIONS), rows
        marked = {row["on_hand"] >= MARK for row in rows}
        assert len(marked) == 1, f"of two builds: {rows}"
        self.answers["old" if marked.pop() else "new"] += 1

    async def more(self, build: str) -> None:
        """Until so many answers of this build have come that nobody is served by the other any more."""
        seen = self.answers[build]
        async with asyncio.timeout(WAIT_S):
            while self.answers[build] < seen + RATE:
                await asyncio.sleep(0.02)


async def tallybook(client: Client, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runtime.cli",
        *arguments,
        env={**os.environ, "TALLYBOOK_HOME": str(client.house.home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode, said.decode()


async def mark_every_row(client: Client) -> None:
    """As if the build that is served had been made by another fold."""
    url = client.house.settings["read_migration_database_url"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
        found = await owner.execute(
            "select build from read.builds where model = 'stock_availability' and served"
        )
        [(build,)] = await found.fetchall()
        await owner.execute(
            sql.SQL("update read.{} set on_hand = on_hand + %s, revision = revision + 1").format(
                sql.Identifier(build)
            ),
            [MARK],
        )


async def test_a_client_that_asks_all_the_time_gets_each_answer_and_each_of_one_build() -> None:
    with new_home() as home:
        starting = house_in(home, "--port-base", str(free_port_base()))
        house = await asyncio.to_thread(starting.__enter__)
        try:
            async with client_of(house) as client:
                await compared_and_switched(client)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def compared_and_switched(client: Client) -> None:
    for sku in SKUS:
        await client.product(sku, qty=5)
        for location in LOCATIONS[1:]:
            await client.post(
                "warehouse", "/locations", {"location": location, "name": location, "country": "DE"}
            )
            last = await client.receive(sku, 5, location=location)
        assert (await client.get("customer", f"/stock/{sku}", after=last)).is_success
    await mark_every_row(client)
    asking = Asking(client)
    async with asyncio.TaskGroup() as group:
        asks = group.create_task(asking.for_ever())
        await asking.more("old")
        code, said = await tallybook(client, "rebuild", "--diff", "stock_availability")
        assert code == 1, said  # every row differs
        assert "6 differed" in said
        await asking.more("old")
        for command, served in (("switch", "new"), ("back", "old"), ("switch", "new")):
            code, said = await tallybook(client, command, "stock_availability")
            assert code == 0, said
            await asking.more(served)
        asks.cancel()
    assert min(asking.answers["old"], asking.answers["new"]) >= 2 * RATE
