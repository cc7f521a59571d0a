"""Closed loops: a caller waits for its answer, then asks again. What is counted, and what is timed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds: what is answered while warming up is not counted."""

    warm: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Events answered a second, and how long an append waited for its answer, in milliseconds.

    A contender that does not tell single answers has no percentiles. `conflicts` are appends that had to be
    made again.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    conflicts: int = 0


@dataclass(slots=True)
class _Count:
    counted_from: float
    until: float
    events: int = 0
    waits: list[float] = field(default_factory=list)

    @classmethod
    def over(cls, window: Window) -> "_Count":
        counted_from = perf_counter() + window.warm
        return cls(counted_from, counted_from + window.seconds)

    def answered(self, events: int, began: float, now: float) -> None:
        if self.counted_from <= now < self.until:
            self.events += events
            self.waits.append(now - began)


async def in_tasks(once: Callable[[], Awaitable[int]], callers: int, window: Window) -> Measured:
    """`once` appends, and returns the number of events that were acknowledged."""
    count = _Count.over(window)

    async def caller() -> None:
        while (began := perf_counter()) < count.until:
            events = await once()
            count.answered(events, began, perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return _summary([count], window)


def in_threads(callers: Sequence[Callable[[], int]], window: Window) -> Measured:
    """As `in_tasks`: a thread a caller, each with an `once` of its own. What one raises is raised here."""
    counts = [_Count.over(window) for _ in callers]
    failures: list[Exception] = []

    def call(once: Callable[[], int], count: _Count) -> None:
        try:
            while (began := perf_counter()) < count.until and not failures:
                events = once()
                count.answered(events, began, perf_counter())
        except Exception as failure:  # noqa: BLE001 - raised by who waits for the threads
            failures.append(failure)

    threads = [threading.Thread(target=call, args=pair) for pair in zip(callers, counts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return _summary(counts, window)


def _summary(counts: Sequence[_Count], window: Window) -> Measured:
    waits = [wait for count in counts for wait in count.waits]
    if len(waits) < 2:  # noqa: PLR2004 - of fewer there are no percentiles
        raise RuntimeError(f"{len(waits)} answers in {window.seconds} s")
    hundredths = quantiles(waits, n=100)
    return Measured(
        rate=sum(count.events for count in counts) / window.seconds,
        p50_ms=1_000 * hundredths[49],
        p99_ms=1_000 * hundredths[98],
    )
