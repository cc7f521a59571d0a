"""Rows by their revision: what PostgreSQL says is current is taken from the cache where that has it.

A query asks its snapshot for the keys and revisions of the rows it finds, and the cache for the rows; what
the cache does not have is read in the same snapshot. An entry is named by the database, the build, the key
and the revision, and what these name never changes: within one life of a database no number of a build is
given twice, rows are never deleted, and every write of a row raises its revision. So an entry may be missing,
or be one that nobody asks for again, but it cannot be stale, whoever wrote it and however late. A position in
the name would not do: rows change without it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import msgspec
from prometheus_client import Counter

from projections.ports import ReadModel, Versioned
from runtime.cache import Cache

FORMAT: Final = "tallybook.1"
"""Of names and values."""
SEAL_BYTES: Final = 16

HITS: Final = Counter("tallybook_cache_hits", "Rows that the cache had", ["model"])
MISSES: Final = Counter("tallybook_cache_misses", "Rows that the cache did not have", ["model"])
CORRUPT: Final = Counter(
    "tallybook_cache_corrupt", "Entries of the cache that were not as written", ["model"]
)

LIFE: Final = "tallybook.life"
"""The setting of a session that tells one life of a database from any other.

A database that was restored, or copied, gives revisions again that it had given before, to other rows; but
its server was started in between, or it has another oid.
"""
REMEMBER_LIFE: Final[LiteralString] = (
    "select set_config(%s, extract(epoch from pg_postmaster_start_time()) || '.' || oid, false)"
    " from pg_database where datname = current_database()"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows are from: a life of a database, a build and its number."""

    life: str
    build: str


def name_of(place: Place, key: str, revision: int) -> str:
    """Of an entry."""
    return f"{FORMAT}/{place.life}/{place.build}/{revision}/{key}"


async def look_up(
    held: Cache, model: ReadModel[Any], place: Place, found: Sequence[tuple[str, int]]
) -> dict[str, Versioned[Any]]:
    """Those of the keys and revisions that the cache has, by key."""
    names = [name_of(place, key, revision) for key, revision in found]
    rows = {}
    for (key, revision), name, value in zip(found, names, await held.get(names), strict=True):
        if value is not None:
            row = _opened(model, name, value)
            if row is not None:
                rows[key] = Versioned(row, revision)
    HITS.labels(model.name).inc(len(rows))
    MISSES.labels(model.name).inc(len(found) - len(rows))
    return rows


async def keep(held: Cache, place: Place, rows: Mapping[str, Versioned[Any]]) -> None:
    """For whoever asks next."""
    names = {name_of(place, key, one.revision): one.row for key, one in rows.items()}
    await held.put({name: _sealed(name, msgspec.json.encode(row)) for name, row in names.items()})


def _sealed(name: str, row: bytes) -> bytes:
    """With a digest of both: no other bytes, and no other entry's, pass for it."""
    return hashlib.blake2b(name.encode() + b"\0" + row, digest_size=SEAL_BYTES).digest() + row


def _opened(model: ReadModel[Any], name: str, value: bytes) -> Any | None:  # noqa: ANN401 - the model's row
    """The row, or None where the value is not what was put under the name."""
    row = value[SEAL_BYTES:]
    if _sealed(name, row) == value:
        return msgspec.json.decode(row, type=model.row)
    CORRUPT.labels(model.name).inc()
    return None
