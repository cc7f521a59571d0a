"""A peer that falls silent without a word: the connection stands, and nothing comes any more."""

import asyncio
import time
from contextlib import suppress

import pytest
from log_tools import stream
from wire import wire_to

from commands._states import States
from commands.ports import LogUnavailable
from domain.location import LOCATION
from runtime.log import postgres, snapshots
from runtime.log.postgres import PostgresLog
from runtime.log.snapshots import SnapshotStore

pytestmark = pytest.mark.anyio

ANSWER_S = 0.3
WAIT_S = 10.0


async def test_a_load_ends_and_keeps_nobody_else_waiting(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "READ_S", ANSWER_S)
    monkeypatch.setattr(postgres, "READY_S", ANSWER_S)
    monkeypatch.setattr(snapshots, "READ_S", ANSWER_S)
    wanted = {stream(): LOCATION}
    async with (
        wire_to(log_url) as (wire, url),
        PostgresLog.open(log_url) as log,
        PostgresLog.open(url) as silent_log,
        SnapshotStore.open(url) as silent_store,
    ):
        await silent_log.read_positions(1, 1)  # a connection that is there already
        await silent_store.read(wanted)
        wire.deaf = True
        states = States(log, silent_store)
        silent = States(silent_log, silent_store)
        began = time.monotonic()
        await states.load(wanted)  # without a snapshot
        assert states.get(next(iter(wanted))) is not None
        with pytest.raises(LogUnavailable, match="no answer"):
            await silent.load(wanted)
        assert not silent._loading
        assert not await silent_log.ready()
        assert time.monotonic() - began < 8 * ANSWER_S
        wire.deaf = False
        wire.cut()
        async with asyncio.timeout(WAIT_S):
            while silent.get(next(iter(wanted))) is None:
                with suppress(LogUnavailable):  # while it connects anew
                    await silent.load(wanted)
