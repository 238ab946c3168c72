"""What every QueueAdmin keeps."""

import asyncio
from collections.abc import Sequence

import pytest
from contract_engines import WaitUntil

from meshway.engine.ports import (
    Ack,
    DeadLetter,
    Engine,
    Enqueued,
    Lease,
    QueueAppend,
    QueueSettings,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.errors import InvalidRequest


async def _append(engine: Engine, *message_ids: str, queue: str = "q") -> None:
    await engine.queue.append([QueueAppend(queue=queue, message_id=name, data=name.encode()) for name in message_ids])


async def _lease_one(engine: Engine) -> Lease:
    (lease,) = await engine.queue.lease("q", count=1, wait_ms=5_000)
    return lease


async def _bury(engine: Engine, message_id: str, reason: str = "no use") -> None:
    await _append(engine, message_id)
    lease = await _lease_one(engine)
    assert lease.message.message_id == message_id
    await engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason=reason)])


async def _dead_ids(engine: Engine) -> list[str]:
    return [dead.message.message_id for dead in await engine.queue_admin.dead_letters("q")]


async def test_settings_are_the_defaults_until_a_queue_is_configured(engine: Engine) -> None:
    assert await engine.queue_admin.settings("q") == QueueSettings()
    settings = QueueSettings(lease_ms=5_000, ordered=True, messages_max=9, retention_ms=60_000)
    await engine.queue_admin.configure("q", settings)
    assert await engine.queue_admin.settings("q") == settings
    await engine.queue_admin.configure("q", QueueSettings(lease_ms=6_000))
    assert await engine.queue_admin.settings("q") == QueueSettings(lease_ms=6_000)


async def test_a_new_lease_time_holds_for_leases_made_afterwards(engine: Engine) -> None:
    await _append(engine, "m1", "m2")
    old = await _lease_one(engine)
    await engine.queue_admin.configure("q", QueueSettings(lease_ms=5_000))
    new = await _lease_one(engine)
    assert new.lease_until_ms < old.lease_until_ms - 15_000


@pytest.mark.parametrize(
    "settings",
    [
        QueueSettings(lease_ms=0),
        QueueSettings(dedupe_window_ms=0),
        QueueSettings(messages_max=0),
        QueueSettings(bytes_max=-1),
        QueueSettings(retention_ms=0),
    ],
)
async def test_settings_that_cannot_work_are_refused_by_field(engine: Engine, settings: QueueSettings) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await engine.queue_admin.configure("q", settings)
    assert len(refused.value.fields) == 1
    assert list(await engine.queue_admin.queues()) == []


async def test_queues_lists_what_was_configured_or_holds_messages_in_pages(engine: Engine) -> None:
    await engine.queue_admin.configure("b", QueueSettings())
    await _append(engine, "m", queue="c")
    await _append(engine, "m", queue="a")
    assert list(await engine.queue_admin.queues()) == ["a", "b", "c"]
    assert list(await engine.queue_admin.queues(after="a", limit=1)) == ["b"]


async def test_a_dead_letter_keeps_the_message_the_reason_and_the_history_of_its_attempts(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings(lease_ms=1_000))
    await _append(engine, "m")
    first = await _lease_one(engine)
    await engine.queue.settle([ToRetry(delivery_id=first.delivery_id, visible_at_ms=0, reason="model is busy")])
    await _lease_one(engine)
    third = await _lease_one(engine)
    assert third.attempt == 3
    await engine.queue.settle([ToDeadLetters(delivery_id=third.delivery_id, reason="attempts used up")])
    (dead,) = await engine.queue_admin.dead_letters("q")
    assert (dead.message.message_id, dead.message.data, dead.reason) == ("m", b"m", "attempts used up")
    assert [(record.attempt, record.outcome) for record in dead.attempts] == [
        (1, "retry"),
        (2, "expired"),
        (3, "dead_letter"),
    ]
    assert dead.attempts[0].reason == "model is busy"
    assert all(record.leased_at_ms <= record.ended_at_ms <= dead.dead_at_ms for record in dead.attempts)


async def test_a_message_whose_last_lease_ran_out_says_in_the_same_words_why_it_is_dead(
    engine: Engine, wait_until: WaitUntil
) -> None:
    await engine.queue_admin.configure("q", QueueSettings(lease_ms=1_000, attempts_max=2))
    await _append(engine, "m")
    assert [(await _lease_one(engine)).attempt for _ in range(2)] == [1, 2]

    async def dead_letters() -> Sequence[DeadLetter]:
        # An engine may see a lease that ran out when somebody asks for the next.
        assert list(await engine.queue.lease("q", count=1, wait_ms=100)) == []
        return await engine.queue_admin.dead_letters("q")

    (dead,) = await wait_until(dead_letters, seconds=10.0)
    assert dead.reason == "attempt 2 of 2 was not settled: its lease ran out"
    assert [(record.attempt, record.outcome, record.reason) for record in dead.attempts] == [
        (1, "expired", "the lease ran out"),
        (2, "expired", "the lease ran out"),
    ]


async def test_the_history_keeps_the_last_sixteen_attempts(engine: Engine) -> None:
    await _append(engine, "m")
    for _ in range(20):
        lease = await _lease_one(engine)
        await engine.queue.settle([ToRetry(delivery_id=lease.delivery_id, visible_at_ms=0)])
    lease = await _lease_one(engine)
    await engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason="r")])
    (dead,) = await engine.queue_admin.dead_letters("q")
    assert [record.attempt for record in dead.attempts] == list(range(6, 22))


