"""Ids and time as the machine has them, and their twins for tests."""

import itertools
from datetime import UTC, datetime, timedelta

from uuid_utils import uuid7


class Uuid7s:
    def new(self) -> str:
        return str(uuid7())


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class CountingIds:
    """Ids in the shape of UUIDv7, in order."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self) -> str:
        return f"00000000-0000-7000-8000-{next(self._numbers):012x}"


class FixedClock:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by
