"""What every Queue keeps."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from meshway.engine.ports import (
    Ack,
    Engine,
    Enqueued,
    Extend,
    Lease,
    Priority,
    QueueAppend,
    QueueDepth,
    QueueFull,
    QueueSettings,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.errors import InvalidRequest

# As short as an engine with a round trip over a network can still be asked for.
SHORT_LEASE = QueueSettings(lease_ms=1_000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _message(message_id: str, **fields: object) -> QueueAppend:
    return QueueAppend(**{"queue": "q", "message_id": message_id, "data": message_id.encode(), **fields})


async def _append(engine: Engine, *message_ids: str, **fields: object) -> None:
    outcomes = await engine.queue.append([_message(message_id, **fields) for message_id in message_ids])
    assert outcomes == [Enqueued(duplicate=False)] * len(message_ids)


async def _lease(engine: Engine, count: int = 1, *, wait_ms: int = 5_000, queue: str = "q") -> Sequence[Lease]:
    return await engine.queue.lease(queue, count=count, wait_ms=wait_ms)


async def _lease_all(engine: Engine, count: int) -> list[Lease]:
    """`count` leases, however many calls it takes."""
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while len(leases) < count:
            leases += await _lease(engine, count - len(leases))
    return leases


async def _settle(engine: Engine, *settlements: Ack | ToRetry | ToDeadLetters | Extend) -> list[SettleOutcome]:
    return list(await engine.queue.settle(settlements))


def _ids(leases: Sequence[Lease]) -> list[str]:
    return [lease.message.message_id for lease in leases]


async def test_a_message_arrives_as_it_was_sent(engine: Engine) -> None:
    before_ms = _now_ms()
    headers = {"content-type": "x", "é": "ü"}
    await _append(engine, "id 1 / é", data=b"\x00\xff", headers=headers, priority=Priority.HIGH, ordering_key="key 1")
    (lease,) = await _lease(engine)
    message = lease.message
    assert (message.queue, message.message_id, message.data) == ("q", "id 1 / é", b"\x00\xff")
    assert (dict(message.headers), message.priority, message.ordering_key) == (headers, Priority.HIGH, "key 1")
    assert before_ms - 5_000 <= message.enqueued_at_ms <= _now_ms() + 5_000
    assert lease.attempt == 1
    assert lease.lease_until_ms > _now_ms()


async def test_messages_are_handed_out_in_order_of_append_as_many_as_were_asked_for(engine: Engine) -> None:
    await _append(engine, *(f"m{number}" for number in range(10)))
    assert _ids(await _lease(engine, 4)) == ["m0", "m1", "m2", "m3"]
    assert _ids(await _lease_all(engine, 6)) == [f"m{number}" for number in range(4, 10)]
    assert list(await engine.queue.lease("q", count=1)) == []


async def test_a_higher_priority_is_handed_out_first_then_the_older(engine: Engine) -> None:
    for number, priority in enumerate((1, 0, 3, 1, 2, 3)):
        await _append(engine, f"m{number}", priority=Priority(priority))
    assert _ids(await _lease_all(engine, 6)) == ["m2", "m5", "m4", "m0", "m3", "m1"]


async def test_a_priority_that_was_in_use_before_anybody_leased_still_comes_first(engine: Engine) -> None:
    await _append(engine, "gone", priority=Priority.URGENT)
    await engine.queue_admin.purge("q")
    await _append(engine, "first", priority=Priority.LOW)
    assert _ids(await _lease(engine)) == ["first"]
    await _append(engine, "low", priority=Priority.LOW)
    await _append(engine, "urgent", priority=Priority.URGENT)
    assert _ids(await _lease(engine)) == ["urgent"]


async def test_a_held_message_is_handed_to_nobody_else(engine: Engine) -> None:
    await _append(engine, "m")
    await _lease(engine)
    assert list(await engine.queue.lease("q", count=5)) == []


async def test_an_acknowledged_message_is_gone(engine: Engine) -> None:
    await engine.queue_admin.configure("q", SHORT_LEASE)
    await _append(engine, "m")
    (lease,) = await _lease(engine)
    assert await _settle(engine, Ack(delivery_id=lease.delivery_id)) == [SettleOutcome.DONE]
    assert list(await _lease(engine, wait_ms=1_500)) == []


async def test_a_message_whose_worker_died_is_delivered_again_with_the_next_attempt(engine: Engine) -> None:
    await engine.queue_admin.configure("q", SHORT_LEASE)
    await _append(engine, "m")
    (first,) = await _lease(engine)
    assert list(await engine.queue.lease("q", count=1)) == []
    (second,) = await _lease(engine)
    assert (second.message.message_id, second.attempt) == ("m", 2)
    assert _now_ms() >= first.lease_until_ms - 50


async def test_a_settlement_after_the_end_of_the_lease_is_stale_even_before_a_new_holder(engine: Engine) -> None:
    await engine.queue_admin.configure("q", SHORT_LEASE)
    await _append(engine, "m")
    (first,) = await _lease(engine)
    (second,) = await _lease(engine)
    late = [Ack(delivery_id=first.delivery_id), Extend(delivery_id=first.delivery_id)]
    late += [ToRetry(delivery_id=first.delivery_id, visible_at_ms=0)]
    assert await _settle(engine, *late) == [SettleOutcome.STALE] * 3
    assert await _settle(engine, Ack(delivery_id=second.delivery_id)) == [SettleOutcome.DONE]


async def test_of_many_settlements_of_one_hand_out_exactly_one_is_done(engine: Engine) -> None:
    await _append(engine, "m")
    (lease,) = await _lease(engine)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _settle(
                    engine,
                    Ack(delivery_id=lease.delivery_id)
                    if number % 2
                    else ToDeadLetters(delivery_id=lease.delivery_id, reason="r"),
                )
            )
            for number in range(20)
        ]
    outcomes = [task.result()[0] for task in tasks]
    assert outcomes.count(SettleOutcome.DONE) == 1
    assert outcomes.count(SettleOutcome.STALE) == 19


@pytest.mark.parametrize("delivery_id", ["", "nonsense", "1.1.1", "-1.1.1", "f" * 40, "1.2", "9.9.ffffffffffffffffff"])
async def test_a_delivery_id_that_is_none_of_ours_is_stale(engine: Engine, delivery_id: str) -> None:
    await _append(engine, "m")
    await _lease(engine)
    assert await _settle(engine, Ack(delivery_id=delivery_id)) == [SettleOutcome.STALE]


async def test_an_extended_lease_lasts_one_full_lease_time_more(engine: Engine) -> None:
    await engine.queue_admin.configure("q", SHORT_LEASE)
    await _append(engine, "m")
    (lease,) = await _lease(engine)
    for _ in range(3):
        # Half a lease at a time: three halves together are longer than the lease alone.
        assert list(await _lease(engine, wait_ms=500)) == []
        assert await _settle(engine, Extend(delivery_id=lease.delivery_id)) == [SettleOutcome.DONE]
    assert await _settle(engine, Ack(delivery_id=lease.delivery_id)) == [SettleOutcome.DONE]


async def test_a_retried_message_is_due_again_at_its_time_and_not_before(engine: Engine) -> None:
    await _append(engine, "m")
    (lease,) = await _lease(engine)
    due_ms = _now_ms() + 400
    retry = ToRetry(delivery_id=lease.delivery_id, visible_at_ms=due_ms, reason="busy")
    assert await _settle(engine, retry) == [SettleOutcome.DONE]
    assert list(await engine.queue.lease("q", count=1)) == []
    (again,) = await _lease(engine)
    assert _now_ms() >= due_ms - 20
    assert _now_ms() <= due_ms + 1_000
    assert again.attempt == 2


async def test_a_message_retried_at_once_keeps_its_place(engine: Engine) -> None:
    await _append(engine, "m1", "m2")
    (lease,) = await _lease(engine)
    await _settle(engine, ToRetry(delivery_id=lease.delivery_id, visible_at_ms=0))
    leases = await _lease_all(engine, 2)
    assert sorted(_ids(leases)) == ["m1", "m2"]


async def test_given_back_messages_keep_their_turn_by_priority_and_first_append(engine: Engine, wait_until) -> None:
    await engine.queue_admin.configure("q", SHORT_LEASE)
    await _append(engine, "old", "young")
    await _append(engine, "urgent", priority=Priority.URGENT)
    leases = {lease.message.message_id: lease for lease in await _lease_all(engine, 3)}
    # One given back at once, one after a moment, one by a worker that died.
    await _settle(
        engine,
        ToRetry(delivery_id=leases["old"].delivery_id, visible_at_ms=0),
        ToRetry(delivery_id=leases["young"].delivery_id, visible_at_ms=_now_ms() + 100),
    )
    await _append(engine, "youngest")

    async def are_all_due() -> bool:
        return (await engine.queue.depth(["q"]))[0].waiting == 4

    await wait_until(are_all_due)
    assert _ids(await _lease_all(engine, 4)) == ["urgent", "old", "young", "youngest"]


async def test_a_message_may_be_delayed_by_a_year(engine: Engine) -> None:
    far_ms = _now_ms() + 365 * 86_400_000
    await _append(engine, "far", deliver_at_ms=far_ms)
    assert list(await engine.queue.lease("q", count=1)) == []
    assert [message.message_id for message in await engine.queue.peek("q")] == ["far"]
    assert (await engine.queue.depth(["q"]))[0].delayed == 1


async def test_a_delayed_message_is_due_at_its_time_and_not_before(engine: Engine) -> None:
    due_ms = _now_ms() + 400
    await _append(engine, "later", deliver_at_ms=due_ms)
    await _append(engine, "now")
    assert _ids(await _lease(engine, 5)) == ["now"]
    assert _ids(await _lease(engine, 5)) == ["later"]
    assert due_ms - 20 <= _now_ms() <= due_ms + 1_000


async def test_an_expired_message_vanishes(engine: Engine, wait_until) -> None:
    await _append(engine, "short", expires_at_ms=_now_ms() + 10)
    await _append(engine, "long", expires_at_ms=_now_ms() + 60_000)

    async def is_gone() -> bool:
        return [message.message_id for message in await engine.queue.peek("q")] == ["long"]

    await wait_until(is_gone)
    assert _ids(await _lease(engine, 5)) == ["long"]
    assert list(await engine.queue_admin.dead_letters("q")) == []


async def test_a_queues_retention_drops_what_waited_too_long(engine: Engine, wait_until) -> None:
    await engine.queue_admin.configure("q", QueueSettings(retention_ms=1_000))
    await _append(engine, "old")

    async def is_gone() -> bool:
        return (await engine.queue.depth(["q"]))[0].waiting == 0

    await wait_until(is_gone)
    assert list(await engine.queue.lease("q", count=1)) == []


async def test_a_lease_call_waits_for_a_message_and_gets_it_at_once(engine: Engine) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_lease(engine, 5, wait_ms=5_000))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await _append(engine, "m")
    assert _ids(waiting.result()) == ["m"]
    assert time.monotonic() - started < 1


async def test_a_lease_call_that_waits_in_vain_is_answered_empty_in_time(engine: Engine) -> None:
    started = time.monotonic()
    assert list(await _lease(engine, wait_ms=300)) == []
    assert 0.25 <= time.monotonic() - started < 2


async def test_many_waiting_workers_get_each_message_once(engine: Engine) -> None:
    got: list[str] = []

    async def work() -> None:
        while leases := await _lease(engine, 2, wait_ms=700):
            got.extend(_ids(leases))
            await _settle(engine, *(Ack(delivery_id=lease.delivery_id) for lease in leases))

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(work())
        for number in range(60):
            await _append(engine, f"m{number}")
    assert sorted(got) == sorted(f"m{number}" for number in range(60))


async def test_a_cancelled_lease_call_keeps_no_message(engine: Engine) -> None:
    for round_number in range(20):
        waiting = asyncio.ensure_future(_lease(engine, 5, wait_ms=5_000))
        await asyncio.sleep(0)
        append = asyncio.ensure_future(_append(engine, f"m{round_number}"))
        for _ in range(round_number % 5):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting, append])
        if waiting.cancelled():
            leases = await _lease(engine, 5)
        else:
            leases = waiting.result()
        assert _ids(leases) == [f"m{round_number}"]
        assert leases[0].attempt == 1
        await _settle(engine, *(Ack(delivery_id=lease.delivery_id) for lease in leases))


async def test_a_message_goes_to_a_caller_that_still_waits_when_the_first_in_line_is_cancelled(engine: Engine) -> None:
    for number in range(20):
        gone = asyncio.ensure_future(_lease(engine, 1))
        await asyncio.sleep(0)
        stays = asyncio.ensure_future(_lease(engine, 1))
        await asyncio.sleep(0)
        append = asyncio.ensure_future(_append(engine, f"m{number}"))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone, append])
        if not gone.cancelled():
            await _settle(engine, *(Ack(delivery_id=lease.delivery_id) for lease in gone.result()))
            await _append(engine, f"more{number}")
        (lease,) = await stays
        assert lease.attempt == 1
        await _settle(engine, Ack(delivery_id=lease.delivery_id))
    assert list(await engine.queue.lease("q", count=1)) == []


async def test_callers_that_wait_share_what_comes_in_one_call(engine: Engine) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(_lease(engine, 1)) for _ in range(5)]
        await asyncio.sleep(0.02)
        await _append(engine, *(f"m{number}" for number in range(5)))
    assert sorted(name for task in waiting for name in _ids(task.result())) == [f"m{number}" for number in range(5)]


async def test_callers_share_large_messages_although_one_answer_cannot_hold_them_all(engine: Engine) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(_lease(engine, 50)) for _ in range(2)]
        await asyncio.sleep(0.02)
        await engine.queue.append([_message(f"m{number}", data=b"x" * 4_000_000) for number in range(12)])
    ids = [name for task in waiting for name in _ids(task.result())]
    ids += _ids(await engine.queue.lease("q", count=50))
    assert sorted(ids) == sorted(f"m{number}" for number in range(12))


async def test_a_repeated_append_adds_nothing_even_after_the_message_was_done(engine: Engine) -> None:
    await _append(engine, "m")
    assert await engine.queue.append([_message("m")]) == [Enqueued(duplicate=True)]
    (lease,) = await _lease(engine)
    await _settle(engine, Ack(delivery_id=lease.delivery_id))
    assert await engine.queue.append([_message("m"), _message("n"), _message("n")]) == [
        Enqueued(duplicate=True),
        Enqueued(duplicate=False),
        Enqueued(duplicate=True),
    ]
    assert _ids(await _lease(engine, 5)) == ["n"]


async def test_the_same_message_id_in_two_queues_is_two_messages(engine: Engine) -> None:
    await _append(engine, "m")
    await _append(engine, "m", queue="other")


async def test_a_dedupe_id_admits_one_message_per_window_and_queue(engine: Engine, wait_until) -> None:
    await engine.queue_admin.configure("q", QueueSettings(dedupe_window_ms=1_000))
    await _append(engine, "m1", dedupe_id="order 7")
    assert await engine.queue.append([_message("m2", dedupe_id="order 7")]) == [Enqueued(duplicate=True)]
    await _append(engine, "m3", dedupe_id="order 7", queue="other")
    number = 0

    async def is_admitted() -> bool:
        nonlocal number
        number += 1
        (outcome,) = await engine.queue.append([_message(f"again{number}", dedupe_id="order 7")])
        return outcome == Enqueued(duplicate=False)

    await wait_until(is_admitted)


async def test_a_full_queue_refuses_by_name_and_takes_again_when_there_is_room(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(messages_max=2))
    outcomes = await engine.queue.append([_message("m1"), _message("m2"), _message("m3")])
    assert outcomes == [Enqueued(duplicate=False)] * 2 + [QueueFull(limit="messages_max")]
    (lease,) = await _lease(engine)
    assert await engine.queue.append([_message("m4")]) == [QueueFull(limit="messages_max")]
    await _settle(engine, Ack(delivery_id=lease.delivery_id))
    await _append(engine, "m3")


async def test_a_queue_is_bounded_in_bytes_too(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(bytes_max=100_000))
    await _append(engine, "m1", data=b"x" * 60_000)
    assert await engine.queue.append([_message("m2", data=b"x" * 60_000)]) == [QueueFull(limit="bytes_max")]
    await _append(engine, "m3", data=b"x" * 20_000)


async def test_after_the_first_refusal_of_a_call_its_later_messages_are_refused_too_so_that_order_can_be_kept(
    engine: Engine,
) -> None:
    await engine.queue_admin.configure("q", QueueSettings(bytes_max=100_000))
    sizes = {"m1": 60_000, "m2": 60_000, "small": 10}
    outcomes = await engine.queue.append(
        [*(_message(name, data=b"x" * size) for name, size in sizes.items()), _message("other", queue="other")]
    )
    assert outcomes == [
        Enqueued(duplicate=False),
        QueueFull(limit="bytes_max"),
        QueueFull(limit="bytes_max"),
        Enqueued(duplicate=False),
    ]
    # Nothing of what was refused is remembered: the same ids are taken when there is room.
    assert await engine.queue.append([_message("m1"), _message("small")]) == [
        Enqueued(duplicate=True),
        Enqueued(duplicate=False),
    ]


async def test_an_ordered_queue_hands_out_one_message_per_key_at_a_time_in_order_of_append(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(ordered=True))
    for number in range(6):
        await _append(engine, f"m{number}", ordering_key="ab"[number % 2], priority=Priority(number % 4))
    got: list[str] = []
    for _ in range(3):
        leases = await _lease_all(engine, 2)
        assert sorted(lease.message.ordering_key or "" for lease in leases) == ["a", "b"]
        assert list(await engine.queue.lease("q", count=5)) == []
        got += sorted(_ids(leases))
        await _settle(engine, *(Ack(delivery_id=lease.delivery_id) for lease in leases))
    assert got == [f"m{number}" for number in range(6)]


async def test_in_an_ordered_queue_a_message_that_is_retried_holds_back_its_followers(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(ordered=True))
    await _append(engine, "m1", "m2", ordering_key="a")
    await _append(engine, "free", ordering_key="b")
    leases = {lease.message.message_id: lease for lease in await _lease_all(engine, 2)}
    assert set(leases) == {"m1", "free"}
    retry = ToRetry(delivery_id=leases["m1"].delivery_id, visible_at_ms=_now_ms() + 300)
    assert await _settle(engine, retry) == [SettleOutcome.DONE]
    (again,) = await _lease(engine, 5)
    assert (again.message.message_id, again.attempt) == ("m1", 2)
    await _settle(engine, ToDeadLetters(delivery_id=again.delivery_id, reason="no"))
    assert _ids(await _lease(engine, 5)) == ["m2"]


async def test_in_an_ordered_queue_a_message_whose_worker_died_is_handed_out_before_its_followers(
    engine: Engine,
) -> None:
    await engine.queue_admin.configure("q", QueueSettings(ordered=True, lease_ms=1_000))
    await _append(engine, "m1", "m2", "m3", ordering_key="a")
    assert _ids(await _lease(engine, 5)) == ["m1"]
    (again,) = await _lease(engine, 5)
    assert (again.message.message_id, again.attempt) == ("m1", 2)
    retry = ToRetry(delivery_id=again.delivery_id, visible_at_ms=0)
    assert await _settle(engine, retry) == [SettleOutcome.DONE]
    assert _ids(await _lease(engine, 5)) == ["m1"]


async def test_messages_without_a_key_in_an_ordered_queue_do_not_wait_for_each_other(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(ordered=True))
    await _append(engine, "m1", "m2")
    assert _ids(await _lease_all(engine, 2)) == ["m1", "m2"]


async def test_peek_shows_what_is_not_done_in_pages_and_changes_nothing(engine: Engine) -> None:
    await _append(engine, *(f"m{number}" for number in range(5)))
    await _append(engine, "urgent", priority=Priority.URGENT)
    await _lease(engine, 2)
    order = ["urgent", "m0", "m1", "m2", "m3", "m4"]
    assert [message.message_id for message in await engine.queue.peek("q")] == order
    page = await engine.queue.peek("q", limit=4)
    assert [message.message_id for message in page] == order[:4]
    rest = await engine.queue.peek("q", after=page[-1].position, limit=4)
    assert [message.message_id for message in rest] == order[4:]
    with pytest.raises(InvalidRequest):
        await engine.queue.peek("q", after="no position")
    assert list(await engine.queue.peek("never")) == []
    assert _ids(await _lease_all(engine, 4)) == ["m1", "m2", "m3", "m4"]


async def test_peek_goes_on_after_a_message_that_has_left_the_queue(engine: Engine) -> None:
    await _append(engine, "m1", "m2", "m3")
    page = await engine.queue.peek("q", limit=1)
    (lease,) = await _lease(engine, 1)
    await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])
    rest = await engine.queue.peek("q", after=page[-1].position)
    assert [message.message_id for message in rest] == ["m2", "m3"]


async def test_depth_tells_waiting_held_delayed_and_dead_apart(engine: Engine, wait_until) -> None:
    await _append(engine, "a", "b", "c", "d", "e")
    await _append(engine, "later", deliver_at_ms=_now_ms() + 60_000)
    leases = await _lease_all(engine, 3)
    await _settle(
        engine,
        ToDeadLetters(delivery_id=leases[0].delivery_id, reason="r"),
        ToRetry(delivery_id=leases[1].delivery_id, visible_at_ms=_now_ms() + 60_000),
    )

    async def is_told() -> bool:
        return list(await engine.queue.depth(["q", "never"])) == [
            QueueDepth(waiting=2, held=2, delayed=1, dead=1),
            QueueDepth(waiting=0, held=0, delayed=0, dead=0),
        ]

    await wait_until(is_told)


async def test_large_messages_come_back_whole(engine: Engine) -> None:
    data = b"large" * (engine.inline_bytes_max // 5 + 100)
    await _append(engine, "m", data=data)
    (lease,) = await _lease(engine)
    assert lease.message.data == data


@pytest.mark.parametrize("count", [0, -1, 1_001])
async def test_a_lease_of_no_or_too_many_messages_is_refused(engine: Engine, count: int) -> None:
    with pytest.raises(InvalidRequest, match="count"):
        await engine.queue.lease("q", count=count)


async def test_a_queue_name_that_is_none_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="queue"):
        await engine.queue.append([_message("m", queue="a b")])
