"""Agents with a URL die, lose their streams and their memory: what the hub tells of their tasks is whole, and once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from meshway.client import MeshwayClient, StreamEvent
from support.hub_process import HubProcess
from support.keeping_agent import KeepingAgent
from support.ports import free_port
from support.raw_agent import raw_agent, registered_agent, running_agent
from support.task_children import child_agent, text_of
from support.task_clients import FollowedTask, followed, seen_of, until
from support.task_judge import faults_of

TEXT = text_of(8)


async def followed_to_the_end(stream: AsyncIterator[StreamEvent]) -> FollowedTask:
    async with followed(stream) as task:
        pass
    return task


@pytest.fixture
async def client(hub: HubProcess) -> AsyncIterator[MeshwayClient]:
    async with MeshwayClient(hub.url) as client:
        yield client


async def test_a_stream_that_breaks_is_taken_up_by_subscribing(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent(cuts_after=3)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go"))
        assert faults_of(task.events, expected_text=TEXT) == []
        assert len(keeping.requests("SubscribeToTask")) == 1
        assert len(keeping.requests("SendStreamingMessage")) == 1
        # And whoever asks later sees the same.
        again = await followed_to_the_end(client.tasks.events(task.task_id))
    assert again.events == task.events


async def test_what_was_missed_is_made_up_where_an_agent_only_answers(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent(cuts_after=3, can_subscribe=False)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go"))
    assert faults_of(task.events, expected_text=TEXT) == []
    assert keeping.requests("GetTask")
    assert len(keeping.requests("SendStreamingMessage")) == 1


async def test_a_task_that_ended_while_its_stream_was_broken_is_told_to_its_end(hub: HubProcess, client: MeshwayClient):
    # All is said and done before the hub can ask.
    keeping = KeepingAgent(cuts_after=1, pause_s=0)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go"))
    assert faults_of(task.events, expected_text=TEXT) == []


async def test_an_agent_that_comes_back_without_its_task_has_failed_it(hub: HubProcess, client: MeshwayClient):
    port = free_port()
    seen: list[StreamEvent] = []

    async def follow() -> None:
        async for event in client.stream("forgetful", "20 0.3"):
            seen.append(event)  # noqa: PERF401  looked at while it grows

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        with child_agent("push", str(port), environ={}):
            await until(lambda: hub.request("POST", "/v1/agents", forgetful(port))[0] in (200, 201))
            following = group.create_task(follow())
            await until(lambda: len(seen) >= 4)
        with child_agent("push", str(port), environ={}):
            await following
    await asyncio.to_thread(hub.request, "DELETE", "/v1/agents/forgetful")
    assert [seen_of(event).number for event in seen] == list(range(1, len(seen) + 1))
    states = [event.state for event in seen if event.state is not None]
    assert states.count("TASK_STATE_FAILED") == 1
    assert seen[-1].state == "TASK_STATE_FAILED"
    assert seen[-1].raw["statusUpdate"]["metadata"]["code"] == "task_lost"


def forgetful(port: int) -> dict[str, object]:
    return {"id": "forgetful", "url": f"http://127.0.0.1:{port}/"}


async def test_a_stream_whose_client_leaves_is_read_to_its_end(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent()
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        async with aclosing(client.stream(agent.id, "go")) as stream:
            first = await anext(stream)
        assert first.task_id is not None
        (kept,) = keeping.tasks.values()
        await until(lambda: kept.is_over)
        task = await followed_to_the_end(client.tasks.events(first.task_id))
        assert faults_of(task.events, expected_text=TEXT) == []
        assert not keeping.requests("SubscribeToTask")


async def test_a_durable_message_waits_for_an_agent_that_is_down(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent()
    agent = raw_agent(keeping.script)
    async with running_agent(agent):
        await asyncio.to_thread(hub.register, agent.id, agent.url)
    async with followed(client.stream(agent.id, "go", durable=True)) as task:
        # Accepted, and tried in vain.
        await until(lambda: bool(task.attempts))
        async with running_agent(agent):
            await until(lambda: task.events[-1].state == "TASK_STATE_COMPLETED")
    await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")
    assert faults_of(task.events, expected_text=TEXT) == []
    assert task.attempts[-1] > 1
    assert len(keeping.tasks) == 1


async def test_an_agent_that_is_away_uses_up_no_attempts(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent()
    agent = raw_agent(keeping.script)
    settings = {"delivery": "durable", "attempts_max": 1}
    async with running_agent(agent):
        await asyncio.to_thread(hub.register, agent.id, agent.url, settings=settings)
    # Durable by the agent's setting, whatever its clients ask for.
    async with followed(client.stream(agent.id, "go")) as task:
        # By the third one the pauses are longer than the hub waits at an idle inbox.
        await until(lambda: len(task.attempts) >= 3)
        async with running_agent(agent):
            await until(lambda: task.events[-1].state == "TASK_STATE_COMPLETED")
    await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")
    assert faults_of(task.events, expected_text=TEXT) == []
    assert len(keeping.requests("SendStreamingMessage")) == 1


async def test_what_waits_for_an_agent_that_was_removed_is_done_once_it_is_registered_again(
    hub: HubProcess, client: MeshwayClient
):
    keeping = KeepingAgent()
    agent = raw_agent(keeping.script)
    settings = {"delivery": "durable"}
    async with running_agent(agent):
        await asyncio.to_thread(hub.register, agent.id, agent.url, settings=settings)
    waiting = await client.tasks.submit("go", agent=agent.id)
    await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")
    # Longer than the hub waits at an idle inbox, and than any pause between two attempts of this one.
    await asyncio.sleep(4)
    complaints = [line for line in hub.log.read_text().splitlines() if f'"agent":"{agent.id}"' in line]
    assert not [line for line in complaints if "durable_tasks_not_taken" in line]
    async with registered_agent(hub, agent, settings=settings):
        task = await asyncio.wait_for(followed_to_the_end(client.tasks.events(waiting.id)), 10)
    assert faults_of(task.events, expected_text=TEXT) == []


async def test_a_message_that_an_agent_took_without_a_word_is_found_and_done_once(
    hub: HubProcess, client: MeshwayClient
):
    keeping = KeepingAgent(dies_before_answer=1)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go", durable=True))
    assert faults_of(task.events, expected_text=TEXT) == []
    assert len(keeping.requests("SendStreamingMessage")) == 1
    assert keeping.requests("ListTasks")
    assert len(keeping.tasks) == 1


async def test_every_attempt_carries_the_same_message_id_and_key(hub: HubProcess, client: MeshwayClient):
    keeping = KeepingAgent(dies_before_answer=2, forgets=True)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go", durable=True))
    assert faults_of(task.events, expected_text=TEXT) == []
    assert task.attempts == [1, 2, 3]
    sent = keeping.requests("SendStreamingMessage")
    assert len(sent) == 3
    assert len({request.json["params"]["message"]["messageId"] for request in sent}) == 1
    assert len({request.json["params"]["message"]["contextId"] for request in sent}) == 1
    assert len({request.headers["idempotency-key"] for request in sent}) == 1
    assert len(keeping.tasks) == 1


async def test_a_durable_stream_that_breaks_midway_is_taken_up_and_not_begun_again(
    hub: HubProcess, client: MeshwayClient
):
    keeping = KeepingAgent(cuts_after=3, chunks=30)
    async with registered_agent(hub, raw_agent(keeping.script)) as agent:
        task = await followed_to_the_end(client.stream(agent.id, "go", durable=True))
    assert faults_of(task.events, expected_text=text_of(30)) == []
    assert len(keeping.requests("SendStreamingMessage")) == 1
    assert keeping.requests("SubscribeToTask")
