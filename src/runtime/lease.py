"""Which relay leads: a row that is taken and renewed by compare-and-set, on the database's clock.

A session's lock would stay with a leader that is stopped, or whose machine hangs, for as long as its
connection lives. A lease spares duplicates; safety does not depend on it.
"""

import asyncio
from datetime import timedelta
from typing import Final
from uuid import uuid4

from runtime.postgres import Connection

LEASE: Final = timedelta(seconds=1.25)
RENEW_S: Final = 0.25
STANDBY_S: Final = 0.25
"""With the lease, well within two seconds: what it takes until another leads."""


class NoLongerLeads(Exception):
    """Another relay leads, or has moved the checkpoint."""


class Lease:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._holder = str(uuid4())

    async def wait(self) -> None:
        """Until nobody else holds it."""
        await self._connection.execute(
            "insert into relay.lease (holder, until) values (%s, '-infinity') on conflict do nothing",
            [self._holder],
        )
        while not await self._take():  # noqa: ASYNC110 - nothing tells of a lease that runs out
            await asyncio.sleep(STANDBY_S)

    async def keep(self) -> None:
        """Until it is lost: `NoLongerLeads`. One that ran out and that nobody took is as good as ever."""
        while await self._take():  # noqa: ASYNC110 - it runs out by time
            await asyncio.sleep(RENEW_S)
        raise NoLongerLeads("another relay has taken the lease")

    async def give_up(self) -> None:
        """So that a standby need not wait until it runs out."""
        await self._connection.execute(
            "update relay.lease set until = '-infinity' where holder = %s", [self._holder]
        )

    async def _take(self) -> bool:
        # One that is valid for longer than any is given was given before the clock was put back.
        taken = await self._connection.execute(
            "update relay.lease set holder = %(holder)s, until = clock_timestamp() + %(valid)s"
            " where holder = %(holder)s"
            " or until not between clock_timestamp() and clock_timestamp() + %(valid)s",
            {"holder": self._holder, "valid": LEASE},
        )
        return taken.rowcount == 1
