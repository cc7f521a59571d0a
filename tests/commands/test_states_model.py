"""States against all that ever happened: any order of sending, committing, losing, cancelling and loading."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.commands.conftest import STAFF, T0

from commands import _states
from commands._states import InFlight, States
from commands.ports import Append, Appended, NewEvent, NoSnapshots
from domain.envelope import NO_EVENT, Metadata, Tip
from domain.location import LocationRegistered
from domain.values import Aggregate
from runtime.ids import CountingIds, FixedClock
from runtime.log.memory import MemoryLog

# A stream whose state is the ids of its events: whatever is mixed up shows.
TALE: Final[Aggregate[tuple[str, ...], LocationRegistered]] = Aggregate(
    "location", (), lambda state, event: (*state, event.name)
)
NAMES: Final = [TALE.stream(name) for name in "ABC"]


@dataclass(eq=False)
class Sent:
    """`follows`: what was in flight when it was decided, and left a state that it read."""

    flight: InFlight
    append: Append
    leaves: Mapping[str, str]
    follows: Sequence["Sent"] = field(repr=False)
    lost: bool = False

    @property
    def doomed(self) -> bool:
        """Lost, or behind what is."""
        before, seen = [self], {self}
        while before:
            sent = before.pop()
            if sent.lost:
                return True
            further = set(sent.follows) - seen
            seen |= further
            before += further
        return False


class StatesMachine(RuleBasedStateMachine):
    """One process, and a log that others write to as well."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.log = MemoryLog(FixedClock(T0))
        self.ids = CountingIds()
        self.states = States(self.log, NoSnapshots())
        self.sent: list[Sent] = []
        self.by_event: dict[str, Sent] = {}

    def teardown(self) -> None:
        while self.sent:
            self.comes_to_the_log(lost=False)
        self.at_rest_nothing_is_left()
        self.runner.close()
        super().teardown()

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def loads(self, names: set[str]) -> None:
        self.runner.run(self.states.load(dict.fromkeys(names, TALE)))

    @rule(
        reads=st.sets(st.sampled_from(NAMES)), writes=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
    )
    def sends(self, reads: set[str], writes: list[str]) -> None:
        names = {*reads, *writes}
        if any(self.states.get(name) is None for name in names):
            self.loads(names)
        read = {name: known for name in sorted(names) if (known := self.states.get(name))}
        if read.keys() != names:
            return  # there is no room for all of them
        events = []
        tips = {name: known.tip for name, known in read.items()}
        tip = dict(tips)
        for name in writes:
            event_id = self.ids.new()
            tip[name] = Tip(tip[name].version + 1, event_id)
            events.append((NewEvent(name, event_id, LocationRegistered("L", event_id, "DE")), tip[name]))
        append = self._append(tips, [new for new, _ in events])
        follows = [self.by_event[t.event_id] for t in tips.values() if t.event_id in self.by_event]
        flight = self.states.admit(read, events, T0)
        leaves = {name: tip[name].event_id for name in writes}
        sent = Sent(flight, append, leaves, [sent for sent in follows if sent in self.sent])
        self.sent.append(sent)
        self.by_event |= dict.fromkeys((new.event_id for new, _ in events), sent)

    @precondition(lambda self: self.sent)
    @rule(lost=st.sampled_from([False, False, False, True]))
    def comes_to_the_log(self, lost: bool) -> None:
        """The first in the queue: it is lost on its way, or judged by its tips."""
        sent = self.sent.pop(0)
        verdict = None if lost else self.runner.run(self.log.append(sent.append))
        if sent.lost:  # its caller has gone away, and nobody hears of it
            return
        if isinstance(verdict, Appended):
            self.states.landed(sent.flight)
        else:
            sent.lost = True
            self.states.lost(sent.flight)

    @precondition(lambda self: any(not sent.lost for sent in self.sent))
    @rule(data=st.data())
    def is_cancelled(self, data: st.DataObject) -> None:
        """Its caller goes away; it stays in the queue."""
        sent = data.draw(st.sampled_from([sent for sent in self.sent if not sent.lost]))
        sent.lost = True
        self.states.lost(sent.flight)

    @rule(name=st.sampled_from(NAMES))
    def is_written_by_another(self, name: str) -> None:
        history = self._history(name)
        tip = Tip(len(history), history[-1] if history else NO_EVENT)
        event_id = self.ids.new()
        new = NewEvent(name, event_id, LocationRegistered("L", event_id, "DE"))
        assert isinstance(self.runner.run(self.log.append(self._append({name: tip}, [new]))), Appended)

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def forgets(self, names: set[str]) -> None:
        self.states.forget(names)

    @invariant()
    def a_state_is_of_its_tip(self) -> None:
        for name in NAMES:
            if (known := self.states.get(name)) and known.tip.version:
                assert (len(known.state), known.state[-1]) == (known.tip.version, known.tip.event_id)

    @invariant()
    def what_is_not_ahead_is_in_the_log(self) -> None:
        for name in NAMES:
            if (known := self.states.get(name)) and not self.states.speculates([name]):
                assert known.state == self._history(name)[: known.tip.version]

    @invariant()
    def nothing_ahead_builds_on_what_is_lost(self) -> None:
        for name in NAMES:
            if self.states.speculates([name]):
                known = self.states.get(name)
                assert known is not None
                assert not self.by_event[known.tip.event_id].doomed

    @invariant()
    def what_follows_from_nothing_lost_is_what_the_next_builds_on(self) -> None:
        """As long as nothing at all was lost that is still in the queue, nothing may be forgotten."""
        flying = [sent for sent in self.sent if not sent.lost]
        if any(sent.lost for sent in self.by_event.values()):
            return
        for name in NAMES:
            left = [sent.leaves[name] for sent in flying if name in sent.leaves]
            known = self.states.get(name)
            if left:
                assert known is not None
                assert known.tip.event_id == left[-1]

    @invariant()
    def at_rest_nothing_is_left(self) -> None:
        if not any(not sent.lost for sent in self.sent):
            assert not self.states._ahead
        for line in self.states._ahead.values():
            assert line.pending > 0
            assert line.followers <= {sent.flight for sent in self.sent if not sent.lost}

    def _append(self, tips: Mapping[str, Tip], events: Sequence[NewEvent]) -> Append:
        return Append(tips, events, Metadata(T0, STAFF, self.ids.new(), self.ids.new()), None, None)

    def _history(self, name: str) -> tuple[str, ...]:
        recorded: Sequence[Any] = self.runner.run(self.log.read_streams({name: 0}))[name]
        return tuple(event.event_id for event in recorded)


class SmallStatesMachine(StatesMachine):
    """With room for two settled states."""

    def __init__(self) -> None:
        super().__init__()
        self._room = _states.MAX_STATES
        _states.MAX_STATES = 2  # type: ignore[misc] # restored in teardown

    def teardown(self) -> None:
        _states.MAX_STATES = self._room  # type: ignore[misc] # what it was
        super().teardown()


TestStates = StatesMachine.TestCase
TestStates.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestSmallStates = SmallStatesMachine.TestCase
TestSmallStates.settings = TestStates.settings
