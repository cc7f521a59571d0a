"""The recorders that hazards are pointed at, each behind one face.

An event is a word; a stream is a name. What a decision saw of a stream is the recorder's own affair: a tip, a
version, a position.
"""

import asyncio
import enum
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.dcb.postgres_tt import PostgresDCBRecorderTT, PostgresTTDCBFactory
from eventsourcing.persistence import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
    StoredEvent,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresFactory
from eventsourcing.utils import Environment
from log_tools import Appends

from commands.ports import (
    Append,
    Appended,
    Conflict,
    LogFull,
    LogUnavailable,
    NewEvent,
    OutcomeUnknown,
)
from domain.envelope import NOTHING, Tip
from domain.location import LocationRegistered
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.migrate import migrate

READ_LIMIT: Final = 1_000
Seen = Mapping[str, Any]
"""By stream, what a decision saw of it, in the recorder's own terms. What is missing is taken as new."""
Words = Mapping[str, Sequence[str]]
"""What is to be recorded, by stream."""
Heard = tuple[int, str]
"""A position and the word that stands there."""


class Told(enum.Enum):
    """UNKNOWN: send it again to find out. REFUSED: an error that says that nothing was recorded."""

    COMMITTED = enum.auto()
    CONFLICT = enum.auto()
    UNKNOWN = enum.auto()
    REFUSED = enum.auto()


@dataclass(frozen=True, slots=True)
class Draft:
    """A decision, ready to be appended, any number of times. `after`: what the next one would see."""

    payload: Any
    after: Seen | None


class Tail:
    """What a subscriber hears, in turn."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Heard | BaseException] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, heard: Heard | BaseException) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._heard.put_nowait, heard)

    async def next(self) -> Heard:
        """Raises what ended the subscription."""
        heard = await self._heard.get()
        if isinstance(heard, BaseException):
            raise heard
        return heard


class Recorder(Protocol):
    """One process's hold on a log."""

    async def see(self, *streams: str) -> Seen: ...

    def draft(self, words: Words, seen: Seen) -> Draft:
        """No words for a stream that was seen: the decision only read it."""
        ...

    async def append(self, draft: Draft) -> Told: ...

    async def read(self, after: int) -> Sequence[Heard]: ...

    def tail(self, after: int) -> AbstractAsyncContextManager[Tail]: ...


