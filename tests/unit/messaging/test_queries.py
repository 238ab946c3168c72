"""Queries: the reply cache, and identical queries at the same moment, which are asked once."""

import asyncio

import msgspec
import pytest
from request_verbs import QUERIES, open_verbs, running, until

from meshway.engine.ports import KvWritten
from meshway.kernel.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest, ResponderMissing
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.messaging.names import ChannelName
from meshway.messaging.requests import ReplyIn
from meshway.testing.clock import ManualClock

CACHED = {"cache_key": "k", "cache_ttl_ms": 60_000}


def value_of(reply):
    return msgspec.json.decode(reply.data)


async def test_a_reply_is_served_from_the_cache_until_its_time_is_over():
    clock = ManualClock()
    async with open_verbs(clock=clock) as verbs:
        numbers = iter(range(10))
        async with verbs.answering(QUERIES, "q", lambda _: next(numbers)) as asked:
            replies = [await verbs.ask(QUERIES, "q", cache_key="k", cache_ttl_ms=50) for _ in range(3)]
            assert [(value_of(each), each.cache) for each in replies] == [(0, "miss"), (0, "hit"), (0, "hit")]
            assert value_of(await verbs.ask(QUERIES, "q", cache_key="other", cache_ttl_ms=50)) == 1
            assert (await verbs.ask(QUERIES, "q")).cache == "off"
            await until(lambda: len(verbs.key_value.writes) == 2)
            clock.advance(50)
            reply = await verbs.ask(QUERIES, "q", cache_key="k", cache_ttl_ms=50)
            assert (value_of(reply), reply.cache) == (3, "miss")
            assert len(asked) == 4
        assert verbs.activity.figures_of(QUERIES, ChannelName("q"))["cached"] == 2


async def test_the_cache_answers_when_nobody_does():
    async with open_verbs() as verbs:
        async with verbs.answering(QUERIES, "q", lambda _: 1):
            await verbs.ask(QUERIES, "q", **CACHED)
        assert (await verbs.ask(QUERIES, "q", **CACHED)).cache == "hit"
        with pytest.raises(ResponderMissing):
            await verbs.ask(QUERIES, "q")


async def test_identical_queries_at_the_same_moment_are_asked_once():
    async with open_verbs() as verbs, verbs.join(QUERIES, "q") as responder:
        asking = [asyncio.ensure_future(verbs.ask(QUERIES, "q", **CACHED)) for _ in range(20)]
        (held,) = await responder.take(100)
        await verbs.reply(QUERIES, held.request_id, 7)
        replies = await asyncio.gather(*asking)

        assert {value_of(each) for each in replies} == {7}
        assert sorted(each.cache for each in replies) == ["hit"] * 19 + ["miss"]
        assert verbs.pools.waiting == 0


async def test_a_caller_who_leaves_takes_nobody_along_and_the_last_one_ends_the_query():
    async with open_verbs() as verbs, verbs.join(QUERIES, "q") as responder:
        asking = [asyncio.ensure_future(verbs.ask(QUERIES, "q", **CACHED)) for _ in range(3)]
        (held,) = await responder.take(1)
        asking[0].cancel()
        await asyncio.wait([asking[0]])
        assert await verbs.reply(QUERIES, held.request_id, 1) == "done"
        assert [value_of(await each) for each in asking[1:]] == [1, 1]

        alone = asyncio.ensure_future(verbs.ask(QUERIES, "q", cache_key="alone", cache_ttl_ms=1_000))
        (held,) = await responder.take(1)
        alone.cancel()
        await asyncio.wait([alone])
        assert await verbs.reply(QUERIES, held.request_id, 1) == "stale"
        after = asyncio.ensure_future(verbs.ask(QUERIES, "q", cache_key="alone", cache_ttl_ms=1_000))
        (held,) = await responder.take(1)
        assert await verbs.reply(QUERIES, held.request_id, 2) == "done"
        assert (value_of(await after), (await after).cache) == (2, "miss")


async def test_a_failure_reaches_those_who_wait_and_nobody_after_them():
    async with open_verbs() as verbs:
        asking = [asyncio.ensure_future(verbs.ask(QUERIES, "q", **CACHED)) for _ in range(3)]
        await asyncio.wait(asking)
        assert all(isinstance(each.exception(), ResponderMissing) for each in asking)
        async with verbs.answering(QUERIES, "q", lambda _: 1):
            assert (await verbs.ask(QUERIES, "q", **CACHED)).cache == "miss"


