"""What clients and instances meet in the life of a task, case by case, over the embedded engine on virtual time."""

import asyncio

import pytest

from meshway.kernel.errors import (
    AgentStopped,
    EngineUnavailable,
    IdempotencyKeyReused,
    InboxFull,
    InvalidRequest,
    OperationUnsupported,
    TaskNotCancelable,
)
from meshway.kernel.ids import ContextId
from meshway.registry.values import AgentSettings
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskState
from support.task_rig import ADMIN, ANN, COUNTER, PATIENCE_S, TaskRig, artifact, open_engine, status, task_rig

LEASE_MS = 10_000
SETTINGS = TaskSettings(lease_ms=LEASE_MS, task_timeout_ms=100_000, inbox_ttl_ms=200_000)
COMPLETED = status(TaskState.COMPLETED)
QUESTION = status(TaskState.INPUT_REQUIRED, "how many?")


@pytest.fixture
async def rig(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=SETTINGS) as rig:
        yield rig


async def asked(rig: TaskRig) -> str:
    """A task whose agent waits for an answer."""
    task_id = await rig.submit("begin")
    reported = await rig.say(await rig.take_one(), QUESTION)
    assert reported.outcome == "done"
    await rig.settle_down()
    return task_id


async def both(*calls):
    """At the same time; results and errors."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*calls, return_exceptions=True)


# Multi-turn


async def test_a_question_of_the_agent_is_answered_and_the_task_goes_on_to_its_end(rig):
    task_id = await asked(rig)
    assert (await rig.get(task_id))["status"]["message"]["parts"] == [{"text": "how many?"}]

    await rig.send("seven", task_id=task_id)
    handed = await rig.take_one()
    assert (handed.claim.turn, handed.claim.attempt) == (2, 1)
    assert b"how many?" in handed.snapshot
    await rig.say(handed, artifact("7", append=False, last=True), COMPLETED)

    names = await rig.states_of(task_id)
    assert names == ["SUBMITTED", "WORKING", "INPUT_REQUIRED", "SUBMITTED", "WORKING", "WORKING", "COMPLETED"]
    task = await rig.get(task_id)
    assert [message["parts"][0]["text"] for message in task["history"]] == ["begin", "how many?", "seven"]
    assert [step.state for step in await rig.receipts(task_id)] == ["queued", "claimed", "running", "replied"] * 2


async def test_of_two_answers_at_once_one_is_refused(rig):
    task_id = await asked(rig)
    outcomes = await both(rig.send("six", task_id=task_id), rig.send("seven", task_id=task_id))
    assert [type(each) for each in outcomes].count(OperationUnsupported) == 1
    accepted = "six" if isinstance(outcomes[0], dict) else "seven"
    assert (await rig.get(task_id))["history"][-1]["parts"] == [{"text": accepted}]
    assert len(await rig.take(10)) == 1
    assert (await rig.states_of(task_id)).count("SUBMITTED") == 2


async def test_a_message_to_a_task_that_works_or_waits_for_an_instance_is_refused(rig):
    task_id = await rig.submit()
    with pytest.raises(OperationUnsupported, match="SUBMITTED"):
        await rig.send("more", task_id=task_id)
    await rig.take_one()
    with pytest.raises(OperationUnsupported, match="WORKING"):
        await rig.send("more", task_id=task_id)


async def test_an_answer_under_another_context_is_refused(rig):
    task_id = await asked(rig)
    with pytest.raises(InvalidRequest, match="contextId"):
        await rig.send("seven", task_id=task_id, context_id="other")


async def test_a_restart_between_two_turns_loses_neither(rig):
    task_id = await asked(rig)
    await rig.restart(crash=True)
    await rig.send("seven", task_id=task_id)
    await rig.restart(crash=True)
    handed = await rig.take_one()
    assert handed.claim.turn == 2
    await rig.say(handed, COMPLETED)
    assert (await rig.get(task_id))["status"]["state"] == "TASK_STATE_COMPLETED"
    assert [event.number for event in await rig.log_of(task_id)] == [1, 2, 3, 4, 5, 6]


async def test_what_was_given_back_in_one_turn_gives_no_attempts_to_the_next(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=SETTINGS, agent=AgentSettings(attempts_max=1)) as rig:
        task_id = await rig.submit()
        assert await rig.settle(await rig.take_one(), "release") == "done"
        await rig.say(await rig.take_one(), QUESTION)
        await rig.send("seven", task_id=task_id)
        assert await rig.settle(await rig.take_one(), "retry", reason="boom") == "done"
        assert await rig.take() == []
        assert (await rig.states_of(task_id))[-1] == "FAILED"
        assert await rig.dead() == [f"{task_id}.2"]


async def test_an_answer_with_a_key_is_taken_once(rig):
    task_id = await asked(rig)
    await rig.send("seven", task_id=task_id, key="k")
    await rig.send("seven", task_id=task_id, key="k")
    assert (await rig.states_of(task_id)).count("SUBMITTED") == 2


async def test_an_answer_that_a_crash_kept_from_its_task_is_taken_when_it_is_repeated(rig):
    task_id = await asked(rig)
    rig.inbox_line.before_put.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await rig.send("seven", task_id=task_id, key="k")
    await rig.restart(crash=True)
    await rig.send("seven", task_id=task_id, key="k")
    assert (await rig.take_one()).claim.turn == 2


async def test_nothing_follows_a_question_in_the_same_report(rig):
    task_id = await rig.submit()
    reported = await rig.say(await rig.take_one(), QUESTION, status(TaskState.WORKING))
    assert (reported.outcome, reported.source) == ("refused", 1)
    await rig.send("seven", task_id=task_id)
    assert (await rig.take_one()).claim.turn == 2


async def test_what_is_reported_while_a_question_is_being_written_does_not_strand_the_task(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    question, more = await both(rig.say(handed, QUESTION), rig.say(handed, status(TaskState.WORKING), source=2))
    assert question.outcome == "done"
    assert more.outcome in ("refused", "stale")
    assert (await rig.states_of(task_id))[-1] == "INPUT_REQUIRED"


# Cancel races completion


async def test_a_completed_task_cannot_be_cancelled(rig):
    task_id = await rig.submit()
    await rig.say(await rig.take_one(), COMPLETED)
    with pytest.raises(TaskNotCancelable):
        await rig.cancel(task_id)
    assert (await rig.states_of(task_id))[-1] == "COMPLETED"


async def test_what_is_reported_of_a_cancelled_task_is_stale_and_its_instance_was_told(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    await rig.cancel(task_id)
    assert [delivery_id for delivery_id, _ in rig.told] == [handed.claim.delivery_id]
    assert (await rig.say(handed, COMPLETED)).outcome == "stale"
    assert await rig.settle(handed, "retry") == "stale"
    await rig.settle_down()
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "CANCELED"]
    assert await rig.waiting() == []


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_of_cancelling_and_completing_at_once_the_first_holds_and_the_other_learns_it(rig, cancel_first):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.line.before_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        cancel = group.create_task(outcome_of(rig.cancel(task_id))) if cancel_first else None
        report = group.create_task(outcome_of(rig.say(handed, COMPLETED)))
        await rig.line.before_write.reached()
        await asyncio.sleep(0)
        cancel = cancel or group.create_task(outcome_of(rig.cancel(task_id)))
        await asyncio.sleep(0)
        rig.line.before_write.open()
    names = await rig.states_of(task_id)
    if cancel_first:
        assert names == ["SUBMITTED", "WORKING", "CANCELED"]
        assert report.result().outcome in ("stale", "refused")
    else:
        assert names == ["SUBMITTED", "WORKING", "COMPLETED"]
        assert isinstance(cancel.result(), TaskNotCancelable)


async def outcome_of(call):
    try:
        return await call
    except (TaskNotCancelable, OperationUnsupported) as error:
        return error


async def test_a_task_ends_once_however_many_try_to_end_it_at_once(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    follower = await rig.follow(task_id)
    await both(
        *(rig.cancel(task_id) for _ in range(3)),
        *(rig.say(handed, COMPLETED) for _ in range(3)),
        rig.settle(handed, "fail", reason="boom"),
        rig.settle(handed, "retry"),
        rig.cancel(task_id),
    )
    events = await follower.to_the_end()
    assert [event.state.is_terminal for event in events] == [False] * (len(events) - 1) + [True]
    assert events == await rig.log_of(task_id)


@pytest.mark.parametrize("action", ["retry", "fail", "release"])
async def test_a_delivery_whose_end_is_being_written_cannot_be_settled(rig, action):
    task_id = await rig.submit()
    handed = await rig.take_one()
    reported, settled = await both(rig.say(handed, COMPLETED), rig.settle(handed, action))
    assert (reported.outcome, settled) == ("done", "stale")
    await rig.settle_down()
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]
    assert (await rig.dead(), await rig.waiting()) == ([], [])


async def test_the_time_is_up_while_the_end_is_being_written_and_the_task_ends_once(rig, clock):
    task_id = await rig.submit(timeout_ms=5_000)
    handed = await rig.take_one()
    clock.advance(5_000)
    await both(rig.say(handed, COMPLETED), rig.watch.look())
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]


async def test_an_instance_falls_silent_while_the_end_is_being_written_and_nothing_follows_it(rig, clock):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.line.before_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(rig.say(handed, COMPLETED))
        await rig.line.before_write.reached()
        clock.advance(LEASE_MS - 1)
        look = group.create_task(rig.watch.look())
        # It has asked the engine for the lease by then, or has nothing to do.
        await asyncio.wait([look], timeout=0.1)
        rig.line.before_write.open()
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]


async def test_a_task_cancelled_while_its_answer_is_put_into_the_inbox_stays_cancelled(rig):
    task_id = await asked(rig)
    rig.inbox_line.before_put.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        answer = group.create_task(outcome_of(rig.send("seven", task_id=task_id)))
        await rig.inbox_line.before_put.reached()
        await rig.cancel(task_id)
        rig.inbox_line.before_put.open()
    assert isinstance(answer.result(), OperationUnsupported)
    assert await rig.take() == []
    assert (await rig.states_of(task_id))[-2:] == ["INPUT_REQUIRED", "CANCELED"]


async def test_a_task_cancelled_while_its_next_turn_is_handed_out_stays_cancelled(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    # More than memory keeps, so that the snapshot for the next turn is read from the log.
    await rig.say(handed, *(artifact(f"{n} ", append=n > 0) for n in range(60)), QUESTION)
    await rig.send("seven", task_id=task_id)
    rig.line.before_read.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        taking = group.create_task(rig.take())
        await rig.line.before_read.reached()
        await rig.cancel(task_id)
        rig.line.before_read.open()
    assert taking.result() == []
    assert (await rig.states_of(task_id))[-2:] == ["SUBMITTED", "CANCELED"]


async def test_a_task_cancelled_while_it_is_announced_is_not_handed_out(rig):
    task_id = await rig.submit()
    rig.line.before_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        taking = group.create_task(rig.take())
        await rig.line.before_write.reached()
        cancelling = group.create_task(rig.cancel(task_id))
        await asyncio.sleep(0)
        rig.line.before_write.open()
        await cancelling
    assert taking.result() == []
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "CANCELED"]


async def test_a_task_cancelled_before_a_crash_is_not_handed_out_after_it(rig):
    task_id = await rig.submit()
    await rig.cancel(task_id)
    await rig.restart(crash=True)
    assert await rig.take() == []
    await rig.settle_down()
    assert await rig.waiting() == []


# Subscribe at the last event


async def test_who_subscribes_just_before_the_last_event_gets_the_snapshot_and_then_it(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    late = await rig.subscribe(task_id)
    await late.until(2)
    await rig.say(handed, COMPLETED)
    assert [event.number for event in await late.to_the_end()] == [2, 3]
    assert late.seen[-1].state is TaskState.COMPLETED


async def test_who_subscribes_after_the_last_event_is_told_that_nothing_follows(rig):
    task_id = await rig.submit()
    await rig.say(await rig.take_one(), COMPLETED)
    with pytest.raises(OperationUnsupported, match="nothing follows"):
        await rig.subscribe(task_id)


@pytest.mark.parametrize(("last_event_id", "numbers"), [("0", [1, 2, 3]), ("2", [3]), ("3", [])])
async def test_who_comes_back_after_the_last_event_gets_what_is_missing(rig, last_event_id, numbers):
    task_id = await rig.submit()
    await rig.say(await rig.take_one(), COMPLETED)
    back = await rig.subscribe(task_id, last_event_id=last_event_id)
    assert [event.number for event in await back.to_the_end()] == numbers


@pytest.mark.parametrize("last_event_id", [None, "1", "2"])
async def test_who_subscribes_while_the_last_event_is_written_but_not_shown_misses_nothing(rig, last_event_id):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.line.after_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(rig.say(handed, COMPLETED))
        await rig.line.after_write.reached()
        assert (await rig.states_of(task_id))[-1] == "COMPLETED"
        reader = await rig.subscribe(task_id, last_event_id=last_event_id)
        await asyncio.sleep(0.01)
        assert TaskState.COMPLETED not in {event.state for event in reader.seen}
        rig.line.after_write.open()
    assert [event.number for event in await reader.to_the_end()] == ([2, 3] if last_event_id in (None, "1") else [3])


async def test_who_subscribed_but_reads_only_after_the_end_gets_the_end(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.line.before_read.close()
    reader = await rig.subscribe(task_id)
    await rig.say(handed, COMPLETED)
    rig.line.before_read.open()
    events = await reader.to_the_end()
    assert events[-1].state is TaskState.COMPLETED
    assert events[-1].number == 3


async def test_who_names_a_number_that_the_task_has_not_reached_is_let_go_at_its_end(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    reader = await rig.follow(task_id, after=100)
    await asyncio.sleep(0)
    await rig.say(handed, COMPLETED)
    assert await reader.to_the_end() == []


async def test_a_follower_that_is_slower_than_its_buffer_reads_the_rest_from_the_log(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    reader = await rig.follow(task_id)
    await reader.until(2)
    stream = await rig.following.execute(ANN, handed.item.task_id, after=0)
    first = await anext(stream.events)
    for start in range(0, 900, 300):
        chunks = [artifact(f"{n} ", append=n > 0) for n in range(start, start + 300)]
        assert (await rig.say(handed, *chunks, source=start + 1)).outcome == "done"
    await rig.say(handed, COMPLETED, source=901)
    rest = [event async for events in stream.events for event in events]
    assert [event.number for event in (*first, *rest)] == list(range(1, 904))
    assert (*first, *rest) == tuple(await reader.to_the_end())


async def test_a_stream_of_a_message_ends_with_its_turn_and_the_next_has_its_own_events_only(rig):
    first = await rig.send_stream("begin")
    await rig.say(await rig.take_one(), QUESTION)
    task_id = (await first.to_the_end())[0].body
    assert first.numbers == [1, 2, 3]
    handed = rig.claims
    assert len(handed) == 0
    (owner,) = (await rig.list_tasks()).tasks
    assert owner.task_id.encode() in task_id
    second = await rig.send_stream("seven", task_id=owner.task_id)
    await rig.say(await rig.take_one(), COMPLETED)
    assert [event.number for event in await second.to_the_end()] == [4, 5, 6]


# ListTasks


async def test_tasks_that_begin_between_two_pages_repeat_none_and_hide_none(rig, clock):
    first = []
    for _ in range(7):
        first.append(await rig.submit())
        clock.advance(10)
    page = await rig.list_tasks(page_size=3)
    assert ([task.task_id for task in page.tasks], page.total_size) == (first[:3:-1], 7)
    await rig.submit("late")
    seen = [task.task_id for task in page.tasks]
    while page.next_page_token:
        page = await rig.list_tasks(page_size=3, page_token=page.next_page_token)
        seen += [task.task_id for task in page.tasks]
        assert page.total_size == 8
    assert seen == first[::-1]


async def test_tasks_of_one_time_are_listed_once_each(rig):
    tasks = {await rig.submit() for _ in range(7)}
    seen, token = [], None
    while token != "":
        page = await rig.list_tasks(page_size=2, page_token=token)
        seen += [task.task_id for task in page.tasks]
        token = page.next_page_token
    assert len(seen) == 7
    assert set(seen) == tasks


async def test_tasks_are_found_by_state_context_and_time_with_totals_of_the_filter(rig, clock):
    done = await rig.submit("a", context_id="x")
    await rig.say(await rig.take_one(), COMPLETED)
    await rig.settle_down()
    clock.advance(1_000)
    now_ms = clock.now_ms()
    waiting = await rig.submit("b", context_id="x")
    other = await rig.submit("c")

    async def found(**query):
        page = await rig.list_tasks(**query)
        assert page.total_size == len(page.tasks)
        return {task.task_id for task in page.tasks}

    assert await found() == {done, waiting, other}
    assert await found(state=TaskState.COMPLETED) == {done}
    assert await found(context_id=ContextId("x")) == {done, waiting}
    assert await found(context_id=ContextId("x"), state=TaskState.SUBMITTED) == {waiting}
    assert await found(status_after_ms=now_ms) == {waiting, other}
    assert await found(status_after_ms=now_ms + 1) == set()
    await rig.say(await rig.take_one(), COMPLETED)
    assert await found(state=TaskState.COMPLETED) == {done, waiting}


async def test_records_that_are_not_stored_yet_are_listed_as_they_are(rig):
    stored = await rig.submit("a")
    await rig.settle_down()
    await rig.take_one()
    fresh = await rig.submit("b")
    states = {task.task_id: task.state for task in (await rig.list_tasks()).tasks}
    assert states == {stored: TaskState.WORKING, fresh: TaskState.SUBMITTED}


@pytest.mark.parametrize("query", [{"page_size": 0}, {"page_size": 101}, {"page_token": "nonsense"}])
async def test_a_page_that_cannot_be_is_refused(rig, query):
    with pytest.raises(InvalidRequest):
        await rig.list_tasks(**query)


# Inbox


async def test_a_full_inbox_refuses_what_is_new_and_takes_it_once_there_is_room(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=TaskSettings(inbox_max=2)) as rig:
        for _ in range(2):
            await rig.submit()
        with pytest.raises(InboxFull) as caught:
            await rig.submit("one too many")
        assert caught.value.retry_after_ms
        assert (await rig.list_tasks()).total_size == 2
        await rig.say(await rig.take_one(), COMPLETED)
        await rig.settle_down()
        await rig.submit("now")


async def test_a_key_that_met_a_full_inbox_can_be_used_again(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=TaskSettings(inbox_max=1)) as rig:
        await rig.submit()
        with pytest.raises(InboxFull):
            await rig.submit("b", idempotency_key="k")
        await rig.say(await rig.take_one(), COMPLETED)
        await rig.settle_down()
        assert (await rig.submitted("b", idempotency_key="k")).is_new


async def test_what_waits_too_long_for_an_instance_fails_and_is_never_handed_out(rig):
    task_id = await rig.submit()
    await rig.pass_time(SETTINGS.inbox_ttl_ms - 1)
    assert await rig.states_of(task_id) == ["SUBMITTED"]
    await rig.pass_time(1)
    assert await rig.states_of(task_id) == ["SUBMITTED", "FAILED"]
    assert b"deadline_exceeded" in (await rig.log_of(task_id))[-1].body
    assert await rig.take() == []


async def test_what_waited_too_long_while_the_hub_was_away_fails_when_it_is_back(rig, clock):
    task_id = await rig.submit()
    clock.advance(SETTINGS.inbox_ttl_ms)
    await rig.restart()
    await rig.watch.look()
    assert await rig.states_of(task_id) == ["SUBMITTED", "FAILED"]


# Deadlines


async def test_the_deadline_of_a_submit_fails_what_waits(rig):
    task_id = await rig.submit(timeout_ms=5_000)
    await rig.pass_time(4_999)
    assert await rig.states_of(task_id) == ["SUBMITTED"]
    await rig.pass_time(1)
    assert await rig.states_of(task_id) == ["SUBMITTED", "FAILED"]


async def test_the_deadline_of_a_submit_ends_what_is_worked_on_and_the_instance_is_told(rig):
    task_id = await rig.submit(timeout_ms=5_000)
    handed = await rig.take_one()
    await rig.pass_time(5_000)
    assert rig.told == [(handed.claim.delivery_id, "its time is up")]
    assert (await rig.say(handed, COMPLETED)).outcome == "stale"
    await rig.settle_down()
    assert (await rig.states_of(task_id), await rig.waiting()) == (["SUBMITTED", "WORKING", "FAILED"], [])


async def test_the_agent_s_own_limit_counts_from_the_first_attempt_over_all_of_them(tmp_path, clock):
    agent = AgentSettings(task_timeout_ms=15_000)
    async with task_rig(tmp_path, clock, settings=SETTINGS, agent=agent) as rig:
        task_id = await rig.submit()
        await rig.pass_time(50_000)
        first = await rig.take_one()
        await rig.pass_time(LEASE_MS - 1)
        assert (await rig.say(first, COMPLETED)).outcome == "stale"
        second = await rig.take_one()
        assert second.claim.attempt == 2
        await rig.pass_time(5_000)
        assert (await rig.states_of(task_id))[-1] == "WORKING"
        await rig.pass_time(1)
        assert (await rig.states_of(task_id))[-1] == "FAILED"


async def test_the_time_is_up_between_two_attempts_while_no_instance_is_there(rig):
    task_id = await rig.submit(timeout_ms=30_000)
    assert await rig.settle(await rig.take_one(), "release") == "done"
    await rig.pass_time(30_000)
    assert (await rig.states_of(task_id))[-1] == "FAILED"
    assert await rig.take() == []


async def test_the_time_of_a_task_is_up_after_a_restart_whose_instance_never_came_back(rig):
    task_id = await rig.submit(timeout_ms=30_000)
    await rig.take_one()
    await rig.settle_down()
    await rig.restart(crash=True)
    await rig.pass_time(30_000)
    assert (await rig.states_of(task_id))[-1] == "FAILED"


async def test_waiting_for_the_client_is_no_work_and_has_no_deadline(rig):
    task_id = await asked(rig)
    await rig.pass_time(SETTINGS.task_timeout_ms + SETTINGS.inbox_ttl_ms)
    assert (await rig.states_of(task_id))[-1] == "INPUT_REQUIRED"
    await rig.send("seven", task_id=task_id)
    assert len(await rig.take()) == 1


# Idempotency


async def test_a_repeated_submit_is_the_same_task_and_another_content_a_conflict(rig):
    task_id = await rig.submit("a", idempotency_key="k")
    again = await rig.submitted("a", idempotency_key="k")
    assert (again.shown.owner.task_id, again.is_new) == (task_id, False)
    with pytest.raises(IdempotencyKeyReused):
        await rig.submit("b", idempotency_key="k")
    await rig.restart(crash=True)
    assert await rig.submit("a", idempotency_key="k") == task_id
    assert len(await rig.take()) == 1


@pytest.mark.parametrize("retries", [1, 5])
async def test_a_crash_between_key_and_task_is_made_good_by_the_retries_once(rig, retries):
    rig.inbox_line.before_put.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await rig.submit("a", idempotency_key="k")
    await rig.restart(crash=True)
    assert await rig.waiting() == []
    tasks = await both(*(rig.submit("a", idempotency_key="k") for _ in range(retries)))
    assert len(set(tasks)) == 1
    assert await rig.waiting() == [f"{tasks[0]}.1"]
    assert len(await rig.take()) == 1
    assert await rig.states_of(tasks[0]) == ["SUBMITTED", "WORKING"]


async def test_a_crash_between_inbox_and_log_is_made_good_by_the_restart(rig):
    rig.line.is_cut = True
    with pytest.raises(EngineUnavailable):
        await rig.submit("a", idempotency_key="k")
    await rig.restart(crash=True)
    (task_id,) = [task.task_id for task in (await rig.list_tasks()).tasks]
    assert await rig.states_of(task_id) == ["SUBMITTED"]
    assert await rig.submit("a", idempotency_key="k") == task_id
    assert await rig.waiting() == [f"{task_id}.1"]


async def test_a_retry_before_the_restart_has_looked_at_the_inbox_makes_no_second_turn(rig):
    rig.line.is_cut = True
    with pytest.raises(EngineUnavailable):
        await rig.submit("a", idempotency_key="k")
    await rig.stop(flush=False)
    again = TaskRig(rig.engine, rig.clock, settings=SETTINGS)
    await again.start(recover=False)
    task_id = await again.submit("a", idempotency_key="k")
    assert await again.waiting() == [f"{task_id}.1"]
    assert await again.states_of(task_id) == ["SUBMITTED"]
    await again.stop()


async def test_an_uncertain_submit_that_is_repeated_at_the_same_hub_makes_no_second_turn(rig):
    rig.line.is_cut = True
    with pytest.raises(EngineUnavailable):
        await rig.submit("a", idempotency_key="k")
    rig.line.is_cut = False
    task_id = await rig.submit("a", idempotency_key="k")
    assert await rig.waiting() == [f"{task_id}.1"]
    assert await rig.states_of(task_id) == ["SUBMITTED"]
    await rig.say(await rig.take_one(), COMPLETED)
    assert await rig.take() == []


async def test_a_failed_task_that_is_redriven_twice_at_once_becomes_one_new_task(rig):
    task_id = await rig.submit()
    await rig.settle(await rig.take_one(), "fail", reason="boom")
    redrive = (rig.inspect.redrive(ADMIN, COUNTER, [f"{task_id}.1"]) for _ in range(2))
    new = {tasks[0] for tasks in await both(*redrive) if isinstance(tasks, list)}
    assert len(new) == 1
    handed = await rig.take()
    assert [each.item.task_id for each in handed] == list(new)
    assert (await rig.get(new.pop()))["metadata"]["redriveOf"] == task_id


# Attempts, fences and stops


async def test_a_task_whose_instances_die_goes_to_the_dead_letters_after_its_attempts(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=SETTINGS, agent=AgentSettings(attempts_max=2)) as rig:
        task_id = await rig.submit()
        for attempt in (1, 2):
            assert (await rig.take_one()).claim.attempt == attempt
            await rig.pass_time(LEASE_MS)
        assert await rig.take() == []
        assert (await rig.states_of(task_id))[-1] == "FAILED"
        assert b"attempts_used_up" in (await rig.log_of(task_id))[-1].body
        assert await rig.dead() == [f"{task_id}.1"]


async def test_what_is_given_back_does_not_count_and_is_not_lost(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=SETTINGS, agent=AgentSettings(attempts_max=2)) as rig:
        await rig.submit()
        for _ in range(4):
            assert await rig.settle(await rig.take_one(), "release") == "done"
        for _ in range(2):
            assert await rig.settle(await rig.take_one(), "retry", delay_ms=0) == "done"
        assert await rig.take() == []


async def test_a_late_report_changes_nothing_once_another_instance_has_the_task(rig):
    task_id = await rig.submit()
    late = await rig.take_one(instance="one")
    await rig.pass_time(LEASE_MS)
    second = await rig.take_one(instance="two")
    assert (await rig.say(late, artifact("old", append=False), COMPLETED)).outcome == "stale"
    assert await rig.settle(late, "extend") == "stale"
    assert not (await rig.show_hold(late.claim.delivery_id)).is_held
    assert (await rig.say(second, COMPLETED)).outcome == "done"
    assert [event.attempt for event in await rig.log_of(task_id)] == [0, 1, 2, 2]


async def test_an_instance_that_is_back_after_a_crash_of_the_hub_goes_on_where_it_was(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    await rig.say(handed, artifact("1 ", append=False))
    await rig.restart(crash=True)
    shown = await rig.show_hold(handed.claim.delivery_id)
    assert (shown.is_held, shown.source) == (True, 1)
    assert (await rig.say(handed, artifact("1 ", append=False), COMPLETED)).source == 2
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "WORKING", "COMPLETED"]


async def test_a_hub_that_was_overtaken_by_another_adds_nothing_to_the_task(rig, clock):
    task_id = await rig.submit()
    handed = await rig.take_one()
    other = TaskRig(rig.engine, clock, settings=SETTINGS)
    await other.start()
    await other.cancel(task_id)
    with pytest.raises(EngineUnavailable):
        await rig.say(handed, COMPLETED)
    assert (await rig.say(handed, COMPLETED)).outcome == "stale"
    await rig.pass_time(LEASE_MS)
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "CANCELED"]
    await other.stop()


async def test_a_stopped_agent_refuses_what_is_new_holds_what_waits_and_cancels_what_runs(rig):
    running = await rig.submit("runs")
    handed = await rig.take_one()
    waiting = await rig.submit("waits")
    stopped = await rig.stopping.stop(ADMIN, COUNTER, reason="enough")
    assert stopped.cancelled == 1
    with pytest.raises(AgentStopped):
        await rig.submit("new")
    assert await rig.take() == []
    assert (await rig.say(handed, COMPLETED)).outcome == "stale"

    await rig.restart(crash=True)
    assert await rig.take() == []
    await rig.stopping.resume(ADMIN, COUNTER)
    (again,) = await rig.take()
    assert (again.item.task_id, again.claim.attempt) == (waiting, 1)
    assert (await rig.states_of(running))[-1] == "CANCELED"


async def test_an_instance_that_waits_for_work_of_a_stopped_agent_gets_it_when_it_goes_on(rig):
    await rig.stopping.stop(ADMIN, COUNTER)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        taking = group.create_task(rig.take(wait_ms=4_000))
        await asyncio.sleep(0.01)
        assert not taking.done()
        await rig.stopping.resume(ADMIN, COUNTER)
        task_id = await rig.submit()
    assert [handed.item.task_id for handed in taking.result()] == [task_id]


async def test_a_stop_while_an_instance_waits_for_work_costs_the_task_no_attempt(tmp_path, clock):
    async with task_rig(tmp_path, clock, settings=SETTINGS, agent=AgentSettings(attempts_max=1)) as rig:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            taking = group.create_task(rig.take(wait_ms=100))
            await asyncio.sleep(0.01)
            rig.line.before_write.close()
            submitting = group.create_task(rig.submit())
            await rig.line.before_write.reached()
            await rig.stopping.stop(ADMIN, COUNTER)
            rig.line.before_write.open()
            await submitting
        assert taking.result() == []
        await rig.stopping.resume(ADMIN, COUNTER)
        assert len(await rig.take()) == 1


async def test_the_data_of_a_hub_that_was_closed_opens_at_the_next(tmp_path, clock):
    engine = await open_engine(tmp_path, clock)
    rig = TaskRig(engine, clock, settings=SETTINGS)
    await rig.start()
    task_id = await rig.submit()
    handed = await rig.take_one()
    await rig.stop()
    await engine.close()
    engine = await open_engine(tmp_path, clock)
    await rig.restart(engine=engine)
    # A starting hub gives each lease it finds one full lease time.
    clock.advance(LEASE_MS - 1)
    assert (await rig.show_hold(handed.claim.delivery_id)).is_held
    assert (await rig.say(handed, COMPLETED)).outcome == "done"
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]
    await rig.stop()
    await engine.close()
