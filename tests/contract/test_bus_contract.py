"""What every Bus keeps."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from meshway.engine.ports import BusGap, BusMessage, BusSubscription, Engine, NoResponder, ReplyTimedOut
from meshway.kernel.errors import InvalidRequest


async def _take(subscription: BusSubscription, count: int) -> list[BusMessage | BusGap]:
    events: AsyncIterator[BusMessage | BusGap] = aiter(subscription)
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def _publish(engine: Engine, subject: str, *data: bytes) -> None:
    await engine.bus.publish([BusMessage(subject=subject, data=item) for item in data])


def _data(events: list[BusMessage | BusGap]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, BusMessage)]


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a.b", {"a.b"}),
        ("a.*", {"a.b", "a.c"}),
        ("a.>", {"a.b", "a.c", "a.b.c"}),
        ("*.b", {"a.b", "x.b"}),
        ("*.b.c", {"a.b.c"}),
        (">", {"a", "a.b", "a.c", "a.b.c", "x.b", "ab"}),
        ("a.*.>", {"a.b.c"}),
    ],
)
async def test_a_pattern_hears_what_it_matches_and_nothing_else(engine: Engine, pattern: str, heard: set[str]) -> None:
    async with engine.bus.subscribe(pattern) as subscription:
        for subject in ("a", "a.b", "a.c", "a.b.c", "x.b", "ab"):
            await _publish(engine, subject, subject.encode())
        events = await _take(subscription, len(heard))
        assert {item.decode() for item in _data(events)} == heard
        await _publish(engine, "end.of.all", b"")
        rest = asyncio.ensure_future(anext(aiter(subscription)))
        done, _pending = await asyncio.wait([rest], timeout=0.1)
        if pattern == ">":
            assert done
        else:
            assert not done
            rest.cancel()
            await asyncio.wait([rest])


async def test_messages_keep_their_order_their_headers_and_reply_subject(engine: Engine) -> None:
    async with engine.bus.subscribe("s.*") as subscription:
        sent = [
            BusMessage(subject="s.a", data=b"%d" % number, headers={"n": str(number)}, reply_to="r.1")
            for number in range(100)
        ]
        await engine.bus.publish(sent)
        assert await _take(subscription, 100) == sent


async def test_publishing_to_nobody_is_fine_and_nothing_is_kept(engine: Engine) -> None:
    await _publish(engine, "s.a", b"lost")
    async with engine.bus.subscribe("s.a") as subscription:
        await _publish(engine, "s.a", b"heard")
        assert _data(await _take(subscription, 1)) == [b"heard"]


async def test_every_subscriber_hears_every_message(engine: Engine) -> None:
    async with engine.bus.subscribe("s.a") as first, engine.bus.subscribe("s.>") as second:
        await _publish(engine, "s.a", b"1", b"2")
        assert _data(await _take(first, 2)) == _data(await _take(second, 2)) == [b"1", b"2"]


async def test_of_each_group_exactly_one_member_hears_a_message(engine: Engine) -> None:
    heard: dict[str, list[bytes]] = {"a1": [], "a2": [], "a3": [], "b1": [], "alone": []}

    all_heard = asyncio.Event()

    async def listen(name: str, subscription: BusSubscription) -> None:
        async for event in subscription:
            assert isinstance(event, BusMessage)
            heard[name].append(event.data)
            if sum(map(len, heard.values())) == 180:
                all_heard.set()

    async with (
        engine.bus.subscribe("s.*", group="a") as a1,
        engine.bus.subscribe("s.*", group="a") as a2,
        engine.bus.subscribe("s.*", group="a") as a3,
        engine.bus.subscribe("s.*", group="b") as b1,
        engine.bus.subscribe("s.*") as alone,
    ):
        subscriptions = {"a1": a1, "a2": a2, "a3": a3, "b1": b1, "alone": alone}
        listeners = [asyncio.ensure_future(listen(name, each)) for name, each in subscriptions.items()]
        sent = [b"%d" % number for number in range(60)]
        await _publish(engine, "s.a", *sent)
        async with asyncio.timeout(5):
            await all_heard.wait()
        for listener in listeners:
            listener.cancel()
        await asyncio.wait(listeners)
    assert sorted(heard["a1"] + heard["a2"] + heard["a3"]) == sorted(sent)
    assert heard["b1"] == heard["alone"] == sent
    assert all(heard[name] for name in ("a1", "a2", "a3"))


async def test_a_slow_subscriber_is_told_how_many_it_missed_and_where(engine: Engine) -> None:
    async with engine.bus.subscribe("s.a", buffer_max=3) as slow, engine.bus.subscribe("s.a") as quick:
        await _publish(engine, "s.a", *(b"%d" % number for number in range(10)))
        assert len(_data(await _take(quick, 10))) == 10
        events = await _take(slow, 4)
        assert _data(events[:3]) == [b"0", b"1", b"2"]
        assert events[3] == BusGap(missed=7)
        await _publish(engine, "s.a", b"again")
        assert _data(await _take(slow, 1)) == [b"again"]


async def test_a_request_is_answered_by_whoever_listens(engine: Engine) -> None:
    async with engine.bus.subscribe("ask.*", group="servers") as server:

        async def serve() -> None:
            (asked,) = await _take(server, 1)
            assert isinstance(asked, BusMessage)
            assert asked.reply_to is not None
            await _publish(engine, asked.reply_to, b"answer to " + asked.data, b"second answer")

        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            answer = await engine.bus.request(BusMessage(subject="ask.me", data=b"q"), timeout_ms=5_000)
    assert isinstance(answer, BusMessage)
    assert answer.data == b"answer to q"


async def test_many_requests_at_once_get_their_own_answers(engine: Engine) -> None:
    async with engine.bus.subscribe("ask.*") as server:

        async def serve() -> None:
            for asked in await _take(server, 50):
                assert isinstance(asked, BusMessage)
                assert asked.reply_to is not None
                await _publish(engine, asked.reply_to, asked.data)

        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            tasks = [
                group.create_task(engine.bus.request(BusMessage(subject="ask.me", data=b"%d" % n), timeout_ms=5_000))
                for n in range(50)
            ]
    answers = [task.result() for task in tasks]
    assert [answer.data for answer in answers if isinstance(answer, BusMessage)] == [b"%d" % n for n in range(50)]


async def test_a_request_that_nobody_hears_is_known_at_once(engine: Engine) -> None:
    async with asyncio.timeout(2):
        answer = await engine.bus.request(BusMessage(subject="ask.me", data=b""), timeout_ms=60_000)
    assert answer == NoResponder()


async def test_a_request_that_is_heard_but_not_answered_times_out(engine: Engine) -> None:
    async with engine.bus.subscribe("ask.me"):
        answer = await engine.bus.request(BusMessage(subject="ask.me", data=b""), timeout_ms=100)
    assert answer == ReplyTimedOut()


async def test_after_a_subscription_ends_nobody_listens(engine: Engine) -> None:
    async with engine.bus.subscribe("ask.me"):
        pass
    assert await engine.bus.request(BusMessage(subject="ask.me", data=b""), timeout_ms=1_000) == NoResponder()


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b", "a b", "a*", ">x"])
async def test_a_pattern_that_is_none_is_refused(engine: Engine, pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        async with engine.bus.subscribe(pattern):
            raise AssertionError("entered")


async def test_a_take_waits_for_one_and_then_gives_all_that_are_there_up_to_its_maximum(engine: Engine) -> None:
    async with engine.bus.subscribe("s.a") as subscription, asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(subscription.take(4))
        await asyncio.sleep(0)
        await _publish(engine, "s.a", *(b"%d" % number for number in range(6)))
        taken = list(await waiting)
        while len(taken) < 6:
            part = await subscription.take(4)
            assert 1 <= len(part) <= 4
            taken += part
    assert _data(taken) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_take_shows_the_gap_where_messages_are_missing(engine: Engine) -> None:
    async with engine.bus.subscribe("s.a", buffer_max=2) as slow, engine.bus.subscribe("s.a") as quick:
        await _publish(engine, "s.a", b"0", b"1", b"2", b"3")
        await _take(quick, 4)
        taken: list[BusMessage | BusGap] = []
        async with asyncio.timeout(5):
            while len(taken) < 3:
                taken += await slow.take(10)
    assert (_data(taken), taken[2]) == ([b"0", b"1"], BusGap(missed=2))


async def test_a_cancelled_take_loses_nothing(engine: Engine) -> None:
    async with engine.bus.subscribe("s.a") as subscription:
        taken: list[BusMessage | BusGap] = []
        for number in range(20):
            waiting = asyncio.ensure_future(subscription.take(10))
            await asyncio.sleep(0)
            publishing = asyncio.ensure_future(_publish(engine, "s.a", b"%d" % number))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting, publishing])
            if not waiting.cancelled():
                taken += waiting.result()
        async with asyncio.timeout(5):
            while len(taken) < 20:
                taken += await subscription.take(10)
    assert _data(taken) == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("count_max", [0, -1])
async def test_a_take_of_nothing_is_refused(engine: Engine, count_max: int) -> None:
    async with engine.bus.subscribe("s.a") as subscription:
        with pytest.raises(InvalidRequest, match="count_max"):
            await subscription.take(count_max)


async def test_of_a_group_over_several_patterns_exactly_one_member_hears_a_message(engine: Engine) -> None:
    sent = [b"%d" % number for number in range(40)]
    async with (
        engine.bus.subscribe("s.a", group="a") as exact,
        engine.bus.subscribe("s.*", group="a") as token,
        engine.bus.subscribe(">", group="a") as rest,
        engine.bus.subscribe("s.>", group="b") as other_group,
        engine.bus.subscribe("s.>") as alone,
    ):
        await _publish(engine, "s.a", *sent)
        assert _data(await _take(other_group, 40)) == _data(await _take(alone, 40)) == sent
        # Heard by all of them, so whoever has more than nothing before it can be read without waiting in vain.
        await _publish(engine, "s.b", b"b")
        await _publish(engine, "x", b"x")
        heard: dict[str, list[bytes]] = {"exact": [], "token": [], "rest": []}
        readers = {"exact": exact, "token": token, "rest": rest}
        async with asyncio.timeout(5):
            while sum(map(len, heard.values())) < 42:
                tasks = {name: asyncio.ensure_future(reader.take(100)) for name, reader in readers.items()}
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                for task in tasks.values():
                    task.cancel()
                await asyncio.wait(tasks.values())
                for name, task in tasks.items():
                    heard[name] += [] if task.cancelled() else _data(list(task.result()))
    together = [data for datas in heard.values() for data in datas]
    assert sorted(together) == sorted([*sent, b"b", b"x"])
    assert all(heard.values()), "some member never had its turn"
    assert b"b" not in heard["exact"]
    assert b"x" in heard["rest"]


async def test_a_group_passes_over_a_member_that_is_full_and_comes_back_to_it(engine: Engine) -> None:
    async with (
        engine.bus.subscribe("s.a", group="a", buffer_max=1) as small,
        engine.bus.subscribe("s.>", group="a", buffer_max=100) as large,
    ):
        await _publish(engine, "s.a", *(b"%d" % number for number in range(10)))
        heard = _data(await _take(small, 1)) + _data(await _take(large, 9))
        assert sorted(heard) == [b"%d" % number for number in range(10)]
        await _publish(engine, "s.a", b"10", b"11", b"12")
        again = _data(await _take(small, 1)) + _data(await _take(large, 2))
        assert sorted(again) == [b"10", b"11", b"12"]


async def test_when_a_whole_group_is_full_somebody_is_told_what_was_missed(engine: Engine) -> None:
    async with (
        engine.bus.subscribe("s.a", group="a", buffer_max=1) as first,
        engine.bus.subscribe("s.a", group="a", buffer_max=1) as second,
    ):
        await _publish(engine, "s.a", *(b"%d" % number for number in range(6)))
        events = [*await _take(first, 2), *await _take(second, 2)]
    assert sorted(_data(events)) == [b"0", b"1"]
    assert sum(event.missed or 0 for event in events if isinstance(event, BusGap)) == 4


async def test_a_member_that_left_is_handed_nothing(engine: Engine) -> None:
    async with engine.bus.subscribe("s.*", group="a") as stays:
        async with engine.bus.subscribe("s.a", group="a"), engine.bus.subscribe("s.*", group="a"):
            pass
        await _publish(engine, "s.a", b"0", b"1", b"2")
        assert _data(await _take(stays, 3)) == [b"0", b"1", b"2"]