async def test_what_was_not_executed_is_not_kept():
    async with open_verbs() as verbs, verbs.join(QUERIES, "q") as responder:

        async def refuse_then_answer():
            (held,) = await responder.take(1)
            refusal = ReplyIn(request_id=held.request_id, executed=False, error="not today")
            await verbs.answer_requests.reply(LOCAL_OPERATOR, QUERIES, None, refusal)
            (held,) = await responder.take(1)
            await verbs.reply(QUERIES, held.request_id, "now")

        async with running(refuse_then_answer()):
            assert not (await verbs.ask(QUERIES, "q", **CACHED)).executed
            reply = await verbs.ask(QUERIES, "q", **CACHED)
            assert (reply.executed, reply.cache) == (True, "miss")


async def test_a_caller_with_time_left_is_not_failed_by_the_deadline_of_the_one_it_joined():
    async with open_verbs() as verbs, verbs.join(QUERIES, "q") as responder:
        hasty = asyncio.ensure_future(verbs.ask(QUERIES, "q", timeout_ms=30, **CACHED))
        await responder.take(1)
        patient = asyncio.ensure_future(verbs.ask(QUERIES, "q", timeout_ms=5_000, **CACHED))
        with pytest.raises(DeadlineExceeded):
            await hasty
        (held,) = await responder.take(1)
        await verbs.reply(QUERIES, held.request_id, 1)
        assert value_of(await patient) == 1


async def test_a_caller_who_joined_waits_no_longer_than_it_said():
    async with open_verbs() as verbs, verbs.join(QUERIES, "q") as responder:
        patient = asyncio.ensure_future(verbs.ask(QUERIES, "q", timeout_ms=5_000, **CACHED))
        (held,) = await responder.take(1)
        with pytest.raises(DeadlineExceeded, match="within 30 ms") as caught:
            await verbs.ask(QUERIES, "q", timeout_ms=30, **CACHED)
        assert caught.value.may_have_acted
        assert await verbs.reply(QUERIES, held.request_id, 1) == "done"
        assert value_of(await patient) == 1


async def test_a_store_that_fails_means_asking_the_responder():
    async with open_verbs() as verbs, verbs.answering(QUERIES, "q", lambda _: 1) as asked:
        verbs.key_value.fail_with = EngineUnavailable("the disk is away")
        for _ in range(3):
            assert value_of(await verbs.ask(QUERIES, "q", **CACHED)) == 1
            await until(lambda: not verbs.send_request._cache._flights)
        assert len(asked) == 3


async def test_a_store_that_is_slow_to_keep_a_reply_does_not_make_it_live_longer():
    clock = ManualClock()
    async with open_verbs(clock=clock) as verbs:
        numbers, stored = iter(range(10)), asyncio.Event()

        async def write(writes):
            await stored.wait()
            return [KvWritten(revision=1) for _ in writes]

        verbs.key_value.write = write
        async with verbs.answering(QUERIES, "q", lambda _: next(numbers)):
            first = await verbs.ask(QUERIES, "q", cache_key="k", cache_ttl_ms=50)
            clock.advance(49)
            second = await verbs.ask(QUERIES, "q", cache_key="k", cache_ttl_ms=50)
            clock.advance(1)
            third = await verbs.ask(QUERIES, "q", cache_key="k", cache_ttl_ms=50)
            stored.set()
        assert [(value_of(each), each.cache) for each in (first, second, third)] == [
            (0, "miss"),
            (0, "hit"),
            (1, "miss"),
        ]


async def test_a_reply_too_large_for_the_cache_is_delivered_and_not_kept():
    async with open_verbs(cache_bytes_max=10) as verbs, verbs.answering(QUERIES, "q", lambda _: "x" * 20):
        assert (await verbs.ask(QUERIES, "q", **CACHED)).cache == "miss"
        assert verbs.key_value.writes == []


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"cache_key": "k"}, "cache_ttl_ms"),
        ({"cache_ttl_ms": 1}, "cache_key"),
        ({"cache_key": "", "cache_ttl_ms": 1}, "cache_key"),
        ({"cache_key": "k" * 1_025, "cache_ttl_ms": 1}, "cache_key"),
        ({"cache_key": "k", "cache_ttl_ms": 0}, "cache_ttl_ms"),
        ({"cache_key": "k", "cache_ttl_ms": 86_400_001}, "cache_ttl_ms"),
    ],
)
async def test_a_cache_that_is_half_asked_for_names_the_missing_half(members, field):
    async with open_verbs() as verbs:
        with pytest.raises(InvalidRequest) as caught:
            await verbs.ask(QUERIES, "q", **members)
        assert [each.field for each in caught.value.fields] == [field]
