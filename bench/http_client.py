"""A client of HTTP/1.1 that takes little of the machine: the doors are what is measured, not who asks."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

CONNECTIONS: Final = 256
CONNECT_S: Final = 5.0
ANSWER_S: Final = 40.0
"""Longer than a door may take."""
HEAD_BYTES: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str:
        """KeyError if it has none."""
        found = re.search(rb"\r\n%s: *([^\r]*)\r\n" % re.escape(name.encode()), self.head, re.IGNORECASE)
        if found is None:
            raise KeyError(name)
        return found[1].decode()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """Of one door; at most `CONNECTIONS` requests at once, further ones wait."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"no host and port in {url}")
        self._host, self._port = parts.hostname, parts.port
        self._free: list[Connection] = []
        self._places = asyncio.Semaphore(CONNECTIONS)

    async def ask(self, request: bytes) -> Answer:
        """Raises OSError, TimeoutError, asyncio.IncompleteReadError; ValueError for an unusual answer."""
        async with self._places, asyncio.timeout(ANSWER_S):
            reader, writer = await self._connection()
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
            except BaseException:
                writer.close()
                raise
            self._free.append((reader, writer))
            return Answer(int(head[9:12]), head, body)

    async def _connection(self) -> Connection:
        """The one that was used last; the door closes what rests for long."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        async with asyncio.timeout(CONNECT_S):
            return await asyncio.open_connection(self._host, self._port, limit=HEAD_BYTES)

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    if found is None:
        raise ValueError(f"an answer without a length: {head!r}")
    return int(found[1])


def request(
    method: str, path: str, token: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: door", f"Authorization: Bearer {token}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
