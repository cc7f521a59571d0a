"""Bugs planted in how rows are folded and stored: each is noticed by the test that is there for it."""

from collections.abc import Awaitable, Callable

import pytest
from read_side import ReadSide
from tests.runtime.planted import planting
from tests.runtime.planted.planting import Plant
from tests.runtime.read_models import test_apply as of_apply
from tests.runtime.read_models import test_lanes as of_lanes

from projections.stock_availability import STOCK_AVAILABILITY
from runtime.read_models import apply as applying
from runtime.read_models import builds
from runtime.read_models.tables import Table

pytestmark = [pytest.mark.anyio, pytest.mark.heavy]

Check = Callable[[ReadSide], Awaitable[None]]


async def a_step_from_elsewhere(side: ReadSide) -> None:
    await of_apply.test_a_step_that_does_not_begin_at_the_checkpoint_changes_nothing(side)


async def two_workers(side: ReadSide) -> None:
    await of_lanes.test_of_two_workers_on_one_lane_one_wins_and_the_other_takes_notice(side)


async def death_before_the_commit(side: ReadSide) -> None:
    with pytest.MonkeyPatch.context() as patch:
        await of_apply.test_a_worker_that_dies_at_any_point_is_followed_by_one_that_applies_the_step_once(
            side, patch, "after_rows_before_commit"
        )


async def death_after_the_commit(side: ReadSide) -> None:
    with pytest.MonkeyPatch.context() as patch:
        await of_apply.test_a_worker_that_dies_at_any_point_is_followed_by_one_that_applies_the_step_once(
            side, patch, "after_commit"
        )


async def a_row_made_meanwhile(side: ReadSide) -> None:
    with pytest.MonkeyPatch.context() as patch:
        await of_apply.test_a_row_that_another_lane_makes_meanwhile_is_folded_again(side, patch)


async def lost_deliveries(side: ReadSide) -> None:
    await of_lanes.test_lost_and_reordered_deliveries_are_made_good_from_the_log(side, STOCK_AVAILABILITY)


PLANTED = [
    (planting.no_compare_and_set, a_step_from_elsewhere),
    (planting.no_compare_and_set, two_workers),
    (planting.checkpoint_after_the_rows, death_after_the_commit),
    (planting.checkpoint_before_the_rows, death_before_the_commit),
    (planting.no_placeholder_rows, a_row_made_meanwhile),
    (planting.no_chain_check, lost_deliveries),
]


@pytest.mark.parametrize(("plant", "check"), PLANTED, ids=lambda either: either.__name__)
async def test_a_planted_bug_is_noticed(plant: Plant, check: Check, side: ReadSide) -> None:
    async with side.pool.connection() as connection:
        table, incarnation = Table(STOCK_AVAILABILITY), await side.reader.incarnation()
        await builds.create(connection, table, await side.reader.lanes(), incarnation)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        patch.setattr(of_apply, "apply", applying.apply)
        with pytest.raises(AssertionError):
            await check(side)
