"""What becomes of a notification: order, retries, dead letters, the end of a task."""

import asyncio
import hashlib

import pytest

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import LogTrim
from meshway.gateway.deliver_notifications import _BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS
from meshway.gateway.push_ports import NotificationAnswer
from meshway.gateway.push_settings import PushSettings
from meshway.gateway.queue_notifications import PUSH_QUEUE
from meshway.kernel.errors import EgressDenied, UpstreamUnreachable
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.retry import RetryPolicy
from meshway.tasks.tokens import events_subject
from meshway.tasks.values import TaskState
from support.push_rig import (
    ANN,
    ECHO,
    TASK,
    PushRig,
    artifact_update,
    event_number,
    push_rig,
    status_update,
    task_event,
)

HOUR_MS = 3_600_000
DONE = TaskState.COMPLETED


@pytest.fixture
async def rig(tmp_path, clock):
    async with push_rig(tmp_path, clock, attempts_max=3) as rig:
        yield rig


def refusing(*numbers, status=500, **answer):
    """An answer that refuses these events and takes the others."""

    def answered(notification):
        refused = not numbers or event_number(notification) in numbers
        return NotificationAnswer(status if refused else 200, **answer)

    return answered


async def retried(rig, sent, milliseconds):
    """Wait until `sent` notifications went out and are back, then let time pass."""
    await rig.receiver.wait_sent(sent)
    await rig.wait_retrying()
    rig.clock.advance(milliseconds)


async def test_the_default_policy_goes_on_for_six_hours_whatever_chance_says():
    policy = RetryPolicy(PushSettings().attempts_max, _BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS)
    shortest = sum(policy.backoff_ms(attempt, 0.0) for attempt in range(1, policy.attempts_max))
    assert shortest >= 6 * HOUR_MS


async def test_a_notification_is_the_event_as_it_is_in_the_log_with_everything_a_receiver_needs(rig):
    await rig.attach(token="tok", authentication={"scheme": "Bearer", "credentials": "s3cret"})
    event = status_update()
    await rig.append(event)
    (sent,) = await rig.receiver.wait_sent(1)
    headers = dict(sent.headers)
    assert rig.receiver.bodies == [event[1]]
    assert sent.url == "http://127.0.0.1:9/hook"
    assert headers.pop(b"meshway-signature").count(b".") == 2
    assert headers == {
        b"content-type": b"application/a2a+json",
        b"authorization": b"Bearer s3cret",
        b"x-a2a-notification-token": b"tok",
        b"meshway-task": b"t-1",
        b"meshway-event-number": b"1",
        b"meshway-attempt": b"1",
    }


async def test_a_config_without_secrets_sends_neither_token_nor_authorization(rig):
    await rig.attach(authentication={"scheme": "Bearer"})
    await rig.append(task_event())
    (sent,) = await rig.receiver.wait_sent(1)
    assert not {b"authorization", b"x-a2a-notification-token"} & dict(sent.headers).keys()


async def test_events_behind_one_that_fails_wait_for_it(rig):
    rig.receiver.answer = refusing(1)
    await rig.attach()
    await rig.append(task_event(), status_update(), status_update())
    await retried(rig, 1, 1_000)
    await rig.receiver.wait_sent(2)
    await rig.wait_retrying()
    rig.receiver.answer = refusing(99)
    rig.clock.advance(2_000)
    await rig.receiver.wait_sent(5)
    assert rig.receiver.numbers == [1, 1, 1, 2, 3]
    assert [dict(sent.headers)[b"meshway-attempt"] for sent in rig.receiver.sent] == [b"1", b"2", b"3", b"1", b"1"]


async def test_a_receiver_that_is_away_holds_up_nobody_else(rig):
    rig.receiver.answer = lambda sent: (
        UpstreamUnreachable("nothing listens") if sent.url.endswith("down") else NotificationAnswer(204)
    )
    await rig.attach(id="down", url="http://127.0.0.1:9/down")
    await rig.attach(id="up", url="http://127.0.0.1:9/up")
    await rig.append(task_event(), status_update(), status_update())
    await rig.receiver.wait_sent(4)
    await rig.wait_retrying()
    assert [event_number(sent) for sent in rig.receiver.sent if sent.url.endswith("up")] == [1, 2, 3]


