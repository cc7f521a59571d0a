"""Conditions and queries on what events match: the rules of the Dynamic Consistency Boundary (dcb.events)."""

import asyncio
from dataclasses import replace
from typing import Final

import pytest
from log_tools import Appends, answers, stream, tip

from commands.ports import Append, Appended, Condition, Conflict, Duplicate, Item, Log, Mismatch
from domain.envelope import NOTHING
from domain.location import LocationRegistered
from domain.stock import Reference, StockReceived
from runtime.log import limits
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader

pytestmark = pytest.mark.anyio

REGISTERED, RECEIVED = LocationRegistered.TYPE, StockReceived.TYPE
HISTORY: Final = (
    (REGISTERED, "a"),
    (REGISTERED, "ab"),
    (RECEIVED, "b"),
    (RECEIVED, ""),
    (REGISTERED, "ca"),
    (RECEIVED, "abc"),
)
"""Types and tags of the events from position 1 on."""


def item(*types: str, tags: str = "") -> Item:
    """A tag is one letter."""
    return Item(frozenset(types), frozenset(tags))


QUERIES: Final[dict[str, tuple[tuple[Item, ...], list[int]]]] = {
    "one type": ((item(REGISTERED),), [1, 2, 5]),
    "any of two types": ((item(REGISTERED, RECEIVED),), [1, 2, 3, 4, 5, 6]),
    "everything": ((item(),), [1, 2, 3, 4, 5, 6]),
    "one tag": ((item(tags="a"),), [1, 2, 5, 6]),
    "all of two tags": ((item(tags="ab"),), [2, 6]),
    "all of three tags": ((item(tags="bca"),), [6]),
    "a type and a tag": ((item(RECEIVED, tags="b"),), [3, 6]),
    "a type and two tags": ((item(REGISTERED, tags="ac"),), [5]),
    "two types and a tag": ((item(RECEIVED, REGISTERED, tags="c"),), [5, 6]),
    "nobody's type": ((item("nothing.happened.v1"),), []),
    "nobody's tag": ((item(tags="z"),), []),
    "a tag and nobody's": ((item(tags="az"),), []),
    "a tag and nobody's type": ((item("nothing.happened.v1", tags="a"),), []),
    "either of two items": ((item(tags="c"), item(RECEIVED, tags="b")), [3, 5, 6]),
    "items that overlap": ((item(tags="a"), item(tags="b"), item(REGISTERED)), [1, 2, 3, 5, 6]),
    "an item with tags or one without": ((item(tags="z"), item(RECEIVED)), [3, 4, 6]),
}


def of_type(append: Append, type_: str) -> Append:
    if type_ == REGISTERED:
        return append
    received = StockReceived("MUG", "BER", "p", "v", 1, Reference("initial", "i"))
    return append._replace(events=[new._replace(event=received) for new in append.events])


async def write_history(log: Log, appends: Appends) -> None:
    for position, (type_, tags) in enumerate(HISTORY, start=1):
        verdict = await log.append(of_type(appends.of(stream(), tags=tags), type_))
        assert isinstance(verdict, Appended)
        assert verdict.events[0].position == position


def none_of(*query: Item, after: int) -> list[Condition]:
    return [Condition(query, after)]


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_finds_what_a_condition_forbids(log: Log, appends: Appends, name: str) -> None:
    query, matching = QUERIES[name]
    await write_history(log, appends)
    for after in range(len(HISTORY) + 1):
        expected = [position for position in matching if position > after]
        found, upto = await log.read_query(query, after=after, limit=100)
        assert [event.position for event in found] == expected
        assert upto == len(HISTORY)
        refusal = appends.of(conditions=none_of(*query, after=after))
        assert await log.append(refusal) == (Conflict() if expected else Appended(()))
    forbidden, allowed = (
        appends.of(stream(), conditions=none_of(*query, after=after)) for after in (0, len(HISTORY))
    )
    told = await answers(log, [forbidden, allowed])
    assert [type(verdict) for verdict in told] == [Conflict if matching else Appended, Appended]


