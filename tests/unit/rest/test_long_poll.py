"""Waiting for a client that may leave at a hub that may shut down; and what instances that poll must be told."""

import asyncio
from types import SimpleNamespace

import pytest

from meshway.edges.rest.long_poll import wait_for_client
from meshway.edges.rest.task_polls import TaskPolls
from meshway.kernel.errors import EngineUnavailable


class Client:
    """An ASGI client that stays until it is told to leave."""

    def __init__(self):
        self.leaves = asyncio.Event()

    async def receive(self):
        await self.leaves.wait()
        return {"type": "http.disconnect"}


class Work:
    """Gives `result` when it is told to."""

    def __init__(self, result="tasks"):
        self.result = result
        self.may_end = asyncio.Event()
        self.was_cancelled = False

    async def run(self):
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def shutdown():
    return asyncio.Event()


async def test_what_was_waited_for_is_given(client, shutdown):
    work = Work()
    work.may_end.set()
    waited = await wait_for_client(work.run(), receive=client.receive, shutdown=shutdown)
    assert (waited.result, waited.is_client_gone) == ("tasks", False)


async def test_a_client_that_leaves_ends_the_work(client, shutdown):
    work = Work()
    client.leaves.set()
    waited = await wait_for_client(work.run(), receive=client.receive, shutdown=shutdown)
    assert (waited.result, waited.is_client_gone, work.was_cancelled) == (None, True, True)


async def test_a_result_of_the_moment_in_which_the_client_left_is_still_told(client, shutdown):
    work = Work()
    client.leaves.set()
    work.may_end.set()
    waited = await wait_for_client(work.run(), receive=client.receive, shutdown=shutdown)
    assert (waited.result, waited.is_client_gone) == ("tasks", True)


async def test_a_hub_that_shuts_down_ends_the_work(client, shutdown):
    work = Work()
    shutdown.set()
    waited = await wait_for_client(work.run(), receive=client.receive, shutdown=shutdown)
    assert (waited.result, waited.is_client_gone, work.was_cancelled) == (None, False, True)


async def test_an_error_of_the_work_comes_as_itself(client, shutdown):
    work = Work(EngineUnavailable("The disk is gone."))
    work.may_end.set()
    with pytest.raises(EngineUnavailable, match="The disk is gone"):
        await wait_for_client(work.run(), receive=client.receive, shutdown=shutdown)


def claim(number, instance="one"):
    return SimpleNamespace(agent_id="worker", instance_id=instance, delivery_id=f"d{number}")


def test_an_instance_is_told_of_each_ended_task_once():
    polls = TaskPolls()
    polls.told(claim(1), "cancelled")
    polls.told(claim(2), "cancelled")
    polls.told(claim(3, "two"), "cancelled")
    assert polls.take("worker", "one") == ("d1", "d2")
    assert polls.take("worker", "one") == ()
    assert polls.take("worker", "two") == ("d3",)


def test_instances_that_never_ask_again_cost_bounded_memory():
    polls = TaskPolls()
    for number in range(1_500):
        polls.told(claim(number), "cancelled")
    for number in range(10_000):
        polls.told(claim(0, f"other-{number}"), "cancelled")
    assert polls.take("worker", "one") == ()
    assert polls.take("worker", "other-9999") == ("d0",)
