"""Are the read models what the log says, how long does it take to know that, and is a wrong row found?"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from bench.house import House, Ran
from bench.page import Figure
from projections.order_list import ORDER_LIST

LIMIT_S: Final = 3_600.0
DIFFER: Final = 1
"""The exit code of both commands where a row differs."""
_VERIFIED: Final = re.compile(r"^(\w+): ([\d,]+) rows, ([\d,]+) differ .* \((.+) s\)$", re.MULTILINE)
_REBUILT: Final = re.compile(r"^(\w+): ([\d,]+) rows .*, ([\d,]+) differed \((.+) s\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Told:
    """A read model's line of what a command said."""

    model: str
    rows: int
    differing: int
    seconds: float


def proved(house: House) -> Iterator[Figure]:
    verified = house.run("verify", seconds=LIMIT_S).must()
    yield from _figures("verify", verified, _told(_VERIFIED, verified))
    rebuilt = house.run("rebuild", seconds=LIMIT_S).must()
    yield from _figures("rebuild", rebuilt, _told(_REBUILT, rebuilt))


def require_a_wrong_row_is_found(house: House) -> None:
    """One row is changed behind everybody's back. RuntimeError unless it is named, and mended."""
    key = _change_a_row(house)
    found = house.run("verify", ORDER_LIST.name, seconds=LIMIT_S).must(DIFFER)
    if key not in found.said:
        raise RuntimeError(f"verify does not name the row {key}: {found.said}")
    house.run("rebuild", ORDER_LIST.name, seconds=LIMIT_S).must(DIFFER)
    house.run("verify", ORDER_LIST.name, seconds=LIMIT_S).must()


def _figures(name: str, ran: Ran, told: list[Told]) -> Iterator[Figure]:
    yield Figure(f"{name}_seconds", round(ran.seconds, 1), "s")
    yield Figure(f"{name}_peak_mb", round(ran.used.peak_mb or 0), "MB")
    yield Figure(f"{name}_differing", sum(one.differing for one in told), "rows")
    for one in told:
        if one.rows:
            yield Figure(f"{name}_{one.model}", round(one.rows / max(one.seconds, 0.1)), "rows/s")


def _told(pattern: re.Pattern[str], ran: Ran) -> list[Told]:
    told = [
        Told(model, int(rows.replace(",", "")), int(differing.replace(",", "")), float(seconds))
        for model, rows, differing, seconds in pattern.findall(ran.said)
    ]
    if not told:
        raise RuntimeError(f"nothing is told of read models: {ran.said}")
    return told


def _change_a_row(house: House) -> str:
    """A cent more for one order; its key."""
    with psycopg.connect(house.settings.read_migration_database_url) as owner:
        served = owner.execute(
            "select build from read.builds where model = %s and served", [ORDER_LIST.name]
        ).fetchall()
        [(build,)] = served
        changed = owner.execute(
            sql.SQL(
                "update {build} set total = jsonb_set(total, '{{amount_minor}}',"
                " to_jsonb((total ->> 'amount_minor')::bigint + 1))"
                " where order_id = (select min(order_id) from {build}) returning order_id"
            ).format(build=sql.Identifier("read", build))
        ).fetchall()
        [(key,)] = changed
    return str(key)
