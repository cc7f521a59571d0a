"""Which faults strike, in which order: a pure function of the seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Deed = Literal[
    "kill",
    "stop",
    "crash",
    "cut sessions",
    "cut connections",
    "kill a backend of",
    "forget",
    "delete topics of",
    "empty topics of",
    "repartition topics of",
    "repeat messages of",
    "shuffle messages of",
    "forge messages of",
    "poison",
    "rebuild",
]

POSTGRES: Final = "postgres"
BROKER: Final = "broker"
RELAY: Final = "relay"
PROJECTOR: Final = "projector"
DOORS: Final = ("write-api", "read-api", "audit-api")
PROCESSES: Final = (*DOORS, RELAY, PROJECTOR, "policies", "verifier")
TWICE: Final = ("write-api", RELAY, PROJECTOR)
"""Of these there are two, and the other one takes over."""
SHORTEST_STOP_S: Final = 8.0
LONGEST_STOP_S: Final = 60.0
STOPPED_SHARE: Final = 0.1
"""Of the campaign's time, one stop may take so much; never less than the shortest."""
PAIR_SHARE: Final = 0.3

CRASH_POINTS: Final = {
    "write-api": ("before_append", "before_commit", "after_commit_before_answer"),
    RELAY: ("after_send_before_checkpoint",),
    PROJECTOR: ("after_rows_before_commit", "after_commit"),
    "policies": ("before_append", "before_commit", "after_commit_before_answer"),
}
"""By process: the points in its daily work."""
OPERATORS_POINTS: Final = {
    "rebuild": ("before_filled", "before_caught_up", "before_served"),
    "skip": ("before_skip_commits", "after_rows_before_resumed"),
    "retry": ("after_resumed_step",),
}
"""By the operator's command: `rebuild` and `poison` go through all of these."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`point`: of a crash, where; `seconds`: of a stop, how long."""

    deed: Deed
    victim: str
    point: str = ""
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """What recoveries are told by."""
        return f"{self.deed} {self.victim}" + (f" at {self.point}" if self.point else "")


Strike = tuple[Fault, ...]
"""Those that strike at once."""


def every_fault() -> tuple[Fault, ...]:
    """One of each kind."""
    return (
        *(Fault("kill", process) for process in (*PROCESSES, "cache", BROKER, POSTGRES)),
        *(Fault("stop", process) for process in (*TWICE, "policies")),
        *(Fault("crash", process, point) for process, points in CRASH_POINTS.items() for point in points),
        Fault("kill a backend of", POSTGRES),
        *(Fault("cut sessions", POSTGRES), Fault("cut connections", POSTGRES)),
        *(Fault("cut connections", BROKER), Fault("forget", BROKER)),
        *(Fault("delete topics of", BROKER), Fault("empty topics of", BROKER)),
        Fault("repartition topics of", BROKER),
        *(Fault("repeat messages of", BROKER), Fault("shuffle messages of", BROKER)),
        Fault("forge messages of", BROKER),
        *(Fault("poison", "a stream"), Fault("rebuild", "a read model")),
    )


def strikes(seed: int, minutes: float) -> Iterator[Strike]:
    """For ever: first each kind once, alone; then any, sometimes two at once."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    longest = min(LONGEST_STOP_S, max(SHORTEST_STOP_S, STOPPED_SHARE * 60 * minutes))

    def lasting(fault: Fault) -> Fault:
        if fault.deed != "stop":
            return fault
        return Fault(fault.deed, fault.victim, seconds=round(chance.uniform(SHORTEST_STOP_S, longest), 1))

    kinds = every_fault()
    for fault in chance.sample(kinds, len(kinds)):
        yield (lasting(fault),)
    while True:
        first = chance.choice(kinds)
        others = [fault for fault in kinds if _together(first, fault)]
        if others and chance.random() < PAIR_SHARE:
            yield lasting(first), lasting(chance.choice(others))
        else:
            yield (lasting(first),)


def _together(one: Fault, other: Fault) -> bool:
    """An operator, and whoever waits for a crash, needs what the other would take away."""
    alone = ("crash", "poison", "rebuild")
    return one.victim != other.victim and one.deed not in alone and other.deed not in alone
