"""The queue before the writer: first in, first out, within limits."""

import pytest
from log_tools import Appends, stream

from commands.ports import Condition, Conflict, Item, LogFull
from domain.envelope import NOTHING
from runtime.log import queue
from runtime.log.batch import COST_OF_ITEM, Encoded
from runtime.log.queue import Queue

pytestmark = pytest.mark.anyio


def encoded(appends: Appends, events: int = 1, digest: bytes | None = None) -> Encoded:
    return Encoded.of(appends.of(*(stream() for _ in range(events)), digest=digest))


async def test_a_batch_is_what_waits_longest(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(queue.MAX_BATCH_APPENDS + 1)]
    assert waiting.next_batch(half=False) == put[:-1]
    assert waiting.next_batch(half=False) == put[-1:]
    assert len(waiting) == 0


async def test_a_batch_has_limits_but_takes_any_one_append(
    appends: Appends, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, events)) for events in (1_000, 1_000, 1_000, 1_000, 97)]
    assert waiting.next_batch(half=False) == put[:4]
    assert waiting.next_batch(half=False) == put[4:]
    monkeypatch.setattr(queue, "MAX_BATCH_BYTES", 1)
    put = [waiting.put(encoded(appends)) for _ in range(2)]
    assert [waiting.next_batch(half=False), waiting.next_batch(half=False)] == [put[:1], put[1:]]


async def test_tags_and_conditions_count_too(appends: Appends) -> None:
    plain = appends.of(stream())
    [new] = plain.events
    tagged = Encoded.of(plain._replace(events=[new._replace(tags=frozenset({"sku:A", "sku:B"}))]))
    item = Item(frozenset({"order_placed"}), frozenset({"sku:A", "sku:B"}))
    conditioned = Encoded.of(plain._replace(conditions=(Condition((item, item), after=0),)))
    bare = Encoded.of(plain)
    assert (tagged.rows - bare.rows, tagged.size - bare.size) == (2, 10)
    assert (conditioned.rows - bare.rows, conditioned.size - bare.size) == (2 * (COST_OF_ITEM + 3), 2 * 22)


async def test_twins_do_not_share_a_batch_and_keep_their_turn(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, digest=digest)) for digest in (b"1" * 16, None, b"1" * 16, None)]
    assert waiting.next_batch(half=False) == put[:2]
    assert waiting.next_batch(half=False) == put[2:]


async def test_a_full_queue_takes_nothing(appends: Appends, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Queue()
    monkeypatch.setattr(queue, "MAX_WAITING", 2)
    put = [waiting.put(encoded(appends)) for _ in range(2)]
    with pytest.raises(LogFull):
        waiting.put(encoded(appends))
    assert waiting.next_batch(half=False) == put
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
        waiting.put_back(waiting.next_batch(half=False))
        with pytest.raises(LogFull):
            waiting.put(one)
        waiting.next_batch(half=False)
        waiting.put(one)
        assert len(waiting.take_all()) == 1


async def test_what_is_put_back_comes_first_again_in_its_order(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(3)]
    waiting.next_batch(half=False)
    later = [waiting.put(encoded(appends)) for _ in range(2)]
    waiting.put_back(put)
    assert len(waiting) == 5
    assert waiting.next_batch(half=False) == put + later


async def test_an_append_that_is_to_be_alone_has_a_batch_of_its_own(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(6)]
    for alone in put[2:4]:
        alone.alone = True
    batches = [waiting.next_batch(half=False) for _ in range(4)]
    assert batches == [put[:2], put[2:3], put[3:4], put[4:]]


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_half_of_the_rows_are_left_for_the_batch_behind(appends: Appends, events: int) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, events)) for _ in range(20)]
    assert waiting.next_batch(half=True) == put[:10]
    assert waiting.next_batch(half=False) == put[10:]
    put = [waiting.put(encoded(appends, events)) for _ in range(21)]
    waiting.put_back(waiting.next_batch(half=False))
    assert waiting.next_batch(half=True) == put[:11]
    assert waiting.next_batch(half=False) == put[11:]


async def test_halves_are_halves_of_rows_and_not_of_appends(appends: Appends) -> None:
    waiting = Queue()
    large = waiting.put(encoded(appends, 100))
    small = [waiting.put(encoded(appends)) for _ in range(50)]
    assert waiting.next_batch(half=True) == [large]
    assert waiting.next_batch(half=True) == small[:25]
    reads = Encoded.of(appends.of(tips={stream(): NOTHING for _ in range(100)}))
    many = waiting.put(reads)
    assert waiting.next_batch(half=True) == [*small[25:], many]


async def test_what_is_not_worth_halving_goes_out_together(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends)) for _ in range(queue.WORTH_HALVING - 1)]
    assert waiting.next_batch(half=True) == put
    one = waiting.put(encoded(appends, queue.WORTH_HALVING))
    assert waiting.next_batch(half=True) == [one]
    assert waiting.next_batch(half=True) == []


async def test_halves_end_and_lose_nothing(appends: Appends) -> None:
    waiting = Queue()
    put = [waiting.put(encoded(appends, 1 + number % 5)) for number in range(300)]
    taken = []
    for _ in put:
        batch = waiting.next_batch(half=True)
        taken += batch
        if not waiting:
            break
        assert batch
    assert taken == put
    assert waiting.next_batch(half=True) == []
    again = [waiting.put(encoded(appends)) for _ in range(20)]  # nothing is left in the count of rows
    assert waiting.next_batch(half=True) == again[:10]


async def test_a_caller_that_went_away_is_not_answered(appends: Appends) -> None:
    one = Queue().put(encoded(appends))
    one.verdict.cancel()
    one.answer(Conflict())
    one.fail(LogFull())
    assert one.verdict.cancelled()
