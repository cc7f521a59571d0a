"""Tells readers of a database that something has come, and hears it: only saves the wait for their next poll.

After the commit and on another connection: inside it, a NOTIFY takes a lock of the whole cluster and costs
more than half of the rate.
"""

import asyncio
import logging
from typing import Final

import psycopg
from psycopg import sql

from runtime.log.pipeline import Pipeline
from runtime.postgres import connect

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.25
"""However long a database was away, it is in use within two seconds; a try costs a connection."""
REST_S: Final = 0.02
"""Between two notifications."""
CALL_S: Final = 12.0


async def wake_readers(url: str, role: str, channel: str, committed: asyncio.Event) -> None:
    """For ever: however many commits there were meanwhile, one notification."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            async with connect(url, role, synchronous_commit="off") as connection:
                await connection.execute(
                    sql.SQL("prepare wake as select pg_notify({}, '')").format(sql.Literal(channel))
                )
                pipeline = Pipeline(connection, "wake")
                pause = FIRST_PAUSE_S
                try:
                    while True:
                        await committed.wait()
                        committed.clear()
                        async with asyncio.timeout(CALL_S):
                            await pipeline.call([])
                        await asyncio.sleep(REST_S)
                finally:
                    await pipeline.close()
        except (psycopg.Error, TimeoutError) as lost:
            logger.warning("readers are not notified, they poll: %s", lost)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def hear(url: str, role: str, channel: str, woken: asyncio.Event) -> None:
    """For ever: sets the event at each notification, and whenever one may have been lost."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            async with connect(url, role) as connection:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                woken.set()
                pause = FIRST_PAUSE_S
                async for _ in connection.notifies():
                    woken.set()
        except psycopg.OperationalError as lost:
            logger.warning("does not hear %s, again in %.2f s: %s", channel, pause, lost)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def first_of(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, or the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
