"""What is said of a database that cannot be used: the variable that names it, never the password in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from psycopg import AsyncConnection, OperationalError, ProgrammingError, errors
from psycopg.conninfo import conninfo_to_dict

from runtime.process import CannotStart

CONNECT_S: Final = 10
OLDEST: Final = 17
"""The major version of PostgreSQL that has everything the schema uses."""
_NOT_A_URL: Final = (
    "not a PostgreSQL URL, as postgresql://user:password@host:port/database; "
    "in user and password, write / as %2F, : as %3A, @ as %40 and % as %25"
)


class DatabaseUnusable(CannotStart):
    """The message names the variable, and says in the server's words what is wrong."""

    def __init__(self, variable: str, what: object) -> None:
        super().__init__(f"{variable}: {' '.join(str(what).split())}")


def database_url(given: str) -> str:
    """The URL, if libpq takes it to pieces as it was meant. Raises ValueError, which shows none of it.

    Where a character of the password ends it too early, the rest would be shown as a host or a port.
    """
    try:
        parts = conninfo_to_dict(given)
    except ProgrammingError:
        raise ValueError(_NOT_A_URL) from None
    ports = str(parts.get("port", "")).split(",")
    misplaced = "@" in f"{parts.get('host')} {parts.get('dbname')}"
    if misplaced or not all(port.isdigit() or not port for port in ports):
        raise ValueError(_NOT_A_URL)
    return given


@contextmanager
def naming(variable: str) -> Iterator[None]:
    """Raises DatabaseUnusable where the server is away, or lets the login not do what is done here."""
    try:
        yield
    except (OperationalError, errors.InsufficientPrivilege) as refused:
        raise DatabaseUnusable(variable, refused) from None


async def require(variable: str, url: str) -> None:
    """Raises DatabaseUnusable unless a PostgreSQL that is new enough lets us in."""
    with naming(variable):
        async with await AsyncConnection.connect(url, connect_timeout=CONNECT_S) as connection:
            major = connection.info.server_version // 10_000
    if major < OLDEST:
        raise DatabaseUnusable(variable, f"it is PostgreSQL {major}, and has to be {OLDEST} or newer")