async def test_a_query_with_a_limit_says_up_to_where_it_is_complete(log: Log, appends: Appends) -> None:
    await write_history(log, appends)
    query, matching = QUERIES["items that overlap"]
    assert matching == [1, 2, 3, 5, 6]
    for limit, expected, upto in [(1, [1], 1), (4, [1, 2, 3, 5], 5), (5, matching, 6), (6, matching, 6)]:
        found, complete = await log.read_query(query, limit=limit)
        assert ([event.position for event in found], complete) == (expected, upto)
    pages, after = [], 0
    while after < len(HISTORY):
        found, after = await log.read_query([item(tags="b")], after=after, limit=2)
        pages.append([event.position for event in found])
    assert pages == [[2, 3], [6]]
    assert await log.read_query([item(tags="z")], after=3, limit=1) == ([], len(HISTORY))


async def test_a_query_gives_events_as_they_were_recorded(log: Log, appends: Appends) -> None:
    await write_history(log, appends)
    found, _ = await log.read_query([item()], limit=100)
    assert list(found) == list(await log.read_positions(1, 100))


async def test_an_empty_log_matches_nothing(log: Log, appends: Appends) -> None:
    assert await log.read_query([item()], limit=10) == ([], 0)
    verdict = await log.append(appends.of(stream(), conditions=none_of(item(), after=0)))
    assert isinstance(verdict, Appended)


async def test_all_of_several_conditions_must_hold(log: Log, appends: Appends) -> None:
    await write_history(log, appends)
    holds, fails = Condition((item(tags="a"),), 6), Condition((item(tags="b"),), 5)
    told = await answers(
        log,
        [
            appends.of(stream(), conditions=conditions)
            for conditions in (
                [holds, fails],
                [fails, holds],
                [fails],
                [holds, holds],
                [replace(fails, after=6)],
            )
        ],
    )
    assert [type(verdict) for verdict in told] == [Conflict, Conflict, Conflict, Appended, Appended]


async def test_conditions_and_tips_must_both_hold(log: Log, appends: Appends) -> None:
    await write_history(log, appends)
    name = stream()
    [first] = await answers(log, [appends.of(name)])
    assert isinstance(first, Appended)
    good_tip, bad_tip = {name: tip(first.events[0])}, {name: NOTHING}
    good, bad = none_of(item(tags="a"), after=6), none_of(item(tags="a"), after=5)
    for tips, conditions, expected in [
        (bad_tip, good, Conflict),
        (good_tip, bad, Conflict),
        (bad_tip, bad, Conflict),
        (good_tip, good, Appended),
    ]:
        [verdict] = await answers(log, [appends.of(tips=tips, conditions=conditions)])
        assert type(verdict) is expected


@pytest.mark.parametrize(
    "query", [(item(tags="x"),), (item(REGISTERED),), (item(),), (item(REGISTERED, tags="x"),)]
)
async def test_what_comes_before_it_in_a_batch_counts(
    log: Log, appends: Appends, query: tuple[Item, ...]
) -> None:
    await write_history(log, appends)
    writes = appends.of(stream(), tags="xy")
    told = await answers(
        log,
        [
            appends.of(stream(), tags="w", conditions=none_of(item(tags="x"), after=6)),  # before: no matter
            writes,
            appends.of(stream(), conditions=none_of(*query, after=6)),
            appends.of(conditions=none_of(*query, after=6)),
            appends.of(stream(), tags="z", conditions=none_of(item(RECEIVED, tags="x"), after=6)),
            appends.of(conditions=none_of(item(tags="xz"), after=6)),  # on two events, on neither both
        ],
    )
    kinds = [Appended, Appended, Conflict, Conflict, Appended, Appended]
    assert [type(verdict) for verdict in told] == kinds


async def test_a_condition_may_name_a_position_that_only_its_batch_reaches(
    log: Log, appends: Appends
) -> None:
    """As a process does that knows what it has just sent; one that not even its batch reaches is none."""
    told = await answers(
        log,
        [
            appends.of(stream(), stream(), tags="x"),
            *(appends.of(conditions=none_of(item(tags="x"), after=after)) for after in (1, 2, 3)),
        ],
    )
    assert [type(verdict) for verdict in told] == [Appended, Conflict, Appended, Conflict]


