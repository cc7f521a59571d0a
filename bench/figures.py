"""From what was measured to what is told: figures, each beside what it is to be compared with."""

from collections.abc import Iterator, Mapping
from typing import Final

from bench import library, pgbench
from bench.loops import Measured
from bench.page import Figure
from bench.reads import Reads

EVENTS_S: Final = "events/s"
MS: Final = "ms"


BEST_OF: Final[Mapping[str, tuple[str, ...]]] = {
    **{
        f"pgbench_{script}": tuple(f"pgbench_{script} ({clients})" for clients in pgbench.CLIENTS)
        for script in pgbench.SCRIPTS
    },
    "eventsourcing": tuple(f"eventsourcing ({threads})" for threads in library.THREADS),
}
"""Contenders that are tried with several numbers of clients; the best median counts."""
BASELINES: Final[Mapping[str, tuple[str, ...]]] = {
    "append_64": (
        "pgbench_transaction",
        "pgbench_statement",
        "pgbench_event",
        "eventsourcing",
        "umadb",
        "umadb_unconditional",
    ),
    "append_128": ("pgbench_transaction", "pgbench_statement", "pgbench_event"),
    "append_10_events": ("pgbench_event",),
    "append_100_events": ("pgbench_event",),
    "append_hot_stream": ("append_64",),
    "append_two_processes": ("append_64",),
    "append_order": ("append_64",),
    "transact_64": ("append_64",),
    "transact_hot": ("append_hot_stream", "transact_64"),
    "append_at_1m": ("append_at_100k",),
    "append_at_10m": ("append_at_100k",),
    "append_at_10m_random_digests": ("append_at_100k",),
}
"""Whatever is not named here and measured is told without one."""

AIMS: Final[Mapping[tuple[str, str | None], float]] = {
    ("append_64", "pgbench_transaction"): 3.0,
    ("append_64", "pgbench_statement"): 1.7,
    ("append_64", "pgbench_event"): 1.3,
    ("append_64", "eventsourcing"): 10.0,
    ("append_64", "umadb"): 2.5,
    ("append_100_events", "pgbench_event"): 5.0,
    ("append_order", "append_64"): 1.5,
    ("append_hot_stream", "append_64"): 1.0,
    ("append_two_processes", "append_64"): 0.9,
    ("transact_64", "append_64"): 0.5,
    ("append_at_10m", "append_at_100k"): 0.8,
}
"""What a ratio is meant to be at least."""
LIMITS: Final[Mapping[str, float]] = {
    "append_64_p99_ms": 10.0,
    "load_1000_ms": 10.0,
    "load_1000_snapshot_ms": 1.0,
    "memory_mb": 200.0,
}
"""What a figure is meant to be at most."""


def figures_of(
    appends: Mapping[str, Measured], growth: Mapping[str, Measured], reads: Reads, memory_mb: float
) -> list[Figure]:
    return [
        *_appends(appends),
        *_growth(growth),
        *_reads(reads),
        Figure("memory_mb", round(memory_mb, 1), "MB"),
    ]


def _appends(medians: Mapping[str, Measured]) -> Iterator[Figure]:
    rates = {name: measured.rate for name, measured in medians.items()}
    rates |= {name: max(rates[one] for one in tried) for name, tried in BEST_OF.items()}
    for name, measured in medians.items():
        if not name.startswith(("append_", "transact_")):
            continue
        yield from _rates(name, rates)
        if measured.p50_ms is not None and measured.p99_ms is not None:
            yield Figure(f"{name}_p50_ms", round(measured.p50_ms, 2), MS)
            yield Figure(f"{name}_p99_ms", round(measured.p99_ms, 2), MS)


def _growth(medians: Mapping[str, Measured]) -> Iterator[Figure]:
    """The small log was measured beside each large one, and counts with what it reached there."""
    for name in ("append_at_1m", "append_at_10m", "append_at_10m_random_digests"):
        size = name.removeprefix("append_at_").partition("_")[0]
        small = medians[f"append_at_100k beside {size}"].rate
        yield from _rates(name, {name: medians[name].rate, "append_at_100k": small})


def _rates(name: str, rates: Mapping[str, float]) -> Iterator[Figure]:
    value = round(rates[name])
    for baseline in BASELINES.get(name, ()):
        against = round(rates[baseline])
        yield Figure(name, value, EVENTS_S, baseline, against, round(rates[name] / rates[baseline], 2))
    if name not in BASELINES:
        yield Figure(name, value, EVENTS_S)


def _reads(reads: Reads) -> Iterator[Figure]:
    limit = round(reads.copy)
    for name, rate in (("read_log", reads.log), ("read_log_undecoded", reads.log_undecoded)):
        yield Figure(name, round(rate), EVENTS_S, "copy_binary", limit, round(rate / reads.copy, 3))
    yield Figure("load_1000_ms", round(reads.load_1000_ms, 2), MS)
    yield Figure("load_1000_snapshot_ms", round(reads.load_1000_snapshot_ms, 3), MS)
    yield Figure("bytes_per_event", round(reads.bytes_per_event), "bytes")
    yield Figure("bytes_per_command", round(reads.bytes_per_command), "bytes")
