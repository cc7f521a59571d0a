"""Rows that are being folded, in a file of their own: more of them than memory would hold."""

import pickle
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from runtime.read_models.folding import Parts

CACHE_KIB: Final = 65_536
KEYS_AT_ONCE: Final = 500
"""In one look-up; SQLite has a limit to the parameters of a statement."""


class Shelf:
    """Parts by key. They are kept as Python has them, so no fault in how tables store parts is repeated."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Shelf"]:
        """Gone when it is closed, or this process ends."""
        with (
            tempfile.TemporaryDirectory(prefix="tallybook-shelf-") as directory,
            closing(sqlite3.connect(Path(directory) / "rows.sqlite", isolation_level=None)) as database,
        ):
            for pragma in ("journal_mode = off", "synchronous = off", f"cache_size = -{CACHE_KIB}"):
                database.execute(f"pragma {pragma}")
            database.execute("create table rows (key text primary key, parts blob not null) without rowid")
            yield cls(database)

    def take(self, keys: Iterable[str]) -> dict[str, Parts]:
        """Of those that are there."""
        wanted = list(keys)
        found: dict[str, Parts] = {}
        for first in range(0, len(wanted), KEYS_AT_ONCE):
            some = wanted[first : first + KEYS_AT_ONCE]
            places = ", ".join("?" * len(some))
            query = f"select key, parts from rows where key in ({places})"
            found.update((key, pickle.loads(parts)) for key, parts in self._database.execute(query, some))  # noqa: S301 - what `put` wrote
        return found

    def put(self, rows: Mapping[str, Parts]) -> None:
        with self._database:
            self._database.execute("begin")
            self._database.executemany(
                "insert or replace into rows values (?, ?)",
                ((key, pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)) for key, parts in sorted(rows.items())),
            )

    def clear(self) -> None:
        self._database.execute("delete from rows")

    def in_order(self) -> Iterator[tuple[str, Parts]]:
        """By key, as PostgreSQL sorts it under the collation "C"."""
        for key, parts in self._database.execute("select key, parts from rows order by key"):
            yield key, pickle.loads(parts)  # noqa: S301 - what `put` wrote