async def test_what_failed_before_it_in_a_batch_does_not_count(log: Log, appends: Appends) -> None:
    taken = stream()
    await answers(log, [appends.of(taken, digest=b"d" * 16)])
    told = await answers(
        log,
        [
            appends.of(taken, tags="x"),  # it exists
            appends.of(stream(), tags="x", digest=b"d" * 16),  # a repeat
            appends.of(tips={stream(): NOTHING}),  # a refusal: it writes nothing
            appends.of(stream(), tags="y", conditions=none_of(item(tags="x"), after=0)),
            appends.of(stream(), conditions=none_of(item(tags="y"), after=0)),
        ],
    )
    kinds = [Conflict, Duplicate, Appended, Appended, Conflict]
    assert [type(verdict) for verdict in told] == kinds
    assert await log.read_query([item(tags="x")], limit=10) == ([], 2)


async def test_its_own_events_are_no_obstacle(log: Log, appends: Appends) -> None:
    [verdict] = await answers(
        log, [appends.of(stream(), stream(), tags="x", conditions=none_of(item(tags="x"), after=0))]
    )
    assert isinstance(verdict, Appended)
    [verdict] = await answers(
        log, [appends.of(stream(), tags="x", conditions=none_of(item(tags="x"), after=2))]
    )
    assert isinstance(verdict, Appended)


async def test_a_repeat_is_a_repeat_whatever_its_conditions(log: Log, appends: Appends) -> None:
    conditions = none_of(item(tags="x"), after=0)
    claim = appends.of(stream(), tags="x", digest=b"d" * 16, conditions=conditions)
    [first] = await answers(log, [claim])
    assert isinstance(first, Appended)
    another = claim._replace(fingerprint=b"g" * 32)
    refusal = appends.of(digest=b"d" * 16, conditions=conditions)
    other = appends.of(stream(), tags="x", conditions=conditions)
    told = await answers(log, [other, claim, another, refusal])
    assert told == [Conflict(), Duplicate(1, 1), Mismatch(), Duplicate(1, 1)]
    found, _ = await log.read_query([item(tags="x")], limit=10)
    assert list(found) == list(first.events)


async def test_who_conflicts_reads_on_and_decides_again(log: Log, appends: Appends) -> None:
    """A number without a gap, drawn from what the log says: the textbook's invoice."""

    async def draw() -> None:
        for _ in range(100):
            seen, upto = await log.read_query([item(tags="i")], limit=100)
            drawn = appends.of(
                f"location-I{len(seen) + 1}", tags="i", conditions=none_of(item(tags="i"), after=upto)
            )
            if isinstance(await log.append(drawn), Appended):
                return
        pytest.fail("it never came to pass")

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(draw())
    events = await log.read_positions(1, 100)
    assert [event.stream for event in events] == [f"location-I{n}" for n in range(1, 13)]


async def test_each_event_has_its_own_tags(log: Log, appends: Appends) -> None:
    append = appends.of(*(stream() for _ in range(3)))
    tags = ["p", "pq", ""]
    events = [new._replace(tags=frozenset(of)) for new, of in zip(append.events, tags, strict=True)]
    await answers(log, [appends.of(stream(), tags="q"), append._replace(events=events), appends.of(stream())])
    for query, expected in [(item(tags="p"), [2, 3]), (item(tags="q"), [1, 3]), (item(tags="qp"), [3])]:
        found, upto = await log.read_query([query], limit=10)
        assert ([event.position for event in found], upto) == (expected, 5)


async def test_tags_are_told_apart_to_the_letter(log: Log, appends: Appends) -> None:
    tags = [
        "sku:ä",
        "sku:a",
        "SKU:A",
        "sku:a ",
        "sku:" + "x" * 116,
        "sku:a'; --",
        '{"a",b\\}',
        "\u2028",
        "NULL",
    ]
    for tag in tags:
        [verdict] = await answers(
            log,
            [(one := appends.of(stream()))._replace(events=[one.events[0]._replace(tags=frozenset([tag]))])],
        )
        assert isinstance(verdict, Appended)
    for position, tag in enumerate(tags, start=1):
        found, _ = await log.read_query([Item(tags=frozenset([tag]))], limit=10)
        assert [event.position for event in found] == [position]
        [verdict] = await answers(
            log, [appends.of(conditions=none_of(Item(tags=frozenset([tag])), after=position - 1))]
        )
        assert verdict == Conflict()


