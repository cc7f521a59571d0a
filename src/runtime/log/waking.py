"""Tells readers that the log has grown: after the commit and on another connection.

Inside the commit, a NOTIFY takes a lock of the whole cluster and costs more than half of the rate.
"""

import asyncio
import logging
from typing import Final

import psycopg

from runtime.log.pipeline import Pipeline
from runtime.log.reading import CHANNEL
from runtime.postgres import connect

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0
REST_S: Final = 0.005
"""Between two notifications."""
CALL_S: Final = 12.0
_PREPARE: Final = f"prepare wake as select pg_notify('{CHANNEL}', '')"


async def wake_readers(url: str, role: str, committed: asyncio.Event) -> None:
    """For ever: however many commits there were meanwhile, one notification."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            async with connect(url, role, synchronous_commit="off") as connection:
                await connection.execute(_PREPARE.encode())
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
