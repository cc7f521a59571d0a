"""Being cancelled for certain.

On Python 3.11 asyncio.wait_for, and so psycopg's pool, loses a cancellation that comes in the moment in which
a connection becomes free. A loop that would go on for ever asks here, once a turn.
"""

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.1


def stop_if_cancelled() -> None:
    """Raises CancelledError if the running task was cancelled and has not noticed."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancels a task that ends when it is cancelled, and waits for its end."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
