"""The hazards notice: each bug planted in a copy of the log is found by the hazard that is there for it."""

from collections.abc import Callable

import pytest
from tests.runtime.hazards.hazards import DEAD, HAZARDS
from tests.runtime.hazards.mutations import MUTATIONS, Mutation
from tests.runtime.hazards.recorders import TALLYBOOK
from tests.runtime.hazards.stage import Hit, prepare, stage_of

from runtime.log import reading

pytestmark = pytest.mark.anyio

FOREVER_S = 3_600.0
ASLEEP_S = 0.5


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_a_planted_bug_is_noticed(mutation: Mutation, new_database: Callable[[], str]) -> None:
    url = new_database()
    await prepare(mutation.contender, url)
    async with stage_of(mutation.contender, url) as stage:
        with pytest.raises(Hit):
            await HAZARDS[mutation.noticed_by](stage)


async def test_a_reader_that_trusts_notifications_is_noticed(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "POLL_S", FOREVER_S)
    url = new_database()
    await prepare(TALLYBOOK, url)
    async with stage_of(TALLYBOOK, url, ASLEEP_S) as stage:
        with pytest.raises(Hit):
            await HAZARDS[DEAD](stage)
