"""Appends that wait for their turn, in the order in which they came, and the next batch of them."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from commands.ports import LogFull, Verdict
from runtime.log.batch import Encoded

MAX_WAITING: Final = 8_192
MAX_WAITING_BYTES: Final = 64 * 2**20
MAX_BATCH_APPENDS: Final = 512
MAX_BATCH_ROWS: Final = 4_096
"""Of tips, and of events."""
MAX_BATCH_BYTES: Final = 8 * 2**20


@dataclass(slots=True)
class Waiting:
    """`alone`: it shared a batch that the log did not take, so it is tried without others."""

    encoded: Encoded
    verdict: asyncio.Future[Verdict]
    alone: bool = False

    def answer(self, verdict: Verdict) -> None:
        if not self.verdict.done():  # its caller may have gone away
            self.verdict.set_result(verdict)

    def fail(self, failure: Exception) -> None:
        if not self.verdict.done():
            self.verdict.set_exception(failure)


class Queue:
    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, encoded: Encoded) -> Waiting:
        """`LogFull` when too many are waiting."""
        if len(self._waiting) >= MAX_WAITING or self._bytes + encoded.size > MAX_WAITING_BYTES:
            raise LogFull
        waiting = Waiting(encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._bytes += encoded.size
        self._arrived.set()
        return waiting

    async def not_empty(self) -> None:
        await self._arrived.wait()

    def next_batch(self) -> list[Waiting]:
        """Those that wait longest, within the limits of a batch, and no digest twice."""
        batch: list[Waiting] = []
        digests: set[bytes] = set()
        tips = events = size = 0
        while self._waiting and len(batch) < MAX_BATCH_APPENDS:
            waiting = self._waiting[0]
            encoded, append = waiting.encoded, waiting.encoded.append
            tips += len(append.tips)
            events += len(append.events)
            size += encoded.size
            too_much = max(tips, events) > MAX_BATCH_ROWS or size > MAX_BATCH_BYTES
            if batch and (too_much or waiting.alone or batch[0].alone or append.digest in digests):
                break
            if append.digest is not None:
                digests.add(append.digest)
            batch.append(self._waiting.popleft())
            self._bytes -= encoded.size
        if not self._waiting:
            self._arrived.clear()
        return batch

    def try_alone(self, batch: Sequence[Waiting]) -> None:
        """Nothing of this batch was done: its appends come first again, each in a batch of its own."""
        for waiting in reversed(batch):
            waiting.alone = True
            self._waiting.appendleft(waiting)
            self._bytes += waiting.encoded.size
        self._arrived.set()

    def take_all(self) -> list[Waiting]:
        everything = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._arrived.clear()
        return everything
