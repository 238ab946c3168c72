"""Questions of an agent to its client: the same handler goes on where it still waits, a new one where it does not."""

import asyncio

import pytest

from meshway.client import Agent
from meshway.protocols.link import frames
from support.agent_at_work import agent_at_work, task_delivery


def asking(capacity=10, **options):
    agent, begun = Agent("asking", capacity=capacity), []

    @agent.handler
    async def ask(task):
        begun.append(task.text)
        yield f"{task.text}: "
        name = await task.ask("Your name?", **options)
        yield f"Hello {name}, {name.message.message_id}"

    return agent, begun


async def test_the_waiting_handler_goes_on_with_the_answer():
    agent, begun = asking(capacity=1)
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, "greet"))
        await work.until_state("INPUT_REQUIRED")
        # Who waits takes no capacity.
        await work.hub.until(lambda: sum(frame.messages for frame in work.hub.of(frames.Credit)) == 1)
        await work.hand(task_delivery(2, "Ada", turn=2))
        await work.until_state("COMPLETED", "d-2")
    assert begun == ["greet"]
    assert work.status_text("d-1") == "Your name?"
    assert work.chunks("d-1") == [("greet: ", False, True)]
    assert work.chunks("d-2") == [("Hello Ada, m-2", False, True)]
    ids = [each["artifactUpdate"]["artifact"]["artifactId"] for d in ("d-1", "d-2") for each in work.events(d)[:1]]
    assert ids == ["turn-1-1", "turn-2-1"]


async def test_a_question_for_authorization_says_so():
    agent, _ = asking(auth=True)
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("AUTH_REQUIRED")


async def test_an_answer_to_a_question_that_nobody_waits_with_begins_the_handler_anew():
    agent, begun = asking()
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, "greet"))
        await work.until_state("INPUT_REQUIRED")
        # Turn 2 was done elsewhere: whoever waits here waits for nothing.
        await work.hand(task_delivery(2, "again", turn=3))
        await work.until_state("INPUT_REQUIRED", "d-2")
    assert begun == ["greet", "again"]


async def test_another_attempt_at_the_answer_begins_the_handler_anew():
    agent, begun = Agent("failing", retry_on=(ConnectionError,)), []

    @agent.handler
    async def ask(task):
        begun.append((task.text, task.attempt))
        if task.turn == 1:
            await task.ask("more?")
            raise ConnectionError("gone")
        return "done"

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, "go"))
        await work.until_state("INPUT_REQUIRED")
        await work.hand(task_delivery(2, "yes", turn=2))
        retried = await work.until_settled("retry")
        await work.hand(task_delivery(3, "yes", turn=2, attempt=2))
        await work.until_state("COMPLETED", "d-3")
    assert retried.delivery_id == "d-2"
    assert begun == [("go", 1), ("yes", 2)]


async def test_handlers_that_wait_are_cancelled_at_the_end_and_nothing_is_said_of_them():
    agent, ends = Agent("waiting"), []

    @agent.handler
    async def wait(task):
        try:
            await task.ask("?")
        except asyncio.CancelledError:
            ends.append(task.id)
            raise

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("INPUT_REQUIRED")
    assert ends == ["t-1"]
    assert work.hub.task_settlements == []
    assert len(work.hub.of(frames.Bye)) == 1


async def test_a_blocking_handler_may_ask_too():
    agent = Agent("blocking")

    @agent.handler
    def ask(task):
        return task.wait_for(task.ask("how many?")) * 2

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("INPUT_REQUIRED")
        await work.hand(task_delivery(2, "ab", turn=2))
        await work.until_state("COMPLETED", "d-2")
    assert work.chunks("d-2") == [("abab", False, True)]


async def test_one_question_at_a_time():
    agent, errors = Agent("eager"), []

    @agent.handler
    async def ask_twice(task):
        async with asyncio.TaskGroup() as group:
            group.create_task(task.ask("a?"))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="asked already") as caught:
                await task.ask("b?")
            errors.append(caught.value)

    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.until_state("INPUT_REQUIRED")
        await work.hand(task_delivery(2, turn=2))
        await work.until_state("COMPLETED", "d-2")
    assert len(errors) == 1


async def test_so_many_handlers_wait_at_most_and_the_oldest_is_forgotten():
    agent, ends = Agent("crowded", capacity=10), []

    @agent.handler
    async def wait(task):
        try:
            await task.ask("?")
        except asyncio.CancelledError:
            ends.append(task.id)
            raise

    async with agent_at_work(agent) as work:
        await work.hand(*(task_delivery(n, task=f"t-{n}") for n in range(1_001)))
        await work.hub.until(lambda: len(work.hub.reports) == 1_001)
        await work.hub.until(lambda: ends)
        assert ends == ["t-0"]
