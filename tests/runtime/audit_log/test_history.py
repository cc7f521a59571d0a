"""What auditors read is what the writers' own reader reads, event by event, and in constant memory."""

import asyncio
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import pytest
from eventsourcing.persistence import InternalError, NotSupportedError, ProgrammingError
from history import Writer, history

from domain.envelope import Recorded
from domain.order import ORDER, OrderPlaced
from domain.price import PRICE
from domain.product import PRODUCT
from domain.stock import STOCK, StockReceived
from domain.values import Aggregate, category_of
from runtime.audit_log import history as of_auditors
from runtime.audit_log.history import History
from runtime.audit_log.mapper import AuditMapper, Fact, Kept
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader, StoredEvent
from runtime.migrate import migrate

NOUNS: dict[str, Aggregate[Any, Any]] = {noun.category: noun for noun in (ORDER, PRICE, PRODUCT, STOCK)}
PAGE = 7


class Shop(NamedTuple):
    """A random history: where it is, and what the writers' reader says that it is."""

    url: str
    stored: Sequence[StoredEvent]
    recorded: Sequence[Recorded]

    def streams(self) -> dict[str, list[Recorded]]:
        found = defaultdict(list)
        for event in self.recorded:
            found[event.stream].append(event)
        return found


@pytest.fixture(scope="module", params=[1, 2])
def shop(request: pytest.FixtureRequest, new_database_of_module: Callable[[], str]) -> Shop:
    url = new_database_of_module()
    return asyncio.run(_written(url, request.param))


async def _written(url: str, seed: int) -> Shop:
    await migrate(url, "log")
    async with PostgresLog.open(url) as log, LogReader.open(url) as reader:
        writer = Writer(log)
        for facts in history(seed, appends=250):
            await writer.append(*facts)
        stored = await reader.read(0, 10_000)
        return Shop(url, stored, [reader.decode(event) for event in stored])


@pytest.fixture
def audited(shop: Shop) -> Iterator[History]:
    with History.open(shop.url) as audited:
        yield audited


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_auditors, "PAGE_EVENTS", PAGE)


def test_the_whole_history_is_that_of_the_writers(audited: History, shop: Shop) -> None:
    assert len(shop.recorded) > 300
    assert list(audited.events()) == shop.recorded
    assert audited.head() == shop.recorded[-1].position == len(shop.recorded)


@pytest.mark.usefixtures("short_pages")
def test_any_stretch_of_positions_is_that_of_the_writers(audited: History, shop: Shop) -> None:
    head = len(shop.recorded)
    for after in (0, 1, PAGE - 1, PAGE, PAGE + 1, head - 1, head, head + 1):
        assert list(audited.events(after=after)) == shop.recorded[after:]
        for upto in (0, after, after + 1, after + PAGE, after + 2 * PAGE + 1):
            assert list(audited.events(after=after, upto=upto)) == shop.recorded[after:upto]


@pytest.mark.parametrize("stretch", [1, PAGE - 1, PAGE, PAGE + 1, 10_000])
def test_some_types_only(
    monkeypatch: pytest.MonkeyPatch, audited: History, shop: Shop, short_pages: None, stretch: int
) -> None:
    monkeypatch.setattr(of_auditors, "STRETCH", stretch)
    for types in ({OrderPlaced.TYPE}, {OrderPlaced.TYPE, StockReceived.TYPE}, {"nothing.such.v1"}):
        wanted = [event for event in shop.recorded if event.type in types]
        assert list(audited.events(types=sorted(types))) == wanted
        half = len(shop.recorded) // 2
        assert list(audited.events(upto=half, types=sorted(types))) == [
            event for event in wanted if event.position <= half
        ]


@pytest.mark.usefixtures("short_pages")
def test_each_stream_is_that_of_the_writers(audited: History, shop: Shop) -> None:
    streams = shop.streams()
    assert max(map(len, streams.values())) > 2 * PAGE
    for stream, events in streams.items():
        assert list(audited.of_stream(stream)) == events
        assert list(audited.of_stream(stream, after_version=len(events) // 2)) == events[len(events) // 2 :]
    assert list(audited.of_stream("stock-NOBODY@MAIN")) == []


def test_a_state_folded_by_the_library_is_the_state_at_each_version(audited: History, shop: Shop) -> None:
    for stream, events in shop.streams().items():
        noun = NOUNS[category_of(stream)]
        assert audited.state_of(noun, stream) == folded(noun, events)
        half = len(events) // 2
        assert audited.state_of(noun, stream, version=half) == folded(noun, events[:half])
    assert audited.state_of(STOCK, "stock-NOBODY@MAIN") == STOCK.initial


def folded(noun: Aggregate[Any, Any], events: Iterable[Recorded]) -> object:
    return reduce(noun.evolve, (event.event for event in events), noun.initial)


def test_memory_does_not_grow_with_the_history(audited: History, shop: Shop, short_pages: None) -> None:
    def peak(upto: int) -> int:
        tracemalloc.start()
        try:
            for _ in audited.events(upto=upto):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(len(shop.recorded))  # what is made once, is made
    assert peak(len(shop.recorded)) < 1.5 * peak(5 * PAGE)


def test_what_is_mapped_back_has_the_bytes_that_are_stored(audited: History, shop: Shop) -> None:
    mapper = AuditMapper(None)  # type: ignore[arg-type] # our codec is what transcodes
    for historic, stored in zip(audited.events(), shop.stored, strict=True):
        draft = mapper.to_stored_event(historic)
        assert (draft.originator_id, draft.originator_version, draft.topic, draft.event_id) == (
            stored.stream,
            stored.version,
            stored.type,
            stored.event_id,
        )
        assert (draft.state, draft.metadata) == (stored.data, stored.metadata)


def test_the_mapper_takes_events_of_the_shop_only(shop: Shop) -> None:
    mapper = AuditMapper(None)  # type: ignore[arg-type] # our codec is what transcodes
    with pytest.raises(ProgrammingError, match="object is no event of the shop"):
        mapper.to_stored_event(object())  # type: ignore[arg-type] # that is the point
    foreign = Kept(
        "stock-A@B",
        1,
        "runtime.shop:Shop",
        b"{}",
        1,
        "id",
        "inventory",
        0,
        b"{}",
        shop.recorded[0].recorded_at,
    )
    with pytest.raises(ValueError, match="no event of this code has the stored name"):
        mapper.to_domain_event(foreign)


def test_what_is_sealed_is_neither_enciphered_nor_compressed() -> None:
    with pytest.raises(NotSupportedError, match="exact bytes"):
        AuditMapper(None, compressor=object())  # type: ignore[arg-type] # any will do


def test_an_auditor_can_write_nothing(shop: Shop) -> None:
    with History.open(shop.url) as audited:
        recorder, mapper = audited._recorder, audited._mapper
        last = shop.recorded[-1]
        fact = Fact(last.stream, last.version + 1, "0" * 8 + last.event_id[8:], last.event, last.metadata)
        with pytest.raises((ProgrammingError, InternalError), match="permission denied for function"):
            recorder.insert_events([mapper.to_stored_event(fact)])
        assert audited.head() == last.position
