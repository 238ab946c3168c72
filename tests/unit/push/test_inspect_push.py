"""Notifications that could not be delivered: who sees them, what is shown, and in which order they are sent again."""

import msgspec
import pytest

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import QueueAppend, ToDeadLetters
from meshway.gateway.admission import Admission
from meshway.gateway.inspect_push import InspectPush
from meshway.gateway.push_ports import NotificationAnswer
from meshway.gateway.queue_notifications import PUSH_QUEUE, Notice
from meshway.kernel.errors import Forbidden, InvalidRequest, NotFound
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.pages import encode_cursor
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.tasks.push_configs import PushConfigStore
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskState
from support.push_rig import ANN, ECHO, TASK, event_number, push_rig, status_update, task_event

DONE = TaskState.COMPLETED


@pytest.fixture
async def rig(tmp_path, clock):
    async with push_rig(tmp_path, clock, attempts_max=1) as rig:
        rig.receiver.answer = lambda _: NotificationAnswer(500)
        yield rig


@pytest.fixture
def push(rig):
    return inspecting(rig.engine, rig.configs)


@pytest.fixture
async def engine(tmp_path, clock):
    engine = await open_embedded_engine(tmp_path, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    yield engine
    await engine.close()


def inspecting(engine, configs):
    return InspectPush(configs, Admission(calls_in_flight_max=1), engine.queue_admin)


def repair(rig):
    """From now on the receiver takes what comes."""
    rig.receiver.sent.clear()
    rig.receiver.answer = lambda _: NotificationAnswer(200)


async def shown(push, *, cursor=None, limit=50):
    return await push.dead_letters(LOCAL_OPERATOR, cursor=cursor, limit=limit)


async def test_a_dead_letter_says_whose_it_was_why_it_died_and_where_it_should_have_gone(rig, push, clock):
    await rig.attach(id="mine", url="http://127.0.0.1:9/hook?token=s3cret", token="tok-en")
    await rig.append(task_event())
    await rig.wait_dead(1)
    page = await shown(push)
    (lost,) = page.items
    assert (lost.notice.agent, lost.notice.task, lost.notice.config, lost.notice.number) == (ECHO, TASK, "mine", 1)
    assert lost.url == "http://127.0.0.1:9/hook"
    assert lost.letter.reason == "attempt 1 of 1 failed: the receiver answered 500"
    assert [each.attempt for each in lost.letter.attempts] == [1]
    assert lost.letter.dead_at_ms == clock.now_ms()
    assert page.next_cursor is None


async def test_pages_are_oldest_first_and_go_on_where_the_one_before_ended(rig, push):
    await rig.attach()
    await rig.append(task_event(), status_update(), status_update())
    await rig.wait_dead(3)
    first = await shown(push, limit=2)
    rest = await shown(push, cursor=first.next_cursor, limit=2)
    assert [lost.notice.number for lost in [*first.items, *rest.items]] == [1, 2, 3]
    assert rest.next_cursor is None
    for cursor in ("no cursor", encode_cursor("no position")):
        with pytest.raises(InvalidRequest):
            await shown(push, cursor=cursor)


async def test_all_are_sent_again_in_the_order_of_events_and_the_config_ends_with_the_last(rig, push):
    await rig.attach()
    await rig.append(task_event(), status_update(), status_update(DONE))
    await rig.wait_dead(3)
    repair(rig)
    assert len(await push.redrive(LOCAL_OPERATOR, None)) == 3
    await rig.receiver.wait_sent(3)
    await rig.wait_empty()
    assert rig.receiver.numbers == [1, 2, 3]
    assert not (await shown(push)).items
    assert await rig.configs.get(ECHO, TASK, TASK) is None


async def test_named_ones_are_sent_again_in_the_order_of_events_however_they_are_named(rig, push):
    await rig.attach()
    await rig.append(task_event(), status_update(), status_update(DONE))
    await rig.wait_dead(3)
    first, second, third = [lost.id for lost in (await shown(push)).items]
    repair(rig)
    assert await push.redrive(LOCAL_OPERATOR, [third, first, third, second]) == [first, second, third]
    await rig.receiver.wait_sent(3)
    assert rig.receiver.numbers == [1, 2, 3]


async def test_with_an_unknown_id_nothing_is_redriven_and_with_none_nothing_happens(rig, push):
    await rig.attach()
    await rig.append(task_event())
    await rig.wait_dead(1)
    (lost,) = (await shown(push)).items
    repair(rig)
    with pytest.raises(NotFound, match="There is no dead letter 'nothing' of push notifications; nothing was redriven"):
        await push.redrive(LOCAL_OPERATOR, [lost.id, "nothing"])
    assert await push.redrive(LOCAL_OPERATOR, []) == []
    assert [each.id for each in (await shown(push)).items] == [lost.id]
    assert not rig.receiver.sent


async def test_what_fails_again_is_a_dead_letter_again_under_the_same_id(rig, push):
    await rig.attach()
    await rig.append(task_event())
    await rig.wait_dead(1)
    ids = [lost.id for lost in (await shown(push)).items]
    assert await push.redrive(LOCAL_OPERATOR, ids) == ids
    await rig.receiver.wait_sent(2)
    await rig.wait_dead(1)
    assert [lost.id for lost in (await shown(push)).items] == ids


async def test_before_a_task_ends_a_redriven_notification_may_come_after_later_events(rig, push):
    await rig.attach()
    await rig.append(task_event())
    await rig.wait_dead(1)
    repair(rig)
    await rig.append(status_update())
    await rig.receiver.wait_sent(1)
    await push.redrive(LOCAL_OPERATOR, None)
    await rig.receiver.wait_sent(2)
    assert rig.receiver.numbers == [2, 1]


async def test_once_the_last_event_was_delivered_what_was_lost_before_has_no_receiver_and_is_dropped(rig, push):
    rig.receiver.answer = lambda sent: NotificationAnswer(500 if event_number(sent) == 1 else 200)
    await rig.attach()
    await rig.append(task_event(), status_update(DONE))
    await rig.receiver.wait_sent(2)
    await rig.wait_empty()
    (lost,) = (await shown(push)).items
    assert (lost.notice.number, lost.url) == (1, None)
    repair(rig)
    assert await push.redrive(LOCAL_OPERATOR, None) == [lost.id]
    await rig.wait_empty()
    assert not rig.receiver.sent
    assert not (await shown(push)).items


async def test_what_is_redriven_behind_the_last_event_has_no_receiver_any_more(tmp_path, clock):
    async with push_rig(tmp_path, clock, attempts_max=2) as rig:
        rig.receiver.answer = lambda _: NotificationAnswer(500)
        await rig.attach()
        await rig.append(task_event(), status_update(DONE))
        await rig.receiver.wait_sent(1)
        await rig.wait_retrying()
        clock.advance(1_000)
        await rig.receiver.wait_sent(3)
        await rig.wait_retrying()
        assert rig.receiver.numbers == [1, 1, 2]
        repair(rig)
        assert len(await inspecting(rig.engine, rig.configs).redrive(LOCAL_OPERATOR, None)) == 1
        clock.advance(1_000)
        await rig.receiver.wait_sent(1)
        await rig.wait_empty()
        assert rig.receiver.numbers == [2]
        assert not await rig.dead_letters()


async def test_a_config_made_again_in_the_place_of_a_deleted_one_is_not_taken_for_it(rig, push, clock):
    await rig.attach()
    await rig.append(task_event())
    await rig.wait_dead(1)
    await rig.manage.delete(ANN, ECHO, TASK, TASK)
    clock.advance(1)
    await rig.create(url="http://127.0.0.1:9/new")
    (lost,) = (await shown(push)).items
    assert lost.url is None


async def test_only_an_admin_sees_and_redrives_them(rig, push):
    with pytest.raises(Forbidden, match="'admin'"):
        await push.dead_letters(ANN, cursor=None, limit=1)
    with pytest.raises(Forbidden, match="'admin'"):
        await push.redrive(ANN, None)


async def bury(engine, messages):
    for at in range(0, len(messages), 500):
        await engine.queue.append(messages[at : at + 500])
        leases = await engine.queue.lease(PUSH_QUEUE, count=500, wait_ms=1_000)
        await engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason="r") for lease in leases])


