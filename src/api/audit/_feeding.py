"""How a feed is read from the log batch by batch, and sent for as long as somebody reads it.

A stream is read by its own index. Every other filter is looked for in all events after the position: what is
rare in a long history takes as long as reading that history.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.audit._query import rendered
from api.audit.ports import History, HistoryEvent

NDJSON: Final = "application/x-ndjson"
SERVER_SENT: Final = "text/event-stream"
BATCH_EVENTS: Final = 500
HEARTBEAT_SECONDS: Final = 15.0
SILENCE_SECONDS: Final = 60.0
"""How long the client may read nothing."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Filter:
    """All that are said must hold. `actor`: its type and id."""

    context: str | None = None
    category: str | None = None
    type: str | None = None
    stream: str | None = None
    actor: tuple[str, str] | None = None
    correlation: str | None = None

    def takes(self, event: HistoryEvent) -> bool:
        if self.context not in {None, event.context} or self.type not in {None, event.type}:
            return False
        if self.category not in {None, event.stream.partition("-")[0]}:
            return False
        if self.stream not in {None, event.stream}:
            return False
        if self.actor is None and self.correlation is None:
            return True
        metadata = json.loads(event.metadata)
        actor = metadata["actor"]["type"], metadata["actor"]["id"]
        return self.actor in {None, actor} and self.correlation in {None, metadata["correlation_id"]}


class Batch(NamedTuple):
    """What a filter takes of the events up to a position."""

    upto: int
    events: Sequence[HistoryEvent]


async def until(log: History, wanted: Filter, after: int, upto: int) -> AsyncGenerator[Batch]:
    """What is wanted after one position and up to another."""
    stream = wanted.stream
    version = await _version_at(log, stream, after) if stream is not None and after < upto else 0
    while after < upto:
        if stream is None:
            events = await log.read(after, BATCH_EVENTS)
        else:
            events = await log.read_stream(stream, after_version=version, limit=BATCH_EVENTS)
        version = events[-1].version if events else version
        after = min(events[-1].position, upto) if len(events) == BATCH_EVENTS else upto
        yield Batch(after, [event for event in events if event.position <= upto and wanted.takes(event)])


async def for_ever(log: History, wanted: Filter, after: int, head: int) -> AsyncGenerator[Batch]:
    """What is wanted after a position, and all that comes after `head`."""
    async with aclosing(until(log, wanted, after, head)) as past:
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
