"""The queue before the writer: first in, first out, within limits."""

import asyncio

import pytest
from log_tools import Appends, stream

from commands.ports import Conflict, LogFull
from runtime.log import queue
from runtime.log.batch import Encoded
from runtime.log.queue import Queue

pytestmark = pytest.mark.anyio


def encoded(appends: Appends, events: int = 1, digest: bytes | None = None) -> Encoded:
    return Encoded.of(appends.of(*(stream() for _ in range(events)), digest=digest))


async def test_a_batch_is_what_waits_longest(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(queue.MAX_BATCH_APPENDS + 1)]
    assert waiting.next_batch() == put[:-1]
    assert waiting.next_batch() == put[-1:]
    assert len(waiting) == 0


async def test_a_batch_has_limits_but_takes_any_one_append(
    appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, events)) for events in (1_000, 1_000, 1_000, 1_000, 97)]
    assert waiting.next_batch() == put[:4]
    assert waiting.next_batch() == put[4:]
    monkeypatch.setattr(queue, "MAX_BATCH_BYTES", 1)
    put = [waiting.put(encoded(appends)) for _ in range(2)]
    assert [waiting.next_batch(), waiting.next_batch()] == [put[:1], put[1:]]


async def test_twins_do_not_share_a_batch_and_keep_their_turn(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, digest=digest)) for digest in (b"1" * 16, None, b"1" * 16, None)]
    assert waiting.next_batch() == put[:2]
    assert waiting.next_batch() == put[2:]


async def test_a_full_queue_takes_nothing(appends: Appends, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Queue()
    monkeypatch.setattr(queue, "MAX_WAITING", 2)
    put = [waiting.put(encoded(appends)) for _ in range(2)]
    with pytest.raises(LogFull):
        waiting.put(encoded(appends))
    assert waiting.next_batch() == put
    one = encoded(appends)
    monkeypatch.setattr(queue, "MAX_WAITING_BYTES", 2 * one.size - 1)
    waiting.put(one)
    with pytest.raises(LogFull):
        waiting.put(one)


async def test_bytes_count_for_as_long_as_they_wait(
    appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Queue()
    one = encoded(appends)
    monkeypatch.setattr(queue, "MAX_WAITING_BYTES", one.size)
    for _ in range(3):
        waiting.put(one)
        waiting.try_alone(waiting.next_batch())
        with pytest.raises(LogFull):
            waiting.put(one)
        waiting.next_batch()
        waiting.put(one)
        assert len(waiting.take_all()) == 1


async def test_a_batch_that_was_not_taken_comes_first_again_one_by_one(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(3)]
    waiting.next_batch()
    later = [waiting.put(encoded(appends)) for _ in range(2)]
    waiting.try_alone(put)
    assert [waiting.next_batch() for _ in range(4)] == [put[:1], put[1:2], put[2:], later]


async def test_it_wakes_who_waits_for_an_append(appends: Appends) -> None:
    waiting = Queue()
    waiter = asyncio.create_task(waiting.not_empty())
    await asyncio.sleep(0)
    assert not waiter.done()
    waiting.put(encoded(appends))
    await waiter
    waiting.next_batch()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiting.not_empty()


async def test_a_caller_that_went_away_is_not_answered(appends: Appends) -> None:
    one = Queue().put(encoded(appends))
    one.verdict.cancel()
    one.answer(Conflict())
    one.fail(LogFull())
    assert one.verdict.cancelled()
