"""Further turns, cancelling against completing, and subscribing at the last event: case by case, on virtual time."""

import asyncio

import pytest

from meshway.kernel.errors import (
    InvalidRequest,
    OperationUnsupported,
    TaskNotCancelable,
)
from meshway.registry.values import AgentSettings
from meshway.tasks.values import TaskState
from support.task_rig import (
    ANN,
    COMPLETED,
    LEASE_MS,
    PATIENCE_S,
    QUESTION,
    SETTINGS,
    artifact,
    asked,
    both,
    outcome_of,
    status,
    task_rig,
)

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


async def test_a_task_cancelled_while_it_is_announced_is_taken_from_its_instance(rig):
    task_id = await rig.submit()
    rig.line.before_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        taking = group.create_task(rig.take())
        await rig.line.before_write.reached()
        cancelling = group.create_task(rig.cancel(task_id))
        await asyncio.sleep(0)
        rig.line.before_write.open()
        await cancelling
    for handed in taking.result():
        assert handed.claim.delivery_id in {delivery_id for delivery_id, _ in rig.told}
        assert (await rig.say(handed, COMPLETED)).outcome == "stale"
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
