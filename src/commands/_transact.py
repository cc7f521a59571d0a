"""From a decision to its append: load, decide, append, and on conflict decide again.

The one retry loop of the write side. A decision is a pure function of the streams it reads; it may run any
number of times. It reads what the streams will be once all is committed that this process has queued before
it, and its tips say so: the log takes it if that has come true, and nobody is told before.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
    OutcomeUnknown,
    Receipt,
    Verdict,
)
from commands.shop import Shop, UnderWay
from domain.envelope import NOTHING, Metadata, Tip
from domain.values import Event, Rejected

MAX_SECONDS: Final = 10.0
"""How long a command may try; then it is refused as `Contended`."""
MAX_LOADS: Final = 8
"""How many times one decision may find that it reads more than is loaded."""
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.05
MAX_DOUBLINGS: Final = 10

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
    def tips(self) -> dict[str, Tip]:
        return {name: known.tip for name, known in self.streams.known.items()}


async def transact(
    shop: Shop, issued: Issued, decide: Decide, *, occurred_at: datetime | None = None
) -> Receipt:
    """Run `decide` until what it decided is in the log.

    `occurred_at`: of what happened elsewhere, before it was recorded here; None: when it is decided.

    Raises the refusal of the decision, `KeyReused`, `Contended`, or what `Log` raises. A repeat of a request
    that had its effect gets the receipt of that effect, whatever would be decided today.
    """
    deadline = asyncio.get_running_loop().time() + MAX_SECONDS
    while (twin := shop.under_way.get(issued.digest)) is not None:
        if receipt := await _receipt_of(twin, issued, deadline):
            return receipt
    ended: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
    shop.under_way[issued.digest] = (issued.fingerprint, ended)
    receipt = None
    try:
        receipt = await _transact(shop, issued, decide, occurred_at, deadline)
    finally:
        del shop.under_way[issued.digest]
        ended.set_result(receipt)
    return receipt


async def _receipt_of(twin: UnderWay, issued: Issued, deadline: float) -> Receipt | None:
    """Of the same request, sent twice at a time: deciding it twice would only fail what follows it.

    None when that one came to nothing. `KeyReused`; `OutcomeUnknown` at the deadline: it may still be done.
    """
    fingerprint, ended = twin
    try:
        async with asyncio.timeout_at(deadline):
            receipt = await asyncio.shield(ended)
    except TimeoutError:
        raise OutcomeUnknown(f"the same request is under way since {MAX_SECONDS:.0f} s") from None
    if receipt is not None and fingerprint != issued.fingerprint:
        raise KeyReused
    return receipt._replace(replayed=True) if receipt is not None else None


async def _transact(
    shop: Shop, issued: Issued, decide: Decide, occurred_at: datetime | None, deadline: float
) -> Receipt:
    for tries in itertools.count():
        plan = await _planned(shop, issued, decide)
        await shop.reached("before_append")
        speculative = shop.states.speculates(plan.streams.known)
        match await _append(shop, issued, plan, occurred_at or plan.streams.at):
            case Appended(events):
                if plan.refusal is not None:
                    raise plan.refusal
                if plan.final:
                    return Receipt(events, replayed=False)
            case Duplicate(first, count):
                return Receipt(tuple(await shop.log.read_positions(first, count)), replayed=True)
            case Mismatch():
                raise KeyReused
            case Conflict():
                if asyncio.get_running_loop().time() > deadline:
                    raise Contended
                if speculative or not shop.states.moved_on(plan.tips):
                    await _refresh(shop, plan, tries)
    raise AssertionError("never")


async def _refresh(shop: Shop, plan: _Plan, tries: int) -> None:
    """Bring what a plan has read up to the log; if that tells nothing new, forget it and wait a little."""
    read = plan.streams.known
    await shop.states.load({name: known.aggregate for name, known in read.items()})
    if not shop.states.moved_on(plan.tips):
        shop.states.forget(read)
        pause = min(FIRST_PAUSE_S * 2 ** min(tries, MAX_DOUBLINGS), LONGEST_PAUSE_S)
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 — jitter, not a secret


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


async def _append(shop: Shop, issued: Issued, plan: _Plan, at: datetime) -> Verdict:
    """No await before the append is queued: what it leaves is known to the next decision, and follows it."""
    tips = plan.tips
    tip = dict(tips)
    events: list[tuple[NewEvent, Tip]] = []
    for name, written in plan.writes.items():
        for event in written:
            new = NewEvent(name, getattr(event, "event_id", None) or shop.ids.new(), event)
            tip[name] = Tip(tip.setdefault(name, NOTHING).version + 1, new.event_id)
            events.append((new, tip[name]))
            tips.setdefault(name, NOTHING)
    if len(tips) > MAX_STREAMS_PER_APPEND or len(events) > MAX_EVENTS_PER_APPEND:
        raise AssertionError(f"a decision over {len(tips)} streams and {len(events)} events")
    append = Append(
        tips=tips,
        events=[new for new, _ in events],
        metadata=Metadata(
            occurred_at=at,
            actor=issued.actor,
            command_id=issued.command_id,
            correlation_id=issued.correlation_id,
            causation_id=issued.causation_id,
            trace_id=issued.trace_id,
        ),
        digest=issued.digest if plan.final else None,
        fingerprint=issued.fingerprint if plan.final else None,
    )
    flight = shop.states.admit(plan.streams.known, events, at)
    verdict: Verdict | None = None
    try:
        verdict = await shop.log.append(append)
    finally:
        if isinstance(verdict, Appended):
            shop.states.landed(flight)
        else:
            shop.states.lost(flight)
    return verdict