async def test_attempts_used_up_make_a_dead_letter_with_its_reason_and_the_next_event_has_its_turn(rig):
    rig.receiver.answer = refusing(1, status=503)
    await rig.attach()
    await rig.append(task_event(), status_update())
    await retried(rig, 1, 1_000)
    await retried(rig, 2, 2_000)
    await rig.receiver.wait_sent(4)
    (dead,) = await rig.wait_dead(1)
    assert dead.reason == "attempt 3 of 3 failed: the receiver answered 503"
    assert [attempt.reason for attempt in dead.attempts[:2]] == ["the receiver answered 503"] * 2
    assert rig.receiver.numbers == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (NotificationAnswer(404), "the receiver answered 404"),
        (NotificationAnswer(307), "the receiver answered 307; redirects are not followed"),
        (EgressDenied("hook.example (127.0.0.1) is a loopback address"), "is a loopback address"),
        (UpstreamUnreachable("nothing listens"), "nothing listens"),
    ],
)
async def test_whatever_is_no_success_is_tried_again(rig, answer, told):
    rig.receiver.answer = lambda _: answer
    await rig.attach()
    await rig.append(task_event())
    await retried(rig, 1, 1_000)
    await retried(rig, 2, 2_000)
    (dead,) = await rig.wait_dead(1)
    assert told in dead.reason


@pytest.mark.parametrize(("wish_ms", "kept_ms"), [(0, 1_000), (30_000, 30_000), (10 * HOUR_MS, HOUR_MS)])
async def test_the_receivers_wish_for_later_is_kept_within_an_hour(rig, wish_ms, kept_ms):
    rig.receiver.answer = refusing(status=429, retry_after_ms=wish_ms)
    await rig.attach()
    await rig.append(task_event())
    await retried(rig, 1, kept_ms - 1_000)
    rig.receiver.answer = refusing(99)
    await rig.engine.queue.append([])
    assert len(rig.receiver.sent) == 1
    rig.clock.advance(1_001)
    await rig.receiver.wait_sent(2)


async def test_gone_is_a_dead_letter_at_once_and_the_end_of_the_config(rig):
    rig.receiver.answer = refusing(status=410)
    await rig.attach()
    await rig.append(task_event(), status_update())
    (dead,) = await rig.wait_dead(1)
    assert "410 Gone" in dead.reason
    await rig.wait_empty()
    assert rig.receiver.numbers == [1]
    assert await rig.configs.get(ECHO, TASK, TASK) is None


async def test_the_config_ends_with_the_task_it_is_for(rig):
    await rig.attach()
    await rig.append(task_event(), status_update(DONE))
    await rig.receiver.wait_sent(2)
    await rig.wait_empty()
    assert await rig.configs.get(ECHO, TASK, TASK) is None
    assert not rig.configs.has_configs(ECHO, TASK)


async def test_the_last_event_can_be_sent_again_from_the_dead_letters(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event(DONE))
    await retried(rig, 1, 1_000)
    await retried(rig, 2, 2_000)
    (dead,) = await rig.wait_dead(1)
    rig.receiver.answer = refusing(99)
    assert await rig.engine.queue_admin.redrive(PUSH_QUEUE, [dead.message.message_id]) == [True]
    await rig.receiver.wait_sent(4)
    await rig.wait_empty()
    assert await rig.configs.get(ECHO, TASK, TASK) is None


async def test_the_config_of_a_finished_task_whose_receiver_stayed_away_is_kept_for_a_week(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event(DONE))
    await retried(rig, 1, 1_000)
    await retried(rig, 2, 2_000)
    await rig.wait_dead(1)
    await rig.until(lambda: _is_idle(rig))
    rig.clock.advance(6 * 24 * HOUR_MS)
    assert await rig.configs.get(ECHO, TASK, TASK) is not None
    rig.clock.advance(25 * HOUR_MS)
    assert await rig.configs.get(ECHO, TASK, TASK) is None


async def _is_idle(rig):
    return rig.deliver.in_flight == 0


async def test_what_waited_a_day_behind_others_is_tried_once(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event(), status_update())
    await retried(rig, 1, 25 * HOUR_MS)
    dead = await rig.wait_dead(2)
    assert "24 h after the event: the receiver answered 500" in dead[1].reason
    assert rig.receiver.numbers == [1, 1, 2]


async def test_nothing_more_goes_to_a_deleted_config_nor_to_one_made_again_in_its_place(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event(), status_update())
    await retried(rig, 1, 10)
    await rig.manage.delete(ANN, ECHO, TASK, TASK)
    await rig.create(url="http://127.0.0.1:9/new")
    rig.receiver.answer = refusing(99)
    rig.clock.advance(1_000)
    await rig.wait_empty()
    await rig.append(status_update())
    await rig.receiver.wait_sent(2)
    assert [(event_number(sent), sent.url[-3:]) for sent in rig.receiver.sent] == [(1, "ook"), (3, "new")]


