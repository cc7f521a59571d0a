"""A log and a shop as they would be if one thing were done after the other, and what writers were told.

The true order is the log's. Whatever a writer was told must be what it would have been told there, at a point
between its question and the answer; what nobody was told must be there wholly or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final, Literal, cast

from log_worker import PLACE, REFERENCE, Said

from domain import stock
from domain.envelope import NOTHING, Tip
from domain.stock import STOCK, Holder, InsufficientStock, Item, Stock, StockEvent, StockReserved
from domain.values import Event

UNTOLD: Final = frozenset({"waiting", "unknown", "cancelled", "lost"})
"""Verdicts after which all of it may be in the log, or nothing. `lost`: the process was killed."""
NEVER: Final = datetime.max.replace(tzinfo=UTC)
Kind = Literal["append", "receive", "adjust", "reserve"]


@dataclass(frozen=True, slots=True)
class Row:
    """An event of the log as it is stored, and what of its metadata matters here."""

    position: int
    stream: str
    version: int
    event_id: str
    event: Event
    command_id: str
    occurred_at: datetime


@dataclass
class Attempt:
    """What a writer was asked to do. Heads are the log's, read before it was sent and after its answer came.

    `asked` is what went to the process (log_worker.py). Turns count sendings and answers, whoever's.
    """

    number: int
    process: int
    asked: Said
    sent_head: int
    sent_turn: int
    verdict: str = "waiting"
    told: Said = field(default_factory=dict)
    answered_head: int = 0
    answered_turn: int = 0
    answered_at: datetime = NEVER

    @property
    def kind(self) -> Kind:
        return cast("Kind", self.asked["do"])

    @property
    def command_id(self) -> str:
        return cast("str", self.asked["command_id"])

    @property
    def digest(self) -> str | None:
        return cast("str | None", self.asked["digest"])

    @property
    def tips(self) -> dict[str, Tip]:
        return {stream: Tip(*tip) for stream, tip in self.asked["tips"].items()}

    @property
    def event_ids(self) -> list[tuple[str, str]]:
        return [(stream, event_id) for stream, event_id in self.asked["events"]]

    def __str__(self) -> str:
        said = {key: value for key, value in self.told.items() if key not in {"id", "verdict"}}
        return (
            f"#{self.number} of process {self.process}, sent at {self.sent_head} (turn {self.sent_turn}),"
            f" {self.verdict} at {self.answered_head} (turn {self.answered_turn}) {said}: {self.asked}"
        )


@dataclass(frozen=True)
class Effect:
    """What one append wrote: its rows, in order."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> int:
        return self.rows[0].position

    @property
    def last(self) -> int:
        return self.rows[-1].position


class History:
    """The log, one append after the other. A point of it is a position at which an append ends, or 0."""

    def __init__(self, rows: Sequence[Row]) -> None:
        assert [row.position for row in rows] == list(range(1, len(rows) + 1)), "positions have holes"
        self.effects: dict[str, Effect] = {}
        self.points = [0]
        self._tips: dict[str, list[tuple[int, Tip]]] = defaultdict(lambda: [(0, NOTHING)])
        self._stock: dict[str, list[tuple[int, Stock]]] = defaultdict(lambda: [(0, STOCK.initial)])
        versions: dict[str, int] = defaultdict(int)
        for command_id, grouped in groupby(rows, lambda row: row.command_id):
            effect = Effect(tuple(grouped))
            assert command_id not in self.effects, f"in two pieces, or twice: {effect}"
            self.effects[command_id] = effect
            self.points.append(effect.last)
            for row in effect.rows:
                versions[row.stream] += 1
                assert row.version == versions[row.stream], f"versions have holes: {row}"
            self._apply(effect)

    def _apply(self, effect: Effect) -> None:
        tips = {row.stream: Tip(row.version, row.event_id) for row in effect.rows}
        for stream, tip in tips.items():
            self._tips[stream].append((effect.last, tip))
            if stream.startswith(f"{STOCK.category}-"):
                written = (cast("StockEvent", row.event) for row in effect.rows if row.stream == stream)
                self._stock[stream].append((effect.last, stock.fold(self._stock[stream][-1][1], written)))

    def points_between(self, first: int, last: int) -> list[int]:
        return [point for point in self.points if first <= point <= last]

    def tip_at(self, stream: str, point: int) -> Tip:
        return next(tip for since, tip in reversed(self._tips[stream]) if since <= point)

    def stock_at(self, stream: str, point: int) -> Stock:
        return next(state for since, state in reversed(self._stock[stream]) if since <= point)

    def all_hold(self, tips: Mapping[str, Tip], point: int) -> bool:
        return all(self.tip_at(stream, point) == tip for stream, tip in tips.items())

    def old_tips(self, stream: str) -> list[Tip]:
        return [tip for _, tip in self._tips[stream]]