Open = Callable[[str], AbstractAsyncContextManager[Recorder]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A recorder and what the stage must know of it.

    `events` is its table of events and `data` the column with their bytes; `tables` are emptied between
    tests. `commits_with`: the bytes on the wire after which an append may be committed, None for those of
    the event itself. `make` turns an empty database into what `open` expects.
    """

    name: str
    open: Open
    events: str
    data: str
    tables: str
    commits_with: bytes | None = None
    make: Callable[[str], Awaitable[None]] | None = None


class Tallybook:
    def __init__(self, log: PostgresLog, reader: LogReader) -> None:
        self._log = log
        self._reader = reader
        self._appends = Appends()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Recorder]:
        async with PostgresLog.open(url) as log, LogReader.open(url) as reader:
            yield cls(log, reader)

    async def see(self, *streams: str) -> Seen:
        names = [f"location-{stream}" for stream in streams]
        found = await self._log.read_streams(dict.fromkeys(names, 0))
        tips = {
            name: Tip(events[-1].version, events[-1].event_id) if events else NOTHING
            for name, events in found.items()
        }
        return {stream: tips[name] for stream, name in zip(streams, names, strict=True)}

    def draft(self, words: Words, seen: Seen) -> Draft:
        tips: dict[str, Tip] = {**dict.fromkeys(words, NOTHING), **seen}
        after = dict(tips)
        events = []
        for stream, said in words.items():
            for word in said:
                new = NewEvent(
                    f"location-{stream}", self._appends.ids.new(), LocationRegistered(stream, word, "DE")
                )
                events.append(new)
                after[stream] = Tip(after[stream].version + 1, new.event_id)
        named = {f"location-{stream}": tip for stream, tip in tips.items()}
        return Draft(Append(named, events, self._appends.metadata(), None, None), after)

    async def append(self, draft: Draft) -> Told:
        try:
            verdict = await self._log.append(draft.payload)
        except (OutcomeUnknown, LogUnavailable, LogFull):
            return Told.UNKNOWN
        except ValueError:
            return Told.REFUSED
        match verdict:
            case Appended():
                return Told.COMMITTED
            case Conflict():
                return Told.CONFLICT
            case _:
                raise AssertionError(f"{verdict} on an append without a digest")

    async def read(self, after: int) -> Sequence[Heard]:
        return [
            (stored.position, _word(self._reader.decode(stored).event))
            for stored in await self._reader.read(after, READ_LIMIT)
        ]

    @asynccontextmanager
    async def tail(self, after: int) -> AsyncIterator[Tail]:
        tail = Tail()

        async def listen() -> None:
            async for batch in self._reader.subscribe(after):
                for stored in batch:
                    tail.put((stored.position, _word(self._reader.decode(stored).event)))

        listening = asyncio.create_task(listen())
        try:
            yield tail
        finally:
            listening.cancel()
            await asyncio.wait({listening})


def _word(event: object) -> str:
    assert isinstance(event, LocationRegistered)
    return event.name


class Library:
    """`eventsourcing`'s application recorder."""

    def __init__(self, recorder: PostgresApplicationRecorder) -> None:
        self._recorder = recorder

    async def see(self, *streams: str) -> Seen:
        return {stream: await asyncio.to_thread(self._version, stream) for stream in streams}

    def _version(self, stream: str) -> int:
        last = self._recorder.select_events(stream, desc=True, limit=1)
        return last[0].originator_version if last else 0

    def draft(self, words: Words, seen: Seen) -> Draft:
        after = {**dict.fromkeys(words, 0), **seen}
        events = []
        for stream, said in words.items():
            for word in said:
                after[stream] += 1
                events.append(StoredEvent(stream, after[stream], "word", word.encode()))
        return Draft(events, after)

    async def append(self, draft: Draft) -> Told:
        return await _told(self._recorder.insert_events, draft.payload)

    async def read(self, after: int) -> Sequence[Heard]:
        found = await asyncio.to_thread(
            self._recorder.select_notifications, after, READ_LIMIT, inclusive_of_start=False
        )
        return [(notification.id, notification.state.decode()) for notification in found]

    @asynccontextmanager
    async def tail(self, after: int) -> AsyncIterator[Tail]:
        subscription = self._recorder.subscribe(gt=after)
        heard = ((notification.id, notification.state.decode()) for notification in subscription)
        async with _tail_of(subscription, heard, self._recorder) as tail:
            yield tail


class LibraryDcb:
    """`eventsourcing`'s DCB recorder: a stream is a tag, and what was seen of it the log's head.

    A word for a new stream is appended without a condition.
    """

    def __init__(self, recorder: PostgresDCBRecorderTT) -> None:
        self._recorder = recorder

    async def see(self, *streams: str) -> Seen:
        response = await asyncio.to_thread(self._recorder.read, _query(streams))
        return dict.fromkeys(streams, response.head or 0)

    def draft(self, words: Words, seen: Seen) -> Draft:
        events = [
            DCBEvent("word", word.encode(), [stream]) for stream, said in words.items() for word in said
        ]
        condition = DCBAppendCondition(_query(seen), min(seen.values())) if seen else None
        return Draft((events, condition), None)

    async def append(self, draft: Draft) -> Told:
        return await _told(self._recorder.append, *draft.payload)

    async def read(self, after: int) -> Sequence[Heard]:
        found = await asyncio.to_thread(self._recorder.read, after=after, limit=READ_LIMIT)
        return [(event.position, event.event.data.decode()) for event in found]

    @asynccontextmanager
    async def tail(self, after: int) -> AsyncIterator[Tail]:
        subscription = self._recorder.subscribe(after=after)
        heard = ((event.position, event.event.data.decode()) for event in subscription)
        async with _tail_of(subscription, heard, self._recorder) as tail:
            yield tail


def _query(streams: Any) -> DCBQuery:
    return DCBQuery([DCBQueryItem(tags=[stream]) for stream in streams])


async def _told(append: Callable[..., object], *arguments: object) -> Told:
    """In the library's errors: a driver's operational error says nothing about what was committed."""
    try:
        await asyncio.to_thread(append, *arguments)
    except IntegrityError:
        return Told.CONFLICT
    except (OperationalError, InterfaceError):
        return Told.UNKNOWN
    except PersistenceError:
        return Told.REFUSED
    return Told.COMMITTED


@asynccontextmanager
async def _tail_of(
    subscription: Any, heard: Iterator[Heard], recorder: PostgresApplicationRecorder | PostgresDCBRecorderTT
) -> AsyncIterator[Tail]:
    tail = Tail()

    def listen() -> None:
        try:
            for each in heard:
                tail.put(each)
        except PersistenceError as ended:
            tail.put(ended)

    thread = threading.Thread(target=listen)
    subscription.__enter__()
    thread.start()
    try:
        yield tail
    finally:
        subscription.stop()
        await asyncio.to_thread(_notify, recorder)  # else it looks only now and then whether it is to stop
        await asyncio.to_thread(subscription.__exit__, None, None, None)
        await asyncio.to_thread(thread.join)


def _notify(recorder: PostgresApplicationRecorder | PostgresDCBRecorderTT) -> None:
    with recorder.datastore.cursor() as cursor:
        cursor.execute("select pg_notify(%s, '')", (recorder.channel_name,))


def _environment(url: str, **more: str) -> Environment:
    parts = urlsplit(url)
    return Environment(
        env={
            "POSTGRES_DBNAME": parts.path[1:],
            "POSTGRES_HOST": parts.hostname or "",
            "POSTGRES_PORT": str(parts.port),
            "POSTGRES_USER": parts.username or "",
            "POSTGRES_PASSWORD": parts.password or "",
            "POSTGRES_POOL_SIZE": "1",
            "ORIGINATOR_ID_TYPE": "text",
            **more,
        }
    )


def _library(**settings: str) -> Open:
    @asynccontextmanager
    async def open_(url: str) -> AsyncIterator[Recorder]:
        factory = PostgresFactory(_environment(url, **settings))
        try:
            recorder = await asyncio.to_thread(factory.application_recorder)
            assert isinstance(recorder, PostgresApplicationRecorder)
            yield Library(recorder)
        finally:
            await asyncio.to_thread(factory.close)

    return open_


@asynccontextmanager
async def _library_dcb(url: str) -> AsyncIterator[Recorder]:
    factory = PostgresTTDCBFactory(_environment(url))
    try:
        recorder = await asyncio.to_thread(factory.dcb_recorder)
        assert isinstance(recorder, PostgresDCBRecorderTT)
        yield LibraryDcb(recorder)
    finally:
        await asyncio.to_thread(factory.close)


async def _migrated(url: str) -> None:
    await migrate(url, "log")


TALLYBOOK: Final = Contender(
    "Tallybook",
    Tallybook.open,
    "log.events",
    "data",
    "log.events, log.requests, log.writers",
    make=_migrated,
)
LIBRARY: Final = Contender(
    "eventsourcing", _library(), "stored_events", "state", "stored_events", commits_with=b"COMMIT"
)
LIBRARY_FUNCTIONS: Final = Contender(
    "eventsourcing, functions",
    _library(POSTGRES_ENABLE_DB_FUNCTIONS="yes"),
    "stored_events",
    "state",
    "stored_events",
)
LIBRARY_DCB: Final = Contender(
    "eventsourcing, DCB", _library_dcb, "dcb_events_tt_main", "data", "dcb_events_tt_main, dcb_events_tt_tag"
)
CONTENDERS: Final = (TALLYBOOK, LIBRARY, LIBRARY_FUNCTIONS, LIBRARY_DCB)
