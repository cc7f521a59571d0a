"""Calls on one connection, the next before the last is answered: answers in order, and none is lost."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import psycopg
import pytest
import uvloop
from log_tools import WAIT_S
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runtime.log.pipeline import Pipeline
from runtime.postgres import Connection, connect

pytestmark = pytest.mark.anyio

LARGE = 8 * 2**20
STATEMENT = """
prepare work (float8, integer, bytea) as
select pg_sleep($1), 12 / $2, $3, pg_backend_pid()
"""
"""Sleeps, fails if told to, and gives back what it got."""


@pytest.fixture
async def pipeline(shared_log_url: str) -> AsyncIterator[Pipeline]:
    connection = await Connection.connect(shared_log_url, autocommit=True)
    await connection.execute(STATEMENT)
    pipeline = Pipeline(connection, "work")
    yield pipeline
    await pipeline.close()
    assert pipeline.closed


def call(
    pipeline: Pipeline, blob: bytes = b"", *, divisor: int = 1, sleep_s: float = 0
) -> asyncio.Future[psycopg.pq.abc.PGresult]:
    return pipeline.call([struct.pack(">d", sleep_s), divisor.to_bytes(4), blob])


async def told(*answers: asyncio.Future[psycopg.pq.abc.PGresult]) -> list[Any]:
    """The bytes given back, or what it failed with."""
    async with asyncio.timeout(WAIT_S):
        results = await asyncio.gather(*answers, return_exceptions=True)
    return [result if isinstance(result, BaseException) else result.get_value(0, 2) for result in results]


async def test_answers_come_in_the_order_of_their_calls(pipeline: Pipeline) -> None:
    answers = [call(pipeline, str(n).encode(), sleep_s=0.01 * (n == 0)) for n in range(200)]
    assert await told(*answers) == [str(n).encode() for n in range(200)]
    assert await told(call(pipeline, b"and on")) == [b"and on"]


async def test_a_call_goes_out_before_the_last_is_answered(pipeline: Pipeline) -> None:
    began = asyncio.get_running_loop().time()
    answers = [call(pipeline, b"%d" % n, sleep_s=0.1) for n in range(3)]
    assert asyncio.get_running_loop().time() - began < 0.1
    assert not any(answer.done() for answer in answers)
    assert await told(*answers) == [b"0", b"1", b"2"]


async def test_a_call_that_fails_fails_alone(pipeline: Pipeline) -> None:
    answers = [call(pipeline, b"%d" % n, divisor=int(n % 3 > 0)) for n in range(6)]
    first, *others = await told(*answers)
    assert isinstance(first, psycopg.errors.DivisionByZero)
    assert first.sqlstate == "22012"
    assert [other for other in others if isinstance(other, bytes)] == [b"1", b"2", b"4", b"5"]
    assert isinstance(others[2], psycopg.errors.DivisionByZero)
    assert not pipeline.closed


async def test_each_call_is_a_transaction_of_its_own(shared_log_url: str) -> None:
    connection = await Connection.connect(shared_log_url, autocommit=True)
    await connection.execute("create temporary table kept (value integer)")
    await connection.execute(
        "prepare work (integer) as with new as (insert into kept values (12 / $1) returning value)"
        " select count(*), (select value from new) from kept"
    )
    pipeline = Pipeline(connection, "work")
    numbers = [pipeline.call([divisor.to_bytes(4)]) for divisor in (1, 0, 2, 0, 3)]
    async with asyncio.timeout(WAIT_S):
        results = await asyncio.gather(*numbers, return_exceptions=True)
    kept = [
        int.from_bytes(result.get_value(0, 0) or b"")
        for result in results
        if not isinstance(result, BaseException)
    ]
    assert kept == [0, 1, 2]  # what was there before
    await pipeline.close()


async def test_a_caller_that_gives_up_gets_nobody_elses_answer(pipeline: Pipeline) -> None:
    answers = [call(pipeline, b"%d" % n, sleep_s=0.01, divisor=n) for n in range(5)]
    answers[0].cancel()
    answers[2].cancel()
    failed, one, cancelled, three, four = await told(*answers)
    assert isinstance(failed, asyncio.CancelledError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [one, three, four] == [b"1", b"3", b"4"]
    assert await told(call(pipeline, b"next")) == [b"next"]


async def test_both_sides_send_more_than_a_socket_takes(pipeline: Pipeline) -> None:
    """The server stops to read while nobody takes its answers: whoever only writes waits for ever."""
    blobs = [bytes([n]) * LARGE for n in range(4)]
    answers, waited = [], False
    for blob in blobs:
        answers.append(call(pipeline, blob))
        waited |= pipeline._writing  # for a moment, if the server happens to be quick
    assert waited
    assert await told(*answers) == blobs
    small = [call(pipeline, b"%d" % n) for n in range(3)]
    large = call(pipeline, blobs[0])  # its flush finds their answers
    assert await told(*small, large, call(pipeline, b"end")) == [b"0", b"1", b"2", blobs[0], b"end"]


async def test_a_server_that_ends_the_connection_fails_every_call(
    pipeline: Pipeline, shared_log_url: str
) -> None:
    async with asyncio.timeout(WAIT_S):
        result = await call(pipeline)
    pid = int.from_bytes(result.get_value(0, 3) or b"")
    answers = [call(pipeline, b"%d" % n, sleep_s=60 * (n > 0)) for n in range(3)]
    assert await told(answers[0]) == [b"0"]
    async with connect(shared_log_url, "postgres") as owner:
        await owner.execute("select pg_terminate_backend(%s)", (pid,))
    for failure in await told(*answers[1:]):
        assert isinstance(failure, psycopg.OperationalError)
    assert pipeline.closed
    [late] = await told(call(pipeline))
    assert isinstance(late, psycopg.OperationalError)


async def test_a_connection_that_ends_while_it_rests_is_noticed(
    pipeline: Pipeline, shared_log_url: str
) -> None:
    async with asyncio.timeout(WAIT_S):
        result = await call(pipeline)
        async with connect(shared_log_url, "postgres") as owner:
            await owner.execute(
                "select pg_terminate_backend(%s)", (int.from_bytes(result.get_value(0, 3) or b""),)
            )
        while not pipeline.closed:
            await asyncio.sleep(0.01)


async def test_closing_fails_what_is_not_answered(pipeline: Pipeline) -> None:
    answers = [call(pipeline, sleep_s=60), call(pipeline, b"x" * LARGE)]
    cancelled = call(pipeline)
    cancelled.cancel()
    async with asyncio.timeout(WAIT_S):
        await pipeline.close()
    for failure in await told(*answers):
        assert isinstance(failure, psycopg.OperationalError)
    await pipeline.close()


NOTICE = b"SWARNING\0VWARNING\0C57P02\0Mterminating connection because of crash of another server process\0\0"


async def resetting(url: str) -> None:
    """A server that dies with a call unread says so, and its kernel resets the connection: both at once."""
    loop = asyncio.get_running_loop()
    parts = conninfo_to_dict(url)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as server:
        listening.setblocking(False)
        server.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listening))
        through = make_conninfo(url, host="127.0.0.1", port=listening.getsockname()[1])
        connecting = asyncio.create_task(Connection.connect(through, autocommit=True))
        client, _ = await accepting
        await loop.sock_connect(server, (str(parts["host"]), int(parts["port"] or 0)))

        async def pump(one: socket.socket, other: socket.socket) -> None:
            while some := await loop.sock_recv(one, 65_536):
                await loop.sock_sendall(other, some)

        pumps = [asyncio.create_task(pump(*pair)) for pair in ((client, server), (server, client))]
        connection = await connecting
        await connection.execute(STATEMENT)
        pipeline = Pipeline(connection, "work")
        unanswered = call(pipeline, sleep_s=60)
        await asyncio.sleep(0.1)
        for pumping in pumps:
            pumping.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        client.send(b"N" + struct.pack(">i", 4 + len(NOTICE)) + NOTICE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        [failed] = await told(unanswered)
        assert isinstance(failed, psycopg.OperationalError)
        assert pipeline.closed
        await pipeline.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_last_words_do_not_hide_that_the_connection_was_reset(
    shared_log_url: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    run(resetting(shared_log_url))
