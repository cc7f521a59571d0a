"""How much and how often the way from the log to the read models is measured; and one that only tries it."""

from dataclasses import dataclass
from typing import Final

SKUS_A_PRODUCT: Final = 4
EVENTS_A_STREAM: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures are medians of the rounds.

    `events`: of the backlog, a multiple of 1,000 and of `EVENTS_A_STREAM`; `runner_events`: of the library's.
    """

    quick: bool
    rounds: int
    events: int
    warming: int  # messages to a broker that has just begun
    runner_events: int
    disk_gb: int  # that must be free


FULL: Final = Plan(
    quick=False,
    rounds=5,
    events=200_000,
    warming=50_000,
    runner_events=3_000,
    disk_gb=20,
)

QUICK: Final = Plan(
    quick=True,
    rounds=1,
    events=12_000,
    warming=1_000,
    runner_events=200,
    disk_gb=3,
)
