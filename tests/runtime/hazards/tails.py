"""Hazards of subscriptions: a wake-up is only a hint, and the connection it comes on is mortal."""

import asyncio
from typing import Final

from eventsourcing.persistence import PersistenceError
from tests.runtime.hazards.recorders import Recorder, Tail
from tests.runtime.hazards.stage import WAIT_S, Hit, Stage, hears, must_commit, words
from tests.runtime.hazards.wires import Line

SLEEPS: Final = "a subscriber sleeps until something else wakes it"
ENDS: Final = "the subscription ends with an error"
AFTERWARDS: Final = 4
ASLEEP_AGAIN_S: Final = 0.1
"""Who has just heard a word looks whether there is more, and would find the next without being woken."""
LISTENING: Final = "query ilike 'listen %' and datname = current_database()"


async def wake_up_lost_before_listen(stage: Stage) -> None:
    """A subscriber sleeps through a commit that came after its first read and before its LISTEN.

    The LISTEN is held back on the wire. The subscriber has read all there was when one more event is
    committed; then the LISTEN arrives. The event must be heard of without another one to wake the subscriber.
    """
    writer = await stage.recorder()
    wire, reader = await stage.wired_recorder()
    before, between = words("before", "between")
    await must_commit(writer, writer.draft({"stream": [before]}, {}))
    wire.watch(b"listen ", then=Line.hold)
    tail = await stage.tail(reader)
    await hears(tail, [before], WAIT_S)
    await wire.catches(1)
    await must_commit(writer, writer.draft({"another": [between]}, {}))
    for line in wire.caught:
        line.release()
    await stage.until(f"exists (select from pg_stat_activity where {LISTENING} and state = 'idle')")
    await _must_hear(stage, tail, between)


async def listen_connection_killed(stage: Stage) -> None:
    """A subscription dies with its connection: a fail-over, an administrator, a proxy that was restarted.

    The backend that listens is terminated. What is committed afterwards must be heard of.
    """
    writer = await stage.recorder()
    tail = await _listening(stage, await stage.recorder(), writer)
    await stage.owner.execute(
        f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {LISTENING}"
    )
    [after] = words("after")
    await must_commit(writer, writer.draft({"another": [after]}, {}))
    await _must_hear(stage, tail, after)


async def listen_connection_dead(stage: Stage) -> None:
    """A connection is gone and nobody was told: a firewall forgot it, a cable was pulled.

    Nothing that the server sends on the listening connection arrives any more. Each word that is committed
    afterwards must be heard of all the same; there are a few, as what arrived before may still wake for one.
    """
    writer = await stage.recorder()
    wire, reader = await stage.wired_recorder()
    wire.watch(b"listen ")
    tail = await _listening(stage, reader, writer)
    for line in wire.caught:
        line.turn_deaf()
    for word in words(*["after"] * AFTERWARDS):
        await asyncio.sleep(ASLEEP_AGAIN_S)
        await must_commit(writer, writer.draft({word: [word]}, {}))
        await _must_hear(stage, tail, word)


async def _listening(stage: Stage, reader: Recorder, writer: Recorder) -> Tail:
    """A subscriber that has LISTENed and has read all there is."""
    [before] = words("before")
    await must_commit(writer, writer.draft({"stream": [before]}, {}))
    tail = await stage.tail(reader)
    await hears(tail, [before], WAIT_S)
    await stage.until(f"exists (select from pg_stat_activity where {LISTENING} and state = 'idle')")
    return tail


async def _must_hear(stage: Stage, tail: Tail, word: str) -> None:
    try:
        await hears(tail, [word], stage.notice_s)
    except TimeoutError:
        raise Hit(SLEEPS) from None
    except PersistenceError:
        raise Hit(ENDS) from None
