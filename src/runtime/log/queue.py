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
"""Of each append its tips or its events, whichever are more, and what tags and conditions cost."""
MAX_BATCH_BYTES: Final = 8 * 2**20
WORTH_HALVING: Final = 8
"""From so many rows on, a queue is sent in two batches that overlap."""


@dataclass(slots=True)
class Waiting:
    """`alone`: it shared a batch that the log did not take, so it is tried without others.

    `sent`: how often it went out and the connection broke before the answer.
    """

    encoded: Encoded
    verdict: asyncio.Future[Verdict]
    alone: bool = False
    sent: int = 0

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
        self._rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, encoded: Encoded) -> Waiting:
        """`LogFull` when too many are waiting."""
        if len(self._waiting) >= MAX_WAITING or self._bytes + encoded.size > MAX_WAITING_BYTES:
            raise LogFull
        waiting = Waiting(encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._count(waiting, 1)
        return waiting

    def next_batch(self, *, half: bool) -> list[Waiting]:
        """Those that wait longest, within the limits of a batch, and no digest twice.

        `half`: leave the other half of the rows for a batch that goes out behind this one.
        """
        batch: list[Waiting] = []
        digests: set[bytes] = set()
        enough = self._rows / 2 if half and self._rows >= WORTH_HALVING else self._rows
        rows = size = 0
        while self._waiting and len(batch) < MAX_BATCH_APPENDS and rows < enough:
            waiting = self._waiting[0]
            encoded, append = waiting.encoded, waiting.encoded.append
            rows += encoded.rows
            size += encoded.size
            too_much = rows > MAX_BATCH_ROWS or size > MAX_BATCH_BYTES
            if batch and (too_much or waiting.alone or batch[0].alone or append.digest in digests):
                break
            if append.digest is not None:
                digests.add(append.digest)
            batch.append(self._waiting.popleft())
        for waiting in batch:
            self._count(waiting, -1)
        return batch

    def put_back(self, batch: Sequence[Waiting]) -> None:
        """They come first again, in their order."""
        for waiting in reversed(batch):
            self._waiting.appendleft(waiting)
            self._count(waiting, 1)

    def take_all(self) -> list[Waiting]:
        everything = list(self._waiting)
        self._waiting.clear()
        self._bytes = self._rows = 0
        return everything

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._bytes += sign * waiting.encoded.size
        self._rows += sign * waiting.encoded.rows