def stock_stream(sku: str) -> str:
    return STOCK.stream(f"{sku}@{PLACE}")


def item(sku: str) -> Item:
    return Item(sku, PLACE, f"product-of-{sku}", f"variant-of-{sku}")


def check(rows: Sequence[Row], attempts: Iterable[Attempt]) -> History:
    """AssertionError, with the attempt in it, for the first thing that one after the other cannot give.

    `attempts` as they were before `rows` were read: what was told by then must be there.
    """
    history = History(rows)
    by_id = {attempt.command_id: attempt for attempt in attempts}
    assert history.effects.keys() <= by_id.keys(), "something that nobody asked for"
    bound: dict[str, Attempt] = {}
    for command_id, effect in history.effects.items():
        attempt = by_id[command_id]
        _allowed(attempt, effect, history)
        if attempt.digest:
            assert attempt.digest not in bound, f"two effects: {attempt} and {bound[attempt.digest]}"
            bound[attempt.digest] = attempt
    for attempt in by_id.values():
        first = bound.get(attempt.digest) if attempt.digest else None
        _told_the_truth(attempt, history, first)
    _after_the_unknown(list(by_id.values()), history)
    return history


def _allowed(attempt: Attempt, effect: Effect, history: History) -> None:
    """What is there may be there, is all of it, and was decided on what was so."""
    assert attempt.verdict in UNTOLD | {"appended"}, f"it left something: {attempt}"
    assert effect.first > attempt.sent_head, f"there before it was sent: {attempt}"
    before = effect.first - 1
    if attempt.kind == "append":
        assert [(row.stream, row.event_id) for row in effect.rows] == attempt.event_ids, f"not all: {attempt}"
        assert history.all_hold(attempt.tips, before), f"on tips that did not hold at {before}: {attempt}"
        return
    written: dict[str, list[Event]] = defaultdict(list)
    for row in effect.rows:
        written[row.stream].append(row.event)
    expected = _decided(attempt, effect, history)
    assert written == expected, f"decided on something else than what was so at {before}: {attempt}"
    for stream in written:
        assert history.stock_at(stream, effect.last).available >= 0, f"oversold: {attempt}"


def _decided(attempt: Attempt, effect: Effect, history: History) -> dict[str, list[StockEvent]]:
    """What the command would write where its effect is."""
    asked, at = attempt.asked, effect.rows[0].occurred_at
    if attempt.kind == "reserve":
        return _reserved(attempt, effect, history)
    stream = stock_stream(asked["sku"])
    state = history.stock_at(stream, effect.first - 1)
    if attempt.kind == "receive":
        return {stream: stock.receive(state, item=item(asked["sku"]), qty=asked["qty"], reference=REFERENCE)}
    return {
        stream: stock.adjust(
            state,
            item=item(asked["sku"]),
            delta=asked.get("delta"),
            counted=asked.get("counted"),
            reason="count",
            note="tried",
            at=at,
        )
    }


def _reserved(attempt: Attempt, effect: Effect, history: History) -> dict[str, list[StockEvent]]:
    reserved = next(row.event for row in effect.rows if isinstance(row.event, StockReserved))
    try:
        return {
            stock_stream(sku): stock.reserve(
                history.stock_at(stock_stream(sku), effect.first - 1),
                item=item(sku),
                reservation_id=reserved.reservation_id,
                holder=Holder("cart", attempt.command_id),
                qty=qty,
                expires_at=reserved.expires_at,
                at=effect.rows[0].occurred_at,
            )
            for sku, qty in attempt.asked["items"]
        }
    except InsufficientStock as short:
        raise AssertionError(f"there was not so much: {short.shortages} for {attempt}") from short


