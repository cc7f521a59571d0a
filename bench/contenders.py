"""Who appends, and how. Each run of each has a database, or a directory, of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from pathlib import Path

from bench import library, ours, pgbench, umadb
from bench.loops import Measured, Window
from bench.seed import EMPTY, SEEDED
from bench.server import Server

Contender = Callable[[], Measured]


def contenders(server: Server, directory: Path, window: Window) -> dict[str, Contender]:
    numbers = count()

    def copy_of(template: str) -> AbstractContextManager[str]:
        return server.database(f"run_{next(numbers)}", template)

    def run_ours(kind: ours.Kind, callers: int, *, events: int = 1, processes: int = 1) -> Measured:
        with copy_of(SEEDED) as database:
            url = server.service_url(database)
            return ours.measure(url, kind, callers, window, events=events, processes=processes)

    def run_pgbench(script: pgbench.Script, clients: int) -> Measured:
        with copy_of(SEEDED) as database:
            return pgbench.measure(server.url(database), script, clients, window, directory)

    def run_library(threads: int) -> Measured:
        with copy_of(EMPTY) as database:
            return library.measure(server.url(database), threads, window)

    def run_umadb(*, conditional: bool) -> Measured:
        return umadb.measure(directory / f"umadb_{next(numbers)}", 64, window, conditional=conditional)

    return {
        **{f"append_{callers}": partial(run_ours, "spread", callers) for callers in (1, 8, 32, 64, 128)},
        "append_10_events": partial(run_ours, "spread", 32, events=10),
        "append_100_events": partial(run_ours, "spread", 8, events=100),
        "append_hot_stream": partial(run_ours, "hot", 64),
        "append_two_processes": partial(run_ours, "spread", 64, processes=2),
        "append_order": partial(run_ours, "order", 64),
        "transact_64": partial(run_ours, "deciding", 64),
        "transact_hot": partial(run_ours, "deciding_hot", 64),
        **{
            f"pgbench_{script} ({clients})": partial(run_pgbench, script, clients)
            for script in pgbench.SCRIPTS
            for clients in pgbench.CLIENTS
        },
        **{f"eventsourcing ({threads})": partial(run_library, threads) for threads in library.THREADS},
        "umadb": partial(run_umadb, conditional=True),
        "umadb_unconditional": partial(run_umadb, conditional=False),
    }
