"""Each hazard at each recorder: ours passes them all; of the others it is known which they fail, and how."""

import asyncio
import os
import re
from collections.abc import Callable
from typing import Final

import pytest
from tests.runtime.hazards import positions, tails
from tests.runtime.hazards.hazards import (
    HAZARDS,
    NO_MEANS,
    STRUCK,
    markdown_table,
    observed,
    without_means,
)
from tests.runtime.hazards.recorders import CONTENDERS, TALLYBOOK, Contender
from tests.runtime.hazards.runs import RUNS
from tests.runtime.hazards.stage import NOTICE_S, Hit, prepare, stage_of
from tree import ROOT

pytestmark = pytest.mark.anyio

QUICK_RUNS: Final = int(os.environ.get("HAZARD_RUNS", "1"))
ASLEEP_S: Final = 0.5
"""How long one must hear nothing that is known to sleep."""
ASLEEP: Final = (tails.SLEEPS, positions.NOT_HEARD)
MANY_RUNS: Final = 25
MARKED: Final = re.compile(r"<!-- hazards -->\n(.*?)<!-- /hazards -->", re.DOTALL)

each_that_can_be_tried = pytest.mark.parametrize(
    ("contender", "hazard"),
    [
        pytest.param(contender, hazard, id=f"{hazard} - {contender.name}")
        for contender in CONTENDERS
        for hazard in HAZARDS
        if not without_means(contender.name, hazard)
    ],
    scope="module",
)


@pytest.fixture(scope="module")
def contender_url(contender: Contender, new_database_of_module: Callable[[], str]) -> str:
    """A database that is the contender's."""
    url = new_database_of_module()
    asyncio.run(prepare(contender, url))
    return url


@each_that_can_be_tried
async def test_every_hazard_ends_as_the_table_says(
    contender: Contender, hazard: str, contender_url: str
) -> None:
    await ends_as_the_table_says(contender, hazard, contender_url, QUICK_RUNS)


@pytest.mark.heavy
@each_that_can_be_tried
async def test_every_hazard_ends_so_every_time(contender: Contender, hazard: str, contender_url: str) -> None:
    await ends_as_the_table_says(contender, hazard, contender_url, MANY_RUNS)


async def ends_as_the_table_says(contender: Contender, hazard: str, url: str, runs: int) -> None:
    expected = observed(contender.name, hazard)
    for _ in range(runs):
        struck = None
        async with stage_of(contender, url, ASLEEP_S if expected in ASLEEP else NOTICE_S) as stage:
            try:
                await HAZARDS[hazard](stage)
            except Hit as hit:
                struck = str(hit)
        RUNS[contender.name, hazard] += 1
        assert struck == expected


def test_what_the_table_says_is_about_recorders_and_hazards_that_are_tried() -> None:
    others = {contender.name for contender in CONTENDERS} - {TALLYBOOK.name}
    assert STRUCK.keys() == NO_MEANS.keys() == others
    for name in others:
        assert STRUCK[name].keys() | NO_MEANS[name].keys() <= HAZARDS.keys()
        assert not STRUCK[name].keys() & NO_MEANS[name].keys()


def test_the_readme_shows_this_table() -> None:
    shown = MARKED.search((ROOT / "README.md").read_text())
    if shown is not None:
        assert shown[1].strip() == markdown_table().strip()
