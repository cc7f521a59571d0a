"""Who waits for a database that is away: it is in use again soon after it is back."""

import asyncio
from itertools import pairwise
from time import monotonic

import psycopg
import pytest

from runtime import policies, waking
from runtime.log import reading
from runtime.stopping import cancel

pytestmark = pytest.mark.anyio

TRIES = 4
SOON_S = 2.0


async def test_the_pauses_between_tries_do_not_grow_with_the_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    enough = asyncio.Event()

    def away(*_: object, **__: object) -> None:
        tries.append(monotonic())
        if len(tries) == TRIES:
            enough.set()
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(waking, "connect", away)
    monkeypatch.setattr(waking, "FIRST_PAUSE_S", waking.LONGEST_PAUSE_S)
    hearing = asyncio.create_task(waking.hear("", "", "", asyncio.Event()))
    try:
        async with asyncio.timeout(TRIES * SOON_S):
            await enough.wait()
    finally:
        await cancel(hearing)
    assert max(after - before for before, after in pairwise(tries)) < SOON_S


@pytest.mark.parametrize(
    "longest", [waking.LONGEST_PAUSE_S, policies.LONGEST_PAUSE_S, reading.LONGEST_PAUSE_S]
)
def test_they_try_often_enough(longest: float) -> None:
    assert longest < SOON_S
