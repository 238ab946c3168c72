"""Posting to queues, leasing from them and settling, one rule a test, over the embedded engine on virtual time."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence

import msgspec
import pytest

from meshway.engine.embedded.engine import DATABASE_NAME
from meshway.engine.ports import QueueAppend, QueueOutcome, QueueSettings, Settlement, SettleOutcome, Undecided
from meshway.kernel.errors import (
    CapacityReached,
    ChannelFull,
    EngineUnavailable,
    Forbidden,
    InvalidRequest,
    StorageFull,
)
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal, Scope
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.names import ChannelKind
from meshway.messaging.settings import MessagingSettings
from support.queue_rig import CALLER, QueueRig, message, queue_rig, settlement

SERVER = Principal(PrincipalId("server"), frozenset({Scope("serve", "*")}))
LEASE_MS = 1_000
RULES = QueueChannelSettings(lease_ms=LEASE_MS, attempts_max=2, backoff_initial_ms=4_000, backoff_max_ms=4_000)


@pytest.fixture
async def rig(tmp_path, clock):
    async with queue_rig(tmp_path, clock) as rig:
        yield rig


def read(delivery):
    return msgspec.json.decode(delivery.document)


async def taken(rig: QueueRig, count: int = 10) -> list[object]:
    return [read(delivery)["data"] for delivery in await rig.take("jobs", count)]


def fields(caught) -> list[str]:
    return [error.field for error in caught.value.fields]


async def test_a_message_comes_to_a_worker_as_it_was_posted(rig, clock):
    (message_id,) = await rig.post("jobs", message({"n": 1}, attributes={"lang": "en"}))
    (delivery,) = await rig.take("jobs")
    assert delivery.attempt == 1
    assert delivery.lease_until_ms == clock.now_ms() + 30_000
    assert read(delivery) == {
        "id": message_id,
        "channel": "jobs",
        "data": {"n": 1},
        "content_type": "application/json",
        "attributes": {"lang": "en"},
        "timestamp": "2027-01-15T08:00:00.000Z",
        "principal": "ann",
    }
    assert await rig.say("jobs", settlement(delivery.delivery_id)) == ["done"]
    assert await rig.take("jobs") == []


async def test_the_first_post_makes_the_queue_and_its_owner(rig):
    await rig.post("jobs", message())
    assert rig.channels.find(ChannelKind.QUEUES, "jobs").owner == "ann"


async def test_a_lease_does_not_make_a_queue(rig):
    assert await rig.take("jobs") == []
    assert rig.channels.find(ChannelKind.QUEUES, "jobs") is None


async def test_the_trace_of_the_post_travels_with_the_message(rig):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await rig.enqueue.execute(CALLER, "jobs", [message()], traceparent=trace)
    (delivery,) = await rig.take("jobs")
    assert read(delivery)["traceparent"] == trace


async def test_a_repeated_id_adds_nothing(rig):
    await rig.post("jobs", message(1, id="a"))
    receipts = await rig.enqueue.execute(CALLER, "jobs", [message(2, id="a"), message(3, id="b")])
    assert [receipt.duplicate for receipt in receipts] == [True, False]
    assert await taken(rig) == [1, 3]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (message(2, delay_ms=-1), "messages.1.delay_ms"),
        (message(2, ordering_key="k"), "messages.1.ordering_key"),
        (message(2, id=""), "messages.1.id"),
        (message(2, attributes={"x": "y" * 20_000}), "messages.1.attributes"),
    ],
)
async def test_one_wrong_message_refuses_the_post_and_nothing_is_kept(rig, wrong, field):
    with pytest.raises(InvalidRequest) as caught:
        await rig.post("jobs", message(1), wrong)
    assert fields(caught) == [field]
    assert rig.channels.find(ChannelKind.QUEUES, "jobs") is None
    assert await rig.engine.queue_admin.queues() == []


@pytest.mark.parametrize("messages", [[], [message()] * 4])
async def test_a_post_of_none_or_too_many_is_refused(tmp_path, clock, messages):
    async with queue_rig(tmp_path, clock, settings=MessagingSettings(batch_max=3)) as rig:
        with pytest.raises(InvalidRequest) as caught:
            await rig.enqueue.execute(CALLER, "jobs", messages)
        assert fields(caught) == ["messages"]


@pytest.mark.parametrize("name", ["", "a..b", "a b", "_inbox", "a.*", "é", "x" * 256])
async def test_a_wrong_name_is_refused_by_every_verb(rig, name):
    calls = [
        lambda: rig.enqueue.execute(CALLER, name, [message()]),
        lambda: rig.lease.execute(CALLER, name, count=1, wait_ms=0),
        lambda: rig.settle.execute(CALLER, name, [settlement("1.0.a")]),
        lambda: rig.inspect.peek(CALLER, name, cursor=None, limit=1),
        lambda: rig.inspect.dead_letters(CALLER, name, cursor=None, limit=1),
        lambda: rig.redrive.execute(CALLER, name, ids=None, rate_per_s=None),
        lambda: rig.purge.execute(CALLER, name, confirm=name),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            await call()
        assert fields(caught) == ["channel"]


async def test_a_key_that_may_not_call_may_not_use_queues(rig):
    await rig.post("jobs", message())
    calls = [
        lambda: rig.enqueue.execute(SERVER, "jobs", [message()]),
        lambda: rig.lease.execute(SERVER, "jobs", count=1, wait_ms=0),
        lambda: rig.settle.execute(SERVER, "jobs", [settlement("1.0.a")]),
        lambda: rig.inspect.peek(SERVER, "jobs", cursor=None, limit=1),
        lambda: rig.inspect.dead_letters(SERVER, "jobs", cursor=None, limit=1),
        lambda: rig.redrive.execute(SERVER, "jobs", ids=None, rate_per_s=None),
        lambda: rig.purge.execute(SERVER, "jobs", confirm="jobs"),
    ]
    for call in calls:
        with pytest.raises(Forbidden):
            await call()


async def test_a_full_queue_names_its_setting_and_says_what_was_kept(rig):
    await rig.put("jobs", msgspec.structs.replace(RULES, max_messages=2))
    with pytest.raises(ChannelFull, match="max_messages") as caught:
        await rig.post("jobs", message(1, id="a"), message(2, id="b"), message(3, id="c"))
    kept = [{"id": "a", "duplicate": False}, {"id": "b", "duplicate": False}, None]
    assert caught.value.extensions == {"receipts": kept}
    assert caught.value.retry_after_ms
    with pytest.raises(ChannelFull) as caught:
        await rig.post("jobs", message(3, id="c"))
    assert caught.value.extensions == {}
    assert await taken(rig) == [1, 2]


async def test_a_queue_is_full_by_bytes_too(rig):
    await rig.put("jobs", msgspec.structs.replace(RULES, max_bytes=1_000))
    with pytest.raises(ChannelFull, match="max_bytes"):
        await rig.post("jobs", message("x" * 1_000))


async def test_a_new_queue_needs_room_among_the_channels(tmp_path, clock):
    async with queue_rig(tmp_path, clock, settings=MessagingSettings(channels_max=1)) as rig:
        await rig.post("jobs", message())
        with pytest.raises(CapacityReached, match="channels_max"):
            await rig.post("other", message())
        await rig.post("jobs", message())


async def test_data_that_is_large_travels_by_reference_for_as_long_as_its_message_may_wait(tmp_path, clock):
    limits = MessagingSettings(data_bytes_max=1_024, blob_ttl_ms=1_000)
    async with queue_rig(tmp_path, clock, settings=limits) as rig:
        await rig.post("jobs", message("y" * 2_000, delay_ms=10 * 3_600_000, expires_in_ms=11 * 3_600_000))
        clock.advance(10 * 3_600_000)
        await rig.engine.sweep()
        (delivery,) = await rig.take("jobs")
        assert "data" not in read(delivery)
        assert await rig.engine.blobs.stat([read(delivery)["data_ref"]["sha256"]]) != [None]


async def test_a_refused_post_leaves_no_data_behind(tmp_path, clock):
    async with queue_rig(tmp_path, clock, settings=MessagingSettings(data_bytes_max=1_024)) as rig:
        with pytest.raises(InvalidRequest):
            await rig.post("jobs", message("y" * 2_000), message(2, priority="top"))
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


# Leasing


async def test_the_most_urgent_come_first_and_then_the_oldest(rig):
    for number, word in enumerate(["normal", "low", "urgent", "high", "urgent", None]):
        await rig.post("jobs", message(number, priority=word))
    assert await taken(rig, 4) == [2, 4, 3, 0]
    assert await taken(rig) == [5, 1]


async def test_a_delayed_message_comes_at_its_time_and_an_expired_one_never(rig, clock):
    await rig.post("jobs", message(1, delay_ms=5_000), message(2, expires_in_ms=2_000))
    clock.advance(4_999)
    assert await taken(rig) == []
    clock.advance(1)
    assert await taken(rig) == [1]


async def test_an_ordered_queue_gives_one_of_each_key_and_all_without_one(rig):
    await rig.put("jobs", msgspec.structs.replace(RULES, ordered=True))
    for number, key in enumerate(["a", "a", "b", None, None, "b"]):
        await rig.post("jobs", message(number, ordering_key=key, priority="urgent" if number else "low"))
    deliveries = await rig.take("jobs")
    assert [read(delivery)["data"] for delivery in deliveries] == [0, 2, 3, 4]
    await rig.say("jobs", *(settlement(delivery.delivery_id) for delivery in deliveries[:2]))
    assert await taken(rig) == [1, 5]


@pytest.mark.parametrize(
    ("count", "wait_ms", "field"),
    [(0, 0, "count"), (1_001, 0, "count"), (-1, 0, "count"), (1, -1, "wait_ms"), (1, 55_001, "wait_ms")],
)
async def test_a_lease_out_of_bounds_is_refused(rig, count, wait_ms, field):
    with pytest.raises(InvalidRequest) as caught:
        await rig.lease.execute(CALLER, "jobs", count=count, wait_ms=wait_ms)
    assert fields(caught) == [field]


async def test_a_waiting_worker_is_woken_by_the_first_message_of_a_new_queue(rig):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(rig.lease.execute(CALLER, "jobs", count=5, wait_ms=50_000))
        await asyncio.sleep(0)
        await rig.post("jobs", message(1), message(2))
    assert [read(delivery)["data"] for delivery in waiting.result()] == [1, 2]


async def test_a_lease_that_ran_out_makes_the_message_due_at_once_and_counts(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1))
    (first,) = await rig.take("jobs")
    clock.advance(LEASE_MS)
    (second,) = await rig.take("jobs")
    assert (first.attempt, second.attempt) == (1, 2)
    assert await rig.say("jobs", settlement(first.delivery_id)) == ["stale"]


async def test_a_message_whose_last_lease_ran_out_is_no_more_handed_out(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1), message(2))
    for _attempt in range(2):
        assert len(await rig.take("jobs", 1)) == 1
        clock.advance(LEASE_MS)
    # One place only, and the used-up one stands first: the other comes all the same.
    assert await taken(rig, 1) == [2]
    (letter,) = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=5)).items
    assert letter.reason == "attempt 2 of 2 was not settled: its lease ran out"
    assert [(each.attempt, each.outcome) for each in letter.attempts] == [(1, "expired"), (2, "expired")]


async def test_many_used_up_messages_do_not_hide_the_live_ones_among_them(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", *(message(number) for number in range(20)))
    for _attempt in range(2):
        assert len(await rig.take("jobs", 20)) == 20
        clock.advance(LEASE_MS)
    await rig.post("jobs", message("live"))
    assert await taken(rig, 1) == ["live"]
    assert (await rig.engine.queue.depth(["jobs"]))[0].dead == 20


async def test_a_queue_without_dead_letters_drops_what_is_used_up(rig, clock):
    await rig.put("jobs", msgspec.structs.replace(RULES, dead_letter=False))
    await rig.post("jobs", message("dies silently"), message("fails"), message("is rejected"))
    for _attempt in range(2):
        _silent, failing, *_ = deliveries = await rig.take("jobs")
        if _attempt:
            await rig.say("jobs", settlement(failing.delivery_id, "retry"))
        await rig.say("jobs", settlement(deliveries[2].delivery_id, "extend"))
        clock.advance(LEASE_MS - 1 if _attempt else LEASE_MS)
    await rig.say("jobs", settlement(deliveries[2].delivery_id, "dead_letter", reason="never"))
    clock.advance(1)
    assert await taken(rig) == []
    letters = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=5)).items
    assert [letter.reason for letter in letters] == ["never"]
    assert (await rig.engine.queue.depth(["jobs"]))[0] == msgspec.structs.replace(
        (await rig.engine.queue.depth(["none"]))[0], dead=1
    )


class FailsToSettle:
    """A disk that is full when the hub wants to bury a message."""

    def __init__(self, queue):
        self.queue = queue

    def __getattr__(self, name):
        return getattr(self.queue, name)

    async def settle(self, settlements):
        raise StorageFull("the disk is full")


async def test_live_messages_go_out_though_the_used_up_ones_cannot_be_buried(tmp_path, clock):
    async with queue_rig(tmp_path, clock, wrap=FailsToSettle) as rig:
        await rig.put("jobs", RULES)
        # An engine may leave it to the hub to notice which attempt was the last.
        await rig.engine.queue_admin.configure("jobs", QueueSettings(lease_ms=LEASE_MS))
        await rig.post("jobs", message(1))
        for _attempt in range(2):
            await rig.take("jobs")
            clock.advance(LEASE_MS)
        await rig.post("jobs", message(2))
        assert await taken(rig) == [2]
        clock.advance(LEASE_MS)
        await rig.take("jobs")
        clock.advance(LEASE_MS)
        with pytest.raises(StorageFull):
            await rig.take("jobs")


# Settling


async def test_a_retry_waits_for_its_back_off_or_for_the_delay_it_asks_for(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1), message(2), message(3))
    first, second, third = await rig.take("jobs")
    outcomes = await rig.say(
        "jobs",
        settlement(first.delivery_id, "retry"),
        settlement(second.delivery_id, "retry", delay_ms=0),
        settlement(third.delivery_id, "retry", delay_ms=10_000),
    )
    assert outcomes == ["done", "done", "done"]
    assert await taken(rig) == [2]
    # Half of it at least; the dice of this hub always show the least.
    clock.advance(1_999)
    assert 1 not in await taken(rig)
    clock.advance(1)
    assert 1 in await taken(rig)
    clock.advance(8_000)
    assert 3 in await taken(rig)


async def test_the_last_retry_makes_a_dead_letter_whatever_delay_it_asks_for(rig):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1, id="a"))
    for _attempt in range(2):
        (delivery,) = await rig.take("jobs")
        say = settlement(delivery.delivery_id, "retry", delay_ms=0, reason="no model answered")
        assert await rig.say("jobs", say) == ["done"]
    (letter,) = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=5)).items
    assert letter.id == "a"
    assert letter.reason == "attempt 2 of 2 failed: no model answered"
    assert msgspec.json.decode(letter.message)["data"] == 1


async def test_a_rejected_message_is_dead_at_once_with_the_worker_s_reason_or_a_plain_one(rig):
    await rig.post("jobs", message(1), message(2))
    first, second = await rig.take("jobs")
    await rig.say(
        "jobs",
        settlement(first.delivery_id, "dead_letter", reason="no such customer"),
        settlement(second.delivery_id, "dead_letter"),
    )
    letters = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=5)).items
    assert [letter.reason for letter in letters] == ["no such customer", "rejected by the worker"]


async def test_an_extended_lease_lasts_one_lease_time_from_then(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1))
    (delivery,) = await rig.take("jobs")
    clock.advance(LEASE_MS - 1)
    assert await rig.say("jobs", settlement(delivery.delivery_id, "extend")) == ["done"]
    clock.advance(LEASE_MS - 1)
    assert await rig.say("jobs", settlement(delivery.delivery_id)) == ["done"]
    assert await rig.say("jobs", settlement(delivery.delivery_id)) == ["stale"]


async def test_what_is_no_delivery_of_this_queue_is_stale(rig):
    await rig.post("jobs", message(1))
    await rig.post("other", message(2))
    (delivery,) = await rig.take("jobs")
    attempt, mark, rest = delivery.delivery_id.split(".", 2)
    names = ["", "x", ".", "..", f"{attempt}.{mark}", f"{attempt}.{mark}.", f"0.{mark}.{rest}", f"-1.{mark}.{rest}"]
    names += [f"{'9' * 400}.{mark}.{rest}", f"²{attempt}.{mark}.{rest}", f"{attempt}.{mark}.{rest}0", "\x00", "é" * 9]
    assert await rig.say("jobs", *(settlement(name) for name in names)) == ["stale"] * len(names)
    assert await rig.say("other", settlement(delivery.delivery_id)) == ["stale"]
    assert await rig.say("nobody-knows", settlement(delivery.delivery_id)) == ["stale"]
    assert await rig.say("jobs", settlement(delivery.delivery_id), settlement("x")) == ["done", "stale"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (settlement("x", "ack", delay_ms=1), "settlements.1.delay_ms"),
        (settlement("x", "dead_letter", delay_ms=1), "settlements.1.delay_ms"),
        (settlement("x", "retry", delay_ms=-1), "settlements.1.delay_ms"),
        (settlement("x", "retry", delay_ms=365 * 86_400_000 + 1), "settlements.1.delay_ms"),
        (settlement("x", "retry", reason="r" * 1_025), "settlements.1.reason"),
        (settlement("x" * 513), "settlements.1.delivery_id"),
    ],
)
async def test_one_wrong_settlement_refuses_all_and_nothing_is_settled(rig, wrong, field):
    await rig.post("jobs", message(1))
    (delivery,) = await rig.take("jobs")
    with pytest.raises(InvalidRequest) as caught:
        await rig.say("jobs", settlement(delivery.delivery_id), wrong)
    assert fields(caught) == [field]
    assert await rig.say("jobs", settlement(delivery.delivery_id)) == ["done"]


@pytest.mark.parametrize("count", [0, 1_001])
async def test_none_or_too_many_settlements_are_refused(rig, count):
    with pytest.raises(InvalidRequest) as caught:
        await rig.say("jobs", *[settlement("x")] * count)
    assert fields(caught) == ["settlements"]


async def test_new_settings_hold_for_messages_that_are_under_way(rig, clock):
    await rig.put("jobs", RULES)
    await rig.post("jobs", message(1))
    (delivery,) = await rig.take("jobs")
    await rig.say("jobs", settlement(delivery.delivery_id, "retry", delay_ms=0, reason="busy"))
    await rig.put("jobs", msgspec.structs.replace(RULES, attempts_max=1))
    assert await taken(rig) == []
    (letter,) = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=5)).items
    assert letter.reason == "attempt 1 failed: busy; then attempts_max was lowered"
    assert [(each.attempt, each.outcome, each.reason) for each in letter.attempts] == [(1, "retry", "busy")]


# An engine that does not know


class Unsure:
    """Answers the first `unsure` calls of each kind with Undecided for the last item, having done it."""

    def __init__(self, queue, unsure):
        self.queue = queue
        self.appends = self.settles = unsure

    def __getattr__(self, name):
        return getattr(self.queue, name)

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        outcomes = list(await self.queue.append(messages))
        self.appends -= 1
        return [*outcomes[:-1], Undecided(reason="a leader change")] if self.appends >= 0 else outcomes

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        self.settles -= 1
        if self.settles >= 0:
            done = await self.queue.settle(settlements[:-1])
            return [*done, SettleOutcome.UNDECIDED]
        return await self.queue.settle(settlements)


async def test_an_undecided_post_or_settlement_is_repeated_until_it_is_decided(tmp_path, clock):
    async with queue_rig(tmp_path, clock, wrap=lambda queue: Unsure(queue, 2)) as rig:
        assert await rig.post("jobs", message(1, id="a"), message(2, id="b")) == ["a", "b"]
        deliveries = await rig.take("jobs")
        assert len(deliveries) == 2
        outcomes = await rig.say("jobs", *(settlement(delivery.delivery_id) for delivery in deliveries))
        assert outcomes == ["done", "done"]


async def test_what_stays_undecided_is_told_apart_from_what_is_known(tmp_path, clock):
    async with queue_rig(tmp_path, clock, wrap=lambda queue: Unsure(queue, 99)) as rig:
        with pytest.raises(EngineUnavailable, match="same ids") as caught:
            await rig.post("jobs", message(1, id="a"), message(2, id="b"))
        assert caught.value.extensions == {"receipts": [{"id": "a", "duplicate": False}, None]}
        deliveries = await rig.take("jobs")
        items = [settlement(delivery.delivery_id) for delivery in deliveries]
        with pytest.raises(EngineUnavailable) as caught:
            await rig.say("jobs", settlement("x"), *items)
        assert caught.value.extensions == {"outcomes": ["stale", "done", None]}


async def test_ids_that_the_hub_makes_cost_no_memory_and_ids_of_callers_are_remembered(tmp_path, clock):
    async with queue_rig(tmp_path, clock) as rig:
        await rig.post("jobs", *[message(number) for number in range(20)])
        await rig.post("jobs", message("mine", id="a"), message("mine too", id="b"))
    with contextlib.closing(sqlite3.connect(next(tmp_path.rglob(DATABASE_NAME)))) as database:
        assert database.execute("SELECT count(*) FROM queue_recent").fetchone() == (2,)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_message_whose_last_lease_ran_out_is_a_dead_letter_without_anybody_asking(tmp_path, clock, keeps):
    async with queue_rig(tmp_path, clock) as rig:
        await rig.put("jobs", msgspec.structs.replace(RULES, dead_letter=keeps))
        await rig.post("jobs", message("lost", id="m"), message("later", delay_ms=3_600_000))
        for _attempt in range(2):
            assert await taken(rig) == ["lost"]
            clock.advance(LEASE_MS)
        await rig.engine.queue.wake_due()
        dead = (await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=10)).items
        assert [(each.id, each.reason) for each in dead] == (
            [("m", "attempt 2 of 2 was not settled: its lease ran out")] if keeps else []
        )
        assert [each.outcome for letter in dead for each in letter.attempts] == (["expired"] * 2 if keeps else [])
