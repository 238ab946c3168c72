"""Requests handed to responders under any order of arrivals, takers, cancellations and time: never twice, never lost.

`test_the_check_bites` plants the bug that a cancelled taker loses what it was just handed, and expects it to be found.
"""

import asyncio
from itertools import chain

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meshway.engine.ports import BusMessage
from meshway.messaging.request_wire import wire_headers
from meshway.messaging.responder_pool import ResponderPool
from meshway.testing.clock import ManualClock

LONG_MS = 1_000_000
BOUNDS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 5), st.sampled_from([50, LONG_MS])),
        st.tuples(st.just("take"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 8), st.just(0)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
        st.tuples(st.just("advance"), st.integers(1, 60), st.just(0)),
    ),
    max_size=40,
)


class LosingPool(ResponderPool):
    def _take_back(self, taker):
        """The planted bug."""


def request(number, timeout_ms=LONG_MS):
    return BusMessage(subject="cmd.c", data=b"%d" % number, headers=wire_headers(timeout_ms), reply_to="_inbox.1")


def numbers(requests):
    return [int(each.message.data) for each in requests]


async def play(steps, make_pool):
    clock = ManualClock()
    pool = make_pool(clock=clock, requests_max=1_000)
    takers: list[tuple[asyncio.Task, int]] = []
    ends: dict[int, float] = {}
    for step, amount, timeout_ms in steps:
        match step:
            case "arrive":
                fresh = range(len(ends), len(ends) + amount)
                ends.update(dict.fromkeys(fresh, clock.monotonic_ms() + timeout_ms))
                assert pool.offer([request(number, timeout_ms) for number in fresh]) == []
            case "take":
                takers.append((asyncio.ensure_future(pool.take(amount)), amount))
            case "cancel" if takers:
                takers[amount % len(takers)][0].cancel()
            case "turn":
                await asyncio.sleep(0)
            case "advance":
                clock.advance(amount)
    return pool, clock, takers, ends


async def check(steps, make_pool=ResponderPool):
    pool, clock, takers, ends = await play(steps, make_pool)
    for _ in range(3):
        await asyncio.sleep(0)
    still_waiting = [task for task, _ in takers if not task.done()]
    assert not (still_waiting and pool.waiting), "a responder waits while a request does"
    for task in still_waiting:
        task.cancel()
    if takers:
        await asyncio.wait([task for task, _ in takers])

    handed = []
    for task, count_max in takers:
        if not task.cancelled():
            got = numbers(task.result())
            assert 0 < len(got) <= count_max
            handed += got
    left = [int(each.data) for each in pool.empty()]
    assert len(set(handed + left)) == len(handed + left), "one request in two pairs of hands"
    lost = ends.keys() - set(handed + left)
    assert all(ends[number] <= clock.monotonic_ms() for number in lost), "a request was lost before its time was up"
    assert all(ends[number] > clock.monotonic_ms() for number in left)
    assert pool.waiting == 0


@BOUNDS
@given(STEPS)
def test_a_request_is_handed_out_once_or_waits_until_its_time_is_up(steps):
    asyncio.run(check(steps))


def test_the_check_bites():
    @settings(BOUNDS, max_examples=5_000, phases=[Phase.generate], database=None, derandomize=True)
    @given(STEPS)
    def search(steps):
        asyncio.run(check(steps, LosingPool))

    with pytest.raises(AssertionError, match="lost before its time"):
        search()


@BOUNDS
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 20))
def test_what_arrives_at_once_is_spread_over_all_who_wait_longest_waiting_first(counts, arriving):
    async def spread():
        pool = ResponderPool(clock=ManualClock(), requests_max=1_000)
        takers = [asyncio.ensure_future(pool.take(count)) for count in counts]
        await asyncio.sleep(0)
        pool.offer([request(number) for number in range(arriving)])
        await asyncio.sleep(0)
        got = [numbers(task.result()) if task.done() else [] for task in takers]
        for task in takers:
            task.cancel()
        return got, pool.waiting

    got, waiting = asyncio.run(spread())
    served = [each for each in got if each]
    assert list(chain.from_iterable(got)) == list(range(arriving - waiting)), "first come, first served"
    assert got[: len(served)] == served
    assert len(served) == min(len(counts), arriving), "nobody who waits is passed over"
    assert waiting == 0 or len(served) == len(counts), "what waits does so because nobody does"


async def test_a_taker_cancelled_in_the_turn_it_was_handed_a_request_leaves_it_to_the_next():
    pool = ResponderPool(clock=ManualClock(), requests_max=10)
    first, second = (asyncio.ensure_future(pool.take(5)) for _ in range(2))
    await asyncio.sleep(0)
    pool.offer([request(0)])
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert numbers(second.result()) == [0]


async def test_a_full_pool_makes_room_by_dropping_those_whose_time_is_up_and_refuses_the_rest():
    clock = ManualClock()
    pool = ResponderPool(clock=clock, requests_max=3)
    assert pool.offer([request(0, 500), request(1, 100), request(2, 500)]) == []
    assert [each.data for each in pool.offer([request(3)])] == [b"3"]
    clock.advance(200)
    assert [each.data for each in pool.offer([request(4), request(5)])] == [b"5"]
    assert numbers(await pool.take(10)) == [0, 2, 4]


async def test_large_requests_fill_a_pool_by_their_bytes():
    pool = ResponderPool(clock=ManualClock(), requests_max=1_000)
    large = BusMessage(subject="cmd.c", data=bytes(8_000_000), headers=wire_headers(5_000), reply_to="_inbox.1")
    refused = pool.offer([large] * 20)
    assert 0 < pool.waiting < 10
    assert pool.waiting + len(refused) == 20
    assert len(await pool.take(100)) + len(refused) == 20
    assert pool.offer([large]) == []


async def test_what_is_no_request_is_left_out():
    pool = ResponderPool(clock=ManualClock(), requests_max=10)
    pool.offer([BusMessage(subject="cmd.c", data=b"1"), BusMessage(subject="cmd.c", data=b"1", reply_to="x")])
    assert pool.waiting == 0