async def test_dead_letters_come_oldest_first_in_pages(engine: Engine) -> None:
    for number in range(5):
        await _bury(engine, f"m{number}")
    assert await _dead_ids(engine) == [f"m{number}" for number in range(5)]
    first = await engine.queue_admin.dead_letters("q", limit=2)
    page = await engine.queue_admin.dead_letters("q", after=first[-1].position, limit=2)
    assert [dead.message.message_id for dead in page] == ["m2", "m3"]
    # Who reads on need not care that somebody redrove what the page ended with.
    await engine.queue_admin.redrive("q", ["m3"])
    rest = await engine.queue_admin.dead_letters("q", after=page[-1].position, limit=2)
    assert [dead.message.message_id for dead in rest] == ["m4"]
    with pytest.raises(InvalidRequest):
        await engine.queue_admin.dead_letters("q", after="no position")
    assert list(await engine.queue_admin.dead_letters("never")) == []


async def test_a_redriven_message_goes_to_the_end_and_starts_again_at_attempt_one(engine: Engine) -> None:
    await _bury(engine, "dead")
    await _append(engine, "waiting")
    assert list(await engine.queue_admin.redrive("q", ["dead", "unknown"])) == [True, False]
    assert await _dead_ids(engine) == []
    leases = [await _lease_one(engine), await _lease_one(engine)]
    assert [(lease.message.message_id, lease.attempt) for lease in leases] == [("waiting", 1), ("dead", 1)]


async def test_of_concurrent_redrives_of_one_message_exactly_one_succeeds(engine: Engine) -> None:
    await _bury(engine, "dead")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(engine.queue_admin.redrive("q", ["dead", "dead"])) for _ in range(8)]
    assert sum(sum(task.result()) for task in tasks) == 1
    assert len(await engine.queue.lease("q", count=10, wait_ms=1_000)) == 1


async def test_a_redriven_message_that_fails_again_is_dead_again(engine: Engine) -> None:
    await _bury(engine, "m", "first time")
    await engine.queue_admin.redrive("q", ["m"])
    lease = await _lease_one(engine)
    await engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason="second time")])
    (dead,) = await engine.queue_admin.dead_letters("q")
    assert (dead.reason, len(dead.attempts)) == ("second time", 1)


async def test_a_purge_drops_held_and_delayed_messages_too_and_leaves_dead_letters(engine: Engine, wait_until) -> None:
    await _bury(engine, "dead")
    await _append(engine, "a", "b", "c")
    lease = await _lease_one(engine)
    far = lease.lease_until_ms + 60_000
    await engine.queue.append([QueueAppend(queue="q", message_id="later", data=b"", deliver_at_ms=far)])
    assert await engine.queue_admin.purge("q") == 4
    assert list(await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])) == [SettleOutcome.STALE]
    assert list(await engine.queue.peek("q")) == []
    assert await _dead_ids(engine) == ["dead"]
    assert await engine.queue_admin.purge("never") == 0


async def test_a_purge_of_thousands_drops_them_all_and_nothing_else(engine: Engine) -> None:
    for part in range(5):
        await _append(engine, *(f"m{part}-{number}" for number in range(500)))
    await _append(engine, "kept", queue="other")
    assert await engine.queue_admin.purge("q") == 2_500
    assert len(await engine.queue.lease("other", count=1, wait_ms=1_000)) == 1


async def test_a_removed_queue_is_forgotten_with_everything_it_had(engine: Engine, wait_until) -> None:
    await engine.queue_admin.configure("q", QueueSettings(messages_max=7))
    await _bury(engine, "dead")
    await _append(engine, "m")
    await engine.queue_admin.remove("q")
    assert list(await engine.queue_admin.queues()) == []
    assert await engine.queue_admin.settings("q") == QueueSettings()
    assert await _dead_ids(engine) == []
    await engine.queue_admin.remove("q")

    async def is_empty() -> bool:
        (depth,) = await engine.queue.depth(["q"])
        return depth.waiting == depth.dead == 0

    await wait_until(is_empty)


async def test_a_removed_queue_leaves_no_ids_behind_for_its_successor(engine: Engine) -> None:
    message = QueueAppend(queue="q", message_id="m", data=b"", dedupe_id="d")
    assert list(await engine.queue.append([message, message])) == [Enqueued(duplicate=False), Enqueued(duplicate=True)]
    await engine.queue_admin.remove("q")
    assert list(await engine.queue.append([message])) == [Enqueued(duplicate=False)]
    assert (await _lease_one(engine)).message.message_id == "m"


async def test_a_worker_that_waits_on_a_removed_queue_gets_what_is_sent_to_its_successor(engine: Engine) -> None:
    await engine.queue_admin.configure("q", QueueSettings())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_lease_one(engine))
        await asyncio.sleep(0.05)
        await engine.queue_admin.remove("q")
        await _append(engine, "m")
    assert waiting.result().message.message_id == "m"


async def test_a_queue_that_becomes_ordered_blocks_what_waits_behind_its_key(engine: Engine) -> None:
    await engine.queue.append(
        [QueueAppend(queue="q", message_id=f"m{n}", data=b"", ordering_key="a") for n in range(3)]
    )
    await engine.queue_admin.configure("q", QueueSettings(ordered=True))
    lease = await _lease_one(engine)
    assert lease.message.message_id == "m0"
    assert list(await engine.queue.lease("q", count=5)) == []
    await engine.queue_admin.configure("q", QueueSettings(ordered=False))
    leases = await engine.queue.lease("q", count=5, wait_ms=1_000)
    assert [lease.message.message_id for lease in leases] == ["m1", "m2"]
