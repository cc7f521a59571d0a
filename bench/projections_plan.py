"""How much and how often the way from the log to the read models is measured; and one that only tries it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.loops import Window

SKUS_A_PRODUCT: Final = 4
EVENTS_A_STREAM: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures are medians of the rounds.

    `events`: of the backlog, a multiple of `EVENTS_A_STREAM`; `runner_events`: of the library's.
    """

    quick: bool
    rounds: int
    events: int
    warming: int  # messages to a broker that has just begun
    runner_events: int
    house_rounds: int  # in each house
    skus: int
    rates: Sequence[int]  # commands a second
    visible_warm: float
    visible_seconds: float
    products: int
    connections: int
    asking: Window
    disk_gb: int  # that must be free


FULL: Final = Plan(
    quick=False,
    rounds=3,
    events=200_000,
    warming=50_000,
    runner_events=3_000,
    house_rounds=3,
    skus=5_000,
    rates=(50, 200, 500),
    visible_warm=3.0,
    visible_seconds=15.0,
    products=100_000,
    connections=16,
    asking=Window(warm=5.0, seconds=10.0),
    disk_gb=20,
)

QUICK: Final = Plan(
    quick=True,
    rounds=1,
    events=12_000,
    warming=1_000,
    runner_events=200,
    house_rounds=1,
    skus=200,
    rates=(20, 500),
    visible_warm=0.5,
    visible_seconds=2.0,
    products=500,
    connections=4,
    asking=Window(warm=0.2, seconds=1.0),
    disk_gb=3,
)
