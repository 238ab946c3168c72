"""What becomes of work when nobody takes it, its time is up, its key is repeated, or its instance or hub dies."""

import asyncio

import pytest

from meshway.kernel.errors import (
    AgentNotFound,
    AgentStopped,
    EngineUnavailable,
    IdempotencyKeyReused,
    InboxFull,
    NotFound,
)
from meshway.registry.values import AgentSettings
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskState
from support.task_rig import (
    ADMIN,
    COMPLETED,
    COUNTER,
    LEASE_MS,
    PATIENCE_S,
    SETTINGS,
    TaskRig,
    artifact,
    asked,
    both,
    open_engine,
    task_rig,
)

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
    clock.advance(SETTINGS.inbox_ttl_ms + 3 * 86_400_000)
    await rig.engine.sweep()
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


async def test_a_task_whose_first_event_could_not_be_written_keeps_its_order_of_events(rig):
    rig.line.is_cut = True
    with pytest.raises(EngineUnavailable):
        await rig.submit("a", timeout_ms=5_000)
    rig.line.is_cut = False
    (task,) = (await rig.list_tasks()).tasks
    with pytest.raises(EngineUnavailable):
        await rig.cancel(task.task_id)
    await rig.pass_time(5_000)
    assert await rig.states_of(task.task_id) == ["SUBMITTED", "FAILED"]


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
            # The hub looks before the engine's lease is over, too.
            await rig.pass_time(LEASE_MS * 97 // 100)
        # Nobody has to ask for work first.
        assert (await rig.states_of(task_id))[-1] == "FAILED"
        assert b"attempts_used_up" in (await rig.log_of(task_id))[-1].body
        assert await rig.take() == []
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
    clock.advance(LEASE_MS - 1)
    await rig.stop()
    await engine.close()
    engine = await open_engine(tmp_path, clock)
    await rig.restart(engine=engine)
    # A starting hub gives each lease it finds one full lease time.
    clock.advance(LEASE_MS - 1)
    assert await rig.take(instance="two") == []
    assert (await rig.show_hold(handed.claim.delivery_id)).is_held
    assert (await rig.say(handed, COMPLETED)).outcome == "done"
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]
    await rig.stop()
    await engine.close()


async def test_a_hub_that_is_late_by_one_event_does_not_take_the_other_s_for_its_own(rig, clock):
    task_id = await rig.submit(timeout_ms=5_000)
    await rig.settle_down()
    follower = await rig.follow(task_id)
    await follower.until(1)
    other = TaskRig(rig.engine, clock, settings=SETTINGS)
    await other.start(recover=False)
    await other.cancel(task_id)
    await other.stop()
    await rig.pass_time(5_000)
    assert await rig.states_of(task_id) == ["SUBMITTED", "CANCELED"]
    # What the other said is read as soon as this hub learns that it was overtaken.
    await follower.until(2)
    await rig.watch.look()
    assert (await rig.get(task_id))["status"]["state"] == "TASK_STATE_CANCELED"


async def test_a_repeated_report_is_confirmed_no_sooner_than_it_is_written(rig):
    await rig.submit()
    handed = await rig.take_one()
    rig.line.before_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = group.create_task(rig.say(handed, artifact("1 ")))
        await rig.line.before_write.reached()
        again = group.create_task(rig.say(handed, artifact("1 ")))
        await asyncio.wait([again], timeout=0.05)
        assert not again.done()
        rig.line.before_write.open()
    assert first.result() == again.result()
    assert len(await rig.log_of(handed.item.task_id)) == 3


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_end_whose_connection_broke_before_it_was_written_is_the_end_all_the_same(rig, comes_back):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.line.after_write.close()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        reporting = group.create_task(rig.say(handed, COMPLETED))
        await rig.line.after_write.reached()
        reporting.cancel()
        await asyncio.wait([reporting])
        rig.line.after_write.open()
    if comes_back:
        assert (await rig.say(handed, COMPLETED)).outcome == "done"
    await handed.claim.track.quiet()
    await rig.pass_time(1)
    await rig.settle_down()
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "COMPLETED"]
    assert (await rig.list_tasks()).tasks[0].state is TaskState.COMPLETED
    assert (len(rig.claims), await rig.waiting()) == (0, [])


async def test_a_dead_letter_is_found_by_its_id_behind_as_many_as_one_look_takes(rig, monkeypatch):
    monkeypatch.setattr("meshway.gateway.inspect_inbox._REDRIVE_MAX", 2)
    ids = []
    for _ in range(5):
        ids.append(f"{await rig.submit()}.1")
        await rig.settle(await rig.take_one(), "fail", reason="boom")
    with pytest.raises(NotFound, match="nowhere"):
        await rig.inspect.redrive(ADMIN, COUNTER, [ids[4], "nowhere"])
    assert len(await rig.inspect.redrive(ADMIN, COUNTER, [ids[4], ids[0]])) == 2
    left = await rig.inspect.dead_letters(ADMIN, COUNTER, cursor=None, limit=10)
    assert [each.id for each in left.items] == ids[1:4]
    # All there are, as many as one look takes.
    assert len(await rig.inspect.redrive(ADMIN, COUNTER, None)) == 2


async def test_a_task_that_is_announced_while_its_agent_is_removed_is_not_handed_out(rig):
    task_id = await rig.submit()
    await rig.settle_down()
    await rig.join("one")
    rig.line.before_write.close()
    taking = asyncio.create_task(rig.take())
    await rig.line.before_write.reached()
    await rig.agents.change(COUNTER, lambda _: None)
    rig.line.before_write.open()
    with pytest.raises(AgentNotFound):
        await taking
    await rig.settle_down()
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "CANCELED"]
