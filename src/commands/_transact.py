"""From a decision to its append: load, decide, append, and on conflict decide again.

The one retry loop of the write side. A decision is a pure function of the streams it reads; it may run any
number of times, on states of which at least the last was the log's own when it was appended.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from commands._states import NotLoaded, Streams
from commands.ports import (
    MAX_EVENTS_PER_APPEND,
    MAX_STREAMS_PER_APPEND,
    Append,
    Appended,
    Conflict,
    Contended,
    Duplicate,
    Issued,
    KeyReused,
    Mismatch,
    NewEvent,
    Receipt,
    Verdict,
)
from commands.shop import Shop
from domain.envelope import NOTHING, Metadata
from domain.values import Event, Rejected

MAX_SECONDS: Final = 10.0
"""How long a command may try; then it is refused as `Contended`."""
MAX_LOADS: Final = 8
"""How many times one decision may find that it reads more than is loaded."""
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.05

Writes = Mapping[str, Sequence[Event]]
"""The events a decision appends, by stream. A stream it writes and has not read must not exist."""


@dataclass(frozen=True, slots=True)
class First:
    """Record this first, in an append of its own, and decide again."""

    writes: Writes


Decide = Callable[[Streams], Writes | First]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A decision that ran: what it read, and what it writes, or why it refuses."""

    streams: Streams
    writes: Writes
    final: bool
    refusal: Rejected | None

    @property
    def queue(self) -> frozenset[str]:
        """The streams at which callers would conflict: those it writes; for a refusal, none."""
        return frozenset(name for name, events in self.writes.items() if events)


async def transact(shop: Shop, issued: Issued, decide: Decide) -> Receipt:
    """Run `decide` until what it decided is in the log.

    Raises the refusal of the decision, `KeyReused`, `Contended`, or what `Log` raises. A repeat of a request
    that had its effect gets the receipt of that effect, whatever would be decided today.
    """
    deadline = asyncio.get_running_loop().time() + MAX_SECONDS
    plan = await _planned(shop, issued, decide)
    async with shop.turnstiles.through(plan.queue, deadline):
        if shop.states.moved_on(plan.streams.tips):
            plan = await _planned(shop, issued, decide)
        if plan.queue:
            return await _settled(shop, issued, decide, plan, deadline)
    # It writes nothing, so it keeps nobody waiting: refusals share a batch.
    return await _settled(shop, issued, decide, plan, deadline)


async def _settled(shop: Shop, issued: Issued, decide: Decide, plan: _Plan, deadline: float) -> Receipt:
    pause = FIRST_PAUSE_S
    while True:
        await shop.reached("before_append")
        match await _append(shop, issued, plan):
            case Appended(events):
                shop.states.advance(events)
                if plan.refusal is not None:
                    raise plan.refusal
                if plan.final:
                    return Receipt(events, replayed=False)
            case Duplicate(first, count):
                return Receipt(tuple(await shop.log.read_positions(first, count)), replayed=True)
            case Mismatch():
                raise KeyReused
            case Conflict():
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise Contended
                await shop.states.load(plan.streams.aggregates)
                if not shop.states.moved_on(plan.streams.tips):
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 — jitter, not a secret
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    shop.states.forget(plan.streams.aggregates)
        plan = await _planned(shop, issued, decide)


async def _planned(shop: Shop, issued: Issued, decide: Decide) -> _Plan:
    """Run the decision, loading what it turns out to read. No await after its last run."""
    for _ in range(MAX_LOADS):
        streams = Streams(shop.states, shop.clock, issued.if_match)
        try:
            decided = decide(streams)
        except NotLoaded as missing:
            await shop.states.load(missing.streams)
        except Rejected as refusal:
            return _Plan(streams, {}, final=True, refusal=refusal)
        else:
            if isinstance(decided, First):
                return _Plan(streams, decided.writes, final=False, refusal=None)
            return _Plan(streams, decided, final=True, refusal=None)
    raise AssertionError(f"a decision still finds streams to load after {MAX_LOADS} loads")


async def _append(shop: Shop, issued: Issued, plan: _Plan) -> Verdict:
    events = [
        NewEvent(name, getattr(event, "event_id", None) or shop.ids.new(), event)
        for name, written in plan.writes.items()
        for event in written
    ]
    tips = {new.stream: NOTHING for new in events} | plan.streams.tips
    if len(tips) > MAX_STREAMS_PER_APPEND or len(events) > MAX_EVENTS_PER_APPEND:
        raise AssertionError(f"a decision over {len(tips)} streams and {len(events)} events")
    metadata = Metadata(
        occurred_at=plan.streams.at,
        actor=issued.actor,
        command_id=issued.command_id,
        correlation_id=issued.correlation_id,
        causation_id=issued.causation_id,
        trace_id=issued.trace_id,
    )
    bound = plan.final
    return await shop.log.append(
        Append(
            tips=tips,
            events=events,
            metadata=metadata,
            digest=issued.digest if bound else None,
            fingerprint=issued.fingerprint if bound else None,
        )
    )