@pytest.mark.parametrize(
    "query",
    [
        (),
        (item(),) * (limits.MAX_ITEMS + 1),
        (Item(tags=frozenset([""])),),
        (Item(tags=frozenset(["x" * 121])),),
        (Item(tags=frozenset(["a\0"])),),
        (Item(tags=frozenset(["\ud800"])),),
        (Item(tags=frozenset(map(str, range(limits.MAX_TAGS + 1)))),),
        (Item(types=frozenset(map(str, range(limits.MAX_TAGS + 1)))),),
    ],
)
async def test_what_no_log_looks_for(log: Log, appends: Appends, query: tuple[Item, ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        await log.read_query(query, limit=1)
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        await log.append(appends.of(stream(), conditions=none_of(*query, after=0)))
    if query and query[0].tags:
        good = appends.of(stream())
        with pytest.raises(ValueError, match="tag"):
            await log.append(good._replace(events=[good.events[0]._replace(tags=query[0].tags)]))
    with pytest.raises(ValueError, match="position"):
        await log.append(appends.of(stream(), conditions=none_of(item(), after=-1)))
    assert await log.read_positions(1, 10) == []


async def test_the_limits_of_conditions(log: Log, appends: Appends) -> None:
    tags = [f"{n:0120}" for n in range(limits.MAX_TAGS)]
    one = appends.of(stream())
    full = one._replace(events=[one.events[0]._replace(tags=frozenset(tags))])
    query = tuple(Item(frozenset(tags), frozenset([*tags[1:], f"other{n}"])) for n in range(limits.MAX_ITEMS))
    told = await answers(log, [full, appends.of(stream(), conditions=[Condition(query, 0)])])
    assert [type(verdict) for verdict in told] == [Appended, Appended]
    query = (*query[1:], Item(tags=frozenset(tags)))
    assert await log.append(appends.of(conditions=[Condition(query, 0)])) == Conflict()
    found, _ = await log.read_query(query, limit=10)
    assert [event.position for event in found] == [1]


async def test_a_reader_finds_by_the_same_queries(log_url: str, appends: Appends) -> None:
    async with PostgresLog.open(log_url) as log, LogReader.open(log_url) as reader:
        await write_history(log, appends)
        for query, matching in QUERIES.values():
            found, upto = await reader.read_query(query, after=1, limit=3)
            expected = [position for position in matching if position > 1][:3]
            assert [event.position for event in found] == expected
            assert upto == (expected[-1] if len(expected) == 3 else len(HISTORY))
            assert found == [event for event in await reader.read(0) if event.position in expected]


async def test_a_query_asks_for_one_event_at_least(log: Log) -> None:
    with pytest.raises(ValueError, match="at most 0 events"):
        await log.read_query([Item(types=frozenset({"a.b.v1"}))], limit=0)


async def test_a_position_that_the_log_has_not_reached_is_no_ground_for_a_decision(
    log: Log, appends: Appends
) -> None:
    query = (Item(types=frozenset({"location.registered.v1"})),)
    beyond = appends.of(stream())._replace(conditions=(Condition(query, after=1_000),))
    assert await log.append(beyond) == Conflict()


@pytest.mark.parametrize("after", [-1, 2**63])
async def test_what_is_no_position_is_told_at_once(log: Log, appends: Appends, after: int) -> None:
    query = (Item(types=frozenset({"a.b.v1"})),)
    with pytest.raises(ValueError, match="no position"):
        await log.read_query(query, after=after, limit=1)
    with pytest.raises(ValueError, match="no position"):
        await log.append(appends.of(stream())._replace(conditions=(Condition(query, after=after),)))
