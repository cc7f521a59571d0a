"""Readers that are told of rows: they are told again soon after a database that was away for long is back."""

import asyncio
from contextlib import suppress
from time import monotonic

import psycopg
import pytest

from runtime import policies, waking
from runtime.log import reading

pytestmark = pytest.mark.anyio

OUTAGE_TRIES = 12
SOON_S = 2.0


async def test_the_pauses_between_tries_do_not_grow_with_the_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    enough = asyncio.Event()

    def away(*_: object, **__: object) -> object:
        tries.append(monotonic())
        if len(tries) == OUTAGE_TRIES:
            enough.set()
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(waking, "connect", away)
    monkeypatch.setattr(waking, "FIRST_PAUSE_S", waking.LONGEST_PAUSE_S / 2)
    monkeypatch.setattr(waking, "LONGEST_PAUSE_S", waking.LONGEST_PAUSE_S / 10)
    hearing = asyncio.create_task(waking.hear("", "", "", asyncio.Event()))
    try:
        async with asyncio.timeout(SOON_S * 2):
            await enough.wait()
    finally:
        hearing.cancel()
        with suppress(asyncio.CancelledError):
            await hearing
    pauses = [after - before for before, after in zip(tries[1:], tries[2:], strict=False)]
    assert max(pauses) < SOON_S / 2


@pytest.mark.parametrize(
    "longest", [waking.LONGEST_PAUSE_S, policies.LONGEST_PAUSE_S, reading.LONGEST_PAUSE_S]
)
def test_whoever_waits_for_a_database_tries_often_enough_to_be_back_in_two_seconds(longest: float) -> None:
    assert longest < SOON_S
