from collections.abc import AsyncIterator

import pytest
from doors import WriteDoor


@pytest.fixture
async def door() -> AsyncIterator[WriteDoor]:
    door = WriteDoor()
    async with door.http:
        yield door