def _told_the_truth(attempt: Attempt, history: History, first: Attempt | None) -> None:
    """`first`: whose effect its digest is bound to."""
    effect = history.effects.get(attempt.command_id)
    points = history.points_between(attempt.sent_head, attempt.answered_head)
    bound = history.effects[first.command_id] if first else None
    if bound and bound.last <= attempt.sent_head:
        due = "mismatch" if first and _says(first) != _says(attempt) else "a repeat's"
        given = {"duplicate": "a repeat's", "replayed": "a repeat's"}.get(attempt.verdict, attempt.verdict)
        excused = UNTOLD | {"full", "unavailable", due}
        assert given in excused, f"its request had its effect already: {attempt}; first {first}"
    match attempt.verdict:
        case "appended" if attempt.kind == "append" and not attempt.event_ids:
            true = any(history.all_hold(attempt.tips, point) for point in points)
            assert true, f"refused on tips that held at none of {points}: {attempt}"
        case "appended":
            assert effect is not None, f"told, and not there: {attempt}"
            there = [[row.position, row.stream, row.version, row.event_id] for row in effect.rows]
            assert there == attempt.told["events"], f"elsewhere than told, {there}: {attempt}"
            assert effect.last <= attempt.answered_head, f"answered before it was there: {attempt}"
        case "conflict":
            false = all(history.all_hold(attempt.tips, point) for point in points)
            assert not false, f"its tips held all the time: {attempt}"
        case "duplicate" | "replayed":
            same = first is not None and _says(first) == _says(attempt)
            assert bound is not None, f"its request had no effect: {attempt}"
            assert same, f"its key has another use: {attempt}; first {first}"
            assert bound.last <= attempt.answered_head, f"told before it was there: {attempt}"
            assert _repeated(attempt) == (bound.first, len(bound.rows)), f"not the first answer: {attempt}"
        case "mismatch":
            other = first is not None and _says(first) != _says(attempt)
            assert other, f"its key has no other use: {attempt}"
        case "short" | "below":
            true = any(_refused(attempt, history, point) for point in points)
            assert true, f"there was enough at all of {points}: {attempt}"
        case "fault":
            raise AssertionError(f"nothing is wrong with it: {attempt}")
        case _:
            pass  # untold, or refused before anything was done: what is there has been judged


def _says(attempt: Attempt) -> Any:
    return attempt.asked["fingerprint"]


def _repeated(attempt: Attempt) -> tuple[int, int]:
    if attempt.verdict == "duplicate":
        return attempt.told["first"], attempt.told["count"]
    events = attempt.told["events"]
    return events[0][0], len(events)


def _refused(attempt: Attempt, history: History, point: int) -> bool:
    """Whether the refusal, with its figures, would have been told at this point."""
    asked = attempt.asked
    if attempt.verdict == "below":
        state = history.stock_at(stock_stream(asked["sku"]), point)
        change = stock.change_on_hand(state, delta=asked.get("delta"), counted=asked.get("counted"))
        available = _obtainable(state, attempt.answered_at)
        figures = {"on_hand": state.on_hand, "available": available}
        return available + change < 0 and {key: attempt.told[key] for key in figures} == figures
    shortages = [
        [sku, qty, obtainable]
        for sku, qty in asked["items"]
        if (obtainable := _obtainable(history.stock_at(stock_stream(sku), point), attempt.answered_at)) < qty
    ]
    return bool(shortages == attempt.told["shortages"])


def _obtainable(state: Stock, now: datetime) -> int:
    """What is free, and what overdue reservations would free."""
    return state.available + sum(held.qty for held in state.held.values() if held.expires_at <= now)


def _after_the_unknown(attempts: Sequence[Attempt], history: History) -> None:
    """An unknown outcome is settled once it is told: it does not arrive after what its process sent later."""
    for lost in attempts:
        if lost.verdict == "unknown" and (late := history.effects.get(lost.command_id)):
            for later in attempts:
                if later.process == lost.process and later.sent_turn > lost.answered_turn:
                    effect = history.effects.get(later.command_id)
                    assert not effect or late.last < effect.first, f"it came late: {lost}; after {later}"
