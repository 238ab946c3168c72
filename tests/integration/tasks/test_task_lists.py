"""ListTasks: pages, totals and filters, on virtual time."""

import pytest

from meshway.kernel.errors import (
    InvalidRequest,
)
from meshway.kernel.ids import ContextId
from meshway.tasks.values import TaskState
from support.task_rig import COMPLETED


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
