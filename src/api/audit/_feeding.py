"""How a feed is read from the log batch by batch, and sent for as long as somebody reads it.

A stream is read by its own index, a context by its lanes. Where the events of a category, type, actor or
correlation are, the index of events says, a stretch of the log at a time; they are read from the log, and
judged by the filter. What the index does not say, reading along finds, in its time.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.audit._query import rendered
from api.audit.ports import Filter, History, HistoryEvent, Index

NDJSON: Final = "application/x-ndjson"
SERVER_SENT: Final = "text/event-stream"
BATCH_EVENTS: Final = 500
STRETCH: Final = 200_000
"""How far a question to the index goes at most: what few events are at once may be looked for in many."""
MAX_POSITIONS: Final = 10 * BATCH_EVENTS
"""Of one answer of the index."""
HEARTBEAT_SECONDS: Final = 15.0
SILENCE_SECONDS: Final = 60.0
"""How long the client may read nothing."""

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What a filter takes of the events up to a position."""

    upto: int
    events: Sequence[HistoryEvent]


async def until(log: History, index: Index, wanted: Filter, after: int, upto: int) -> AsyncGenerator[Batch]:
    """What is wanted after one position and up to another."""
    if wanted.stream is not None:
        reading = _stream(log, wanted.stream, after, upto)
    elif wanted == Filter(wanted.context):
        reading = _along(log, wanted.context, after, upto)
    else:
        reading = _found(log, index, wanted, after, upto)
    async with aclosing(reading):
        async for batch in reading:
            yield Batch(batch.upto, [event for event in batch.events if wanted.takes(event)])


async def _stream(log: History, stream: str, after: int, upto: int) -> AsyncGenerator[Batch]:
    version = await _version_at(log, stream, after) if after < upto else 0
    while after < upto:
        events = await log.read_stream(stream, after_version=version, limit=BATCH_EVENTS)
        version = events[-1].version if events else version
        after = min(events[-1].position, upto) if len(events) == BATCH_EVENTS else upto
        yield Batch(after, [event for event in events if event.position <= upto])


async def _along(log: History, context: str | None, after: int, upto: int) -> AsyncGenerator[Batch]:
    while after < upto:
        if context is None:
            events = await log.read(after, min(BATCH_EVENTS, upto - after))
        else:
            events = await log.read_context(context, after=after, upto=upto, limit=BATCH_EVENTS)
        after = events[-1].position if len(events) == BATCH_EVENTS else upto
        yield Batch(after, events)


async def _found(log: History, index: Index, wanted: Filter, after: int, upto: int) -> AsyncGenerator[Batch]:
    while after < upto:
        stop = min(after + STRETCH, upto)
        positions = await index.positions(wanted, after=after, upto=stop, limit=MAX_POSITIONS)
        if positions is None:
            reading = _along(log, wanted.context, after, stop)
        else:
            stop = positions[-1] if len(positions) == MAX_POSITIONS else stop
            reading = _at(log, positions, stop)
        async with aclosing(reading):
            async for batch in reading:
                yield batch
        after = stop


async def _at(log: History, positions: Sequence[int], upto: int) -> AsyncGenerator[Batch]:
    for first in range(0, len(positions), BATCH_EVENTS):
        page = positions[first : first + BATCH_EVENTS]
        yield Batch(page[-1], await log.read_positions(page))
    yield Batch(upto, [])


async def for_ever(
    log: History, index: Index, wanted: Filter, after: int, head: int
) -> AsyncGenerator[Batch]:
    """What is wanted after a position, and all that comes after `head`."""
    async with aclosing(until(log, index, wanted, after, head)) as past:
        async for batch in past:
            yield batch
    async with aclosing(log.subscribe(max(after, head), BATCH_EVENTS)) as coming:
        async for events in coming:
            yield Batch(events[-1].position, [event for event in events if wanted.takes(event)])


async def lines(batches: AsyncGenerator[Batch], limit: int | None) -> AsyncGenerator[bytes]:
    """An event a line."""
    async with aclosing(batches):
        async for batch in batches:
            events = batch.events[:limit]
            if events:
                yield b"".join(rendered(event) + b"\n" for event in events)
            limit = None if limit is None else limit - len(events)
            if limit == 0:
                return


async def server_sent(batches: AsyncGenerator[Batch]) -> AsyncGenerator[bytes]:
    """Events, and where none comes a comment; its id says how far the reader has come without one."""
    loop = asyncio.get_running_loop()
    spoke, upto = loop.time(), None
    coming = asyncio.ensure_future(anext(batches))
    try:
        while True:
            await asyncio.wait({coming}, timeout=max(0.0, spoke + HEARTBEAT_SECONDS - loop.time()))
            if coming.done():
                batch = coming.result()
                upto = batch.upto
                if batch.events:
                    yield b"".join(map(_server_sent, batch.events))
                    spoke = loop.time()
                coming = asyncio.ensure_future(anext(batches))
            if loop.time() - spoke >= HEARTBEAT_SECONDS:
                yield b":\n\n" if upto is None else b":\nid: %d\n\n" % upto
                spoke = loop.time()
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await batches.aclose()


def _server_sent(event: HistoryEvent) -> bytes:
    head = f"id: {event.position}\nevent: {event.type}\ndata: "
    return head.encode() + rendered(event) + b"\n\n"


async def _version_at(log: History, stream: str, position: int) -> int:
    """Of the stream's last event up to a position: positions grow with versions, so few look-ups find it."""

    async def is_before(version: int) -> bool:
        events = await log.read_stream(stream, after_version=version - 1, limit=1)
        return bool(events) and events[0].position <= position

    before, step = 0, 1
    while await is_before(before + step):
        before, step = before + step, 2 * step
    after = before + step
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if await is_before(middle) else (before, middle)
    return before


class Feed(Response):
    """Sent until it ends or nobody reads it. What is cut off misses its end: no client takes it for whole."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        media_type: str,
        headers: dict[str, str],
        running: asyncio.Semaphore,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "private, no-store", **headers})
        del self.headers["content-length"]
        self._chunks = chunks
        self._running = running

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._running:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send(send), name="send a feed")
            leaving = asyncio.create_task(_gone(receive), name="see a reader of a feed go")
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            except ClientDisconnect:
                logger.info("nobody reads a feed any more")
            finally:
                sending.cancel()
                leaving.cancel()
                await asyncio.wait({sending, leaving})

    async def _send(self, send: Send) -> None:
        """ClientDisconnect if nobody reads."""
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    raise ClientDisconnect from None
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