async def test_a_call_redrives_the_oldest_500_and_ids_are_found_behind_them(engine):
    notices = [Notice(agent=ECHO, task=TASK, config="c", number=number, made=0) for number in range(502)]
    messages = [
        QueueAppend(queue=PUSH_QUEUE, message_id=f"m{notice.number}", data=msgspec.json.encode(notice))
        for notice in notices
    ]
    await bury(engine, messages)
    push = inspecting(engine, PushConfigStore(engine.key_value, settings=TaskSettings()))
    assert await push.redrive(LOCAL_OPERATOR, ["m501"]) == ["m501"]
    assert await push.redrive(LOCAL_OPERATOR, None) == [f"m{number}" for number in range(500)]
    assert [lost.id for lost in (await shown(push)).items] == ["m500"]


async def test_what_a_newer_hub_wrote_is_left_out_and_can_be_redriven(engine, caplog):
    await bury(engine, [QueueAppend(queue=PUSH_QUEUE, message_id="m", data=b'{"kind":"new"}')])
    push = inspecting(engine, PushConfigStore(engine.key_value, settings=TaskSettings()))
    assert (await shown(push)).items == []
    assert [record.notification for record in caplog.records if record.message == "notification_unreadable"] == ["m"]
    assert await push.redrive(LOCAL_OPERATOR, ["m"]) == ["m"]
