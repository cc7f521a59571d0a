"""How long and how often: the full run, and one that only tries that everything works."""

from dataclasses import dataclass

from bench.loops import Window


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures are medians of the rounds. Fills are numbers of events, multiples of 10,000."""

    quick: bool
    rounds: int
    window: Window
    read_rounds: int
    loads: int  # of one stream
    growth_rounds: int
    growth_window: Window
    small: int
    middle: int
    large: int
    memory_items: int
    memory_seconds: float
    disk_gb: int  # that must be free


FULL = Plan(
    quick=False,
    rounds=5,
    window=Window(warm=1.0, seconds=5.0),
    read_rounds=5,
    loads=200,
    growth_rounds=7,
    growth_window=Window(warm=1.0, seconds=3.0),
    small=100_000,
    middle=1_000_000,
    large=10_000_000,
    memory_items=20_000,
    memory_seconds=600.0,
    disk_gb=50,
)

QUICK = Plan(
    quick=True,
    rounds=1,
    window=Window(warm=0.0, seconds=0.3),
    read_rounds=1,
    loads=5,
    growth_rounds=1,
    growth_window=Window(warm=0.0, seconds=0.3),
    small=10_000,
    middle=20_000,
    large=30_000,
    memory_items=1_000,
    memory_seconds=2.0,
    disk_gb=3,
)
