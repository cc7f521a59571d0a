"""Brings a database to the schema of this release: files of SQL, in the order of their names, each once.

`NNNN_what.pre.sql` may run while the release before still serves, `….post.sql` when it does not any more.
Before them, every time, `roles.sql`: what a cluster holds and a database cannot record.
"""

import asyncio
import hashlib
import logging
from importlib.resources import files
from typing import Final

from psycopg import AsyncConnection
from psycopg.errors import DuplicateObject, InternalError_, UniqueViolation

from runtime.databases import CONNECT_S, naming, require
from runtime.process import CannotStart
from runtime.settings import Settings, variable_of

logger = logging.getLogger(__name__)

LOCK_WAIT: Final = "120s"
"""How long one migration waits for another, or for a table in use."""
ROLES_TRIES: Final = 10
ROLES_PAUSE_S: Final = 0.1
DEFAULT_LANES: Final = 8


class ChangedMigration(CannotStart):
    """A file that has been applied to this database was changed since."""


async def run(settings: Settings) -> None:
    """Raises DatabaseUnusable, or ChangedMigration."""
    for schema, services, owners in (
        ("log", "database_url", "migration_database_url"),
        ("read", "read_database_url", "read_migration_database_url"),
    ):
        url = getattr(settings, owners)
        variable = variable_of(services if url == getattr(settings, services) else owners)
        await require(variable, url)
        with naming(variable):
            await migrate(url, schema)


async def migrate(url: str, schema: str, *, lanes: int = DEFAULT_LANES) -> list[str]:
    """Apply what is missing of `migrations/<schema>`; the names of what was applied.

    `lanes` counts when the log is made, and never again. Several may try at once.
    """
    migrations = files("runtime") / "migrations"
    texts = {
        entry.name: entry.read_text()
        for entry in (migrations / schema).iterdir()
        if entry.name.endswith(".sql")
    }
    applied = []
    async with await AsyncConnection.connect(
        url, autocommit=True, connect_timeout=CONNECT_S, options=f"-c lock_timeout={LOCK_WAIT}"
    ) as connection:
        await _make_roles(connection, (migrations / "roles.sql").read_text())
        await connection.execute("select set_config('tallybook.lanes', %s, false)", (str(lanes),))
        for name in sorted(texts):
            if await _apply(connection, schema, name, texts[name]):
                logger.info("applied %s/%s", schema, name)
                applied.append(name)
    return applied


async def _make_roles(connection: AsyncConnection, text: str) -> None:
    """Another database of the cluster may do the same, and no lock covers both: the loser tries again."""
    for tries_left in reversed(range(ROLES_TRIES)):
        try:
            await connection.execute(text.encode())
        except (
            DuplicateObject,
            UniqueViolation,
            InternalError_,
        ) as beaten:  # the last: "concurrently updated"
            if not tries_left:
                raise
            logger.info("the roles are being made by another migration: %s", beaten)
            await asyncio.sleep(ROLES_PAUSE_S)
        else:
            return


async def _apply(connection: AsyncConnection, schema: str, name: str, text: str) -> bool:
    digest = hashlib.sha256(text.encode()).hexdigest()
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(2047, 0)")
        await connection.execute("create schema if not exists migrations")
        await connection.execute(
            "create table if not exists migrations.applied (schema text, name text, sha256 text not null,"
            " applied_at timestamptz not null default now(), primary key (schema, name))"
        )
        found = await connection.execute(
            "select sha256 from migrations.applied where schema = %s and name = %s", (schema, name)
        )
        if row := await found.fetchone():
            if row != (digest,):
                raise ChangedMigration(f"{schema}/{name} was applied with other contents: restore the file")
            return False
        await connection.execute(text.encode())
        await connection.execute(
            "insert into migrations.applied (schema, name, sha256) values (%s, %s, %s)",
            (schema, name, digest),
        )
    return True