async def test_a_replaced_config_goes_on_at_its_new_place(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event())
    await retried(rig, 1, 0)
    await rig.create(url="http://127.0.0.1:9/new")
    rig.receiver.answer = refusing(99)
    rig.clock.advance(1_000)
    sent = await rig.receiver.wait_sent(2)
    assert sent[1].url.endswith("new")
    assert event_number(sent[1]) == 1


async def test_an_event_that_is_no_longer_kept_is_a_dead_letter(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event(), status_update())
    await rig.receiver.wait_sent(1)
    await rig.wait_retrying()
    await rig.engine.log.trim([LogTrim(subject=events_subject(ECHO, TASK), before_sequence=2)])
    rig.clock.advance(1_000)
    (dead,) = await rig.wait_dead(1)
    assert dead.reason == "event 1 of the task is no longer kept"


async def test_receivers_of_version_0_3_get_the_task_as_it_was_after_each_status(rig):
    await rig.attach(version="0.3")
    await rig.append(task_event())
    await rig.receiver.wait_sent(1)
    await rig.append(artifact_update("a", append=False))
    await rig.receiver.wait_sent(2)
    await rig.append(status_update(DONE))
    sent = await rig.receiver.wait_sent(3)
    assert {dict(each.headers)[b"content-type"] for each in sent} == {b"application/json"}
    bodies = rig.receiver.bodies
    assert [body["kind"] for body in bodies] == ["task"] * 3
    assert [body["status"]["state"] for body in bodies] == ["submitted", "submitted", "completed"]
    assert "artifacts" not in bodies[0]
    assert bodies[1]["artifacts"][0]["parts"] == [{"kind": "text", "text": "a"}]


async def test_receivers_of_version_0_3_are_spared_pieces_that_a_later_task_holds_anyway(rig):
    await rig.write(task_event(), *[artifact_update(str(n)) for n in range(50)], status_update(DONE))
    await rig.attach(version="0.3")
    await rig.receiver.wait_sent(2)
    await rig.wait_empty()
    assert rig.receiver.numbers == [1, 52]
    assert len(rig.receiver.bodies[1]["artifacts"][0]["parts"]) == 50


async def test_a_defect_in_one_delivery_ends_no_other(rig):
    rig.receiver.answer = lambda sent: RuntimeError("defect") if sent.url.endswith("bad") else NotificationAnswer(200)
    await rig.attach(id="bad", url="http://127.0.0.1:9/bad")
    await rig.append(task_event())
    await rig.receiver.wait_sent(1)
    await rig.wait_retrying()
    await rig.attach(id="good")
    await rig.receiver.wait_sent(2)
    rig.clock.advance(1_000)
    await rig.receiver.wait_sent(3)


async def test_no_more_than_the_setting_are_on_their_way_at_once(tmp_path, clock):
    gate = asyncio.Event()
    most = 0

    class Slow:
        here = 0

        async def send(self, notification):
            nonlocal most
            self.here += 1
            most = max(most, self.here)
            await gate.wait()
            self.here -= 1
            return NotificationAnswer(200)

    slow = Slow()
    async with push_rig(tmp_path, clock, sender=slow, concurrency=3) as rig:
        for number in range(8):
            await rig.attach(id=str(number))
        await rig.append(task_event())
        await rig.until(lambda: _holds(slow, 3))
        gate.set()
        await rig.wait_empty()
    assert most == 3


async def _holds(slow, count):
    return slow.here == count


async def test_a_hub_that_stops_lets_go_of_what_is_on_its_way(tmp_path, clock):
    class Stuck:
        arrived = asyncio.Event()

        async def send(self, notification):
            self.arrived.set()
            await asyncio.get_running_loop().create_future()

    engine = await open_embedded_engine(tmp_path, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        async with PushRig(engine, clock, sender=Stuck()).running() as rig:
            await rig.attach()
            await rig.append(task_event())
            async with asyncio.timeout(5):
                await Stuck.arrived.wait()
        async with PushRig(engine, clock).running() as rig:
            (sent,) = await rig.receiver.wait_sent(1)
            assert dict(sent.headers)[b"meshway-attempt"] == b"2"
            await rig.wait_empty()
    finally:
        await engine.close()


async def test_two_attempts_are_signed_apart_and_both_sign_the_body(rig):
    rig.receiver.answer = refusing()
    await rig.attach()
    await rig.append(task_event())
    await retried(rig, 1, 1_000)
    first, second = await rig.receiver.wait_sent(2)
    assert dict(first.headers)[b"meshway-signature"] != dict(second.headers)[b"meshway-signature"]
    assert hashlib.sha256(first.body).digest() == hashlib.sha256(second.body).digest()
