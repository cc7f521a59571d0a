"""A lease has one holder at a time, and another as soon as that one is silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from runtime import lease
from runtime.lease import LEASE, Lease, NoLongerLeads
from runtime.migrate import migrate
from runtime.postgres import Connection, connect
from runtime.relay import ROLE
from runtime.stopping import cancel

pytestmark = pytest.mark.anyio

TAKES_OVER_S = 2.0


@pytest.fixture
async def connections(new_database: Callable[[], str]) -> AsyncIterator[list[Connection]]:
    url = new_database()
    await migrate(url, "log")
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(url, ROLE)) for _ in range(2)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """How long leases are now."""
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "STANDBY_S", 0.05)
    monkeypatch.setattr(lease, "LEASE", timedelta(seconds=0.4))
    return lease.LEASE


async def test_a_standby_waits_for_as_long_as_the_holder_renews(
    connections: list[Connection], short: timedelta
) -> None:
    holder, standby = (Lease(connection) for connection in connections)
    await holder.wait()
    keeping = asyncio.create_task(holder.keep())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(standby.wait(), 3 * short.total_seconds())
    await cancel(keeping)


async def test_a_holder_that_falls_silent_is_followed_within_two_seconds_and_finds_out(
    connections: list[Connection],
) -> None:
    holder, standby = (Lease(connection) for connection in connections)
    await holder.wait()
    began = time.monotonic()
    await asyncio.wait_for(standby.wait(), TAKES_OVER_S)
    assert time.monotonic() - began > LEASE.total_seconds() / 2
    with pytest.raises(NoLongerLeads):
        await holder.keep()
    await holder.give_up()  # which is another's by now
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(holder.wait(), LEASE.total_seconds() / 2)


async def test_a_lease_that_ran_out_unnoticed_is_kept(
    connections: list[Connection], short: timedelta
) -> None:
    holder, _ = (Lease(connection) for connection in connections)
    await holder.wait()
    await asyncio.sleep(1.1 * short.total_seconds())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(holder.keep(), 0.1)


async def test_a_lease_given_up_is_free_at_once(connections: list[Connection]) -> None:
    holder, standby = (Lease(connection) for connection in connections)
    await holder.wait()
    await holder.give_up()
    await asyncio.wait_for(standby.wait(), LEASE.total_seconds() / 5)


async def test_a_lease_from_before_the_clock_was_put_back_is_free(connections: list[Connection]) -> None:
    holder, standby = (Lease(connection) for connection in connections)
    await holder.wait()
    await connections[0].execute("update relay.lease set until = until + interval '1 hour'")
    await asyncio.wait_for(standby.wait(), LEASE.total_seconds() / 5)
