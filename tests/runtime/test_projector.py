from collections.abc import AsyncIterator, Callable

import pytest
from history import history
from read_side import ReadSide, read_side, running

pytestmark = pytest.mark.anyio


@pytest.fixture
async def side(new_database: Callable[[], str]) -> AsyncIterator[ReadSide]:
    async with read_side(new_database) as side:
        yield side


async def test_without_kafka_every_row_equals_a_fresh_fold(side: ReadSide) -> None:
    await side.write(list(history(seed=1, appends=100)))
    async with running(side.projector()):
        await side.converge()
        await side.write(list(history(seed=2, appends=0))[:0])
