"""The SDK and the `meshway` command against a real hub and stock agents."""

import asyncio
import json
from contextlib import aclosing

import pytest

from meshway.client import BlockingClient, CallError, EventKind, HubError, HubUnreachable, MeshwayClient
from support.command import meshway_async
from support.hub_process import HubProcess
from support.ports import free_port
from support.raw_agent import RawRequest, Wire, raw_agent, registered_agent, running_agent
from support.sdk_agent import DIALECTS

every_dialect = pytest.mark.parametrize("agent", DIALECTS)


@every_dialect
async def test_ask_gives_the_text_of_a_message(hub: HubProcess, agent: str) -> None:
    async with MeshwayClient(hub.url) as client:
        answer = await client.ask(agent, "hello there")
    assert answer.text == "echo: hello there"


@every_dialect
async def test_stream_gives_each_event_and_the_task_can_be_fetched(hub: HubProcess, agent: str) -> None:
    async with MeshwayClient(hub.url) as client:
        events = [event async for event in client.stream(agent, "count 5")]
        task_id = next(event.task_id for event in events if event.task_id)
        assert "".join(event.text for event in events if event.kind is EventKind.ARTIFACT) == "0 1 2 3 4 "
        assert events[-1].state == "TASK_STATE_COMPLETED"
        answer = await client.get_task(agent, task_id)
    assert answer.task_id == task_id
    assert answer.state == "TASK_STATE_COMPLETED"


async def test_conversation_goes_on_with_the_task_id(hub: HubProcess) -> None:
    async with MeshwayClient(hub.url) as client:
        first = await client.ask("j10", "ask me")
        assert first.state == "TASK_STATE_INPUT_REQUIRED"
        second = await client.ask("j10", "blue", task_id=first.task_id)
    assert second.task_id == first.task_id
    assert second.state == "TASK_STATE_COMPLETED"


async def test_running_task_is_cancelled(hub: HubProcess) -> None:
    async with MeshwayClient(hub.url) as client, aclosing(client.stream("j10", "sleep 20")) as events:
        first = await anext(events)
        assert first.task_id is not None
        answer = await client.cancel_task("j10", first.task_id)
    assert answer.state == "TASK_STATE_CANCELED"


async def test_timeout_ms_bounds_the_wait(hub: HubProcess) -> None:
    async with MeshwayClient(hub.url) as client:
        with pytest.raises(CallError) as refused:
            await client.ask("j10", "sleep 20", timeout_ms=300)
    assert refused.value.code == "deadline_exceeded"


async def test_errors_say_what_to_do(keyed, hub: HubProcess) -> None:
    async with MeshwayClient(hub.url) as client:
        with pytest.raises(HubError) as unknown:
            await client.ask("nobody-here", "hello")
        assert unknown.value.status == 404
        with pytest.raises(CallError) as missing:
            await client.get_task("j10", "never-was")
        assert missing.value.code == "task_not_found"
        with pytest.raises(HubError) as wrong:
            await client.agents.register("Wrong Id", url="http://127.0.0.1:1")
        assert [each.field for each in wrong.value.fields] == ["id"]
    async with MeshwayClient(keyed.hub.url) as client:
        with pytest.raises(HubError) as closed:
            await client.agents.list()
        assert closed.value.status == 401
    async with MeshwayClient(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(HubUnreachable):
            await client.ask("j10", "hello")


async def test_agents_are_registered_watched_and_removed(hub: HubProcess) -> None:
    async with (
        MeshwayClient(hub.url) as client,
        running_agent(raw_agent()) as agent,
        asyncio.timeout(10),
        aclosing(client.agents.watch()) as changes,
    ):
        # The present ones come first: from then on the watch is live.
        await anext(changes)
        await client.agents.register(agent.id, url=agent.url, labels={"zone": "eu"}, capacity=4)
        while (change := await anext(changes)).agent_id != agent.id:
            pass
        assert change.agent is not None
        assert change.agent.instances[0].capacity == 4
        found = await client.agents.get(agent.id)
        assert found.state == "online"
        await client.agents.remove(agent.id)
        while (change := await anext(changes)).kind != "removed":
            pass
        assert change.agent_id == agent.id


async def test_key_of_the_client_opens_the_hub(keyed) -> None:
    key = keyed.admin["authorization"].removeprefix("Bearer ")
    async with MeshwayClient(keyed.hub.url, api_key=key) as client:
        made = await client.keys.create("from-sdk", ["call"])
        async with registered_agent(keyed.hub, raw_agent()) as agent, MeshwayClient(keyed.hub.url, made.key) as caller:
            assert (await caller.ask(agent.id, "hello")).text == "hi"
            await client.keys.revoke(made.id)
            with pytest.raises(HubError) as refused:
                await caller.ask(agent.id, "hello")
    assert refused.value.status == 401


def test_blocking_client_does_the_same_without_an_event_loop(hub: HubProcess) -> None:
    with BlockingClient(hub.url) as client:
        assert client.ask("j10", "hello").text == "echo: hello"
        texts = [event.text for event in client.stream("j10", "count 3") if event.kind == "artifact"]
        assert "".join(texts) == "0 1 2 "
        assert {agent.id for agent in client.agents.list().items} >= set(DIALECTS)
        # Leaving a stream early lets go of it.
        for _ in client.stream("j10", "sleep 20"):
            break
        assert client.ask("j10", "again").text == "echo: again"


async def test_command_calls_an_agent_and_prints_its_answer(hub: HubProcess) -> None:
    env = {"MESHWAY_URL": hub.url}
    plain, as_json, stream, missing = await asyncio.gather(
        meshway_async("call", "j10", "hello", env=env),
        meshway_async("call", "j10", "work the field", "--json", env=env),
        meshway_async("call", "j10", "count 3", "--stream", "--json", env=env),
        meshway_async("call", "nobody-here", "hello", "--json", env=env),
    )
    assert (plain.status, plain.out.strip()) == (0, "echo: hello")
    assert as_json.json["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    events = [json.loads(line) for line in stream.out.splitlines()]
    assert [next(iter(event)) for event in events].count("artifactUpdate") == 3
    assert missing.status == 5
    assert "nobody-here" in missing.out + missing.err


async def test_command_without_a_hub_or_a_key_says_so_by_its_exit_code(keyed) -> None:
    nowhere, closed = await asyncio.gather(
        meshway_async("agents", "list", env={"MESHWAY_URL": f"http://127.0.0.1:{free_port()}"}),
        meshway_async("agents", "list", env={"MESHWAY_URL": keyed.hub.url}),
    )
    assert nowhere.status == 3
    assert "meshway up" in nowhere.err
    assert closed.status == 4
    assert "MESHWAY_API_KEY" in closed.err
    for ran in (nowhere, closed):
        assert "Traceback" not in ran.err


async def test_command_ends_in_failure_when_the_task_fails(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        message = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "no flour left"}]}
        status = {"state": "TASK_STATE_FAILED", "message": message}
        document = {"task": {"id": "t-failed", "contextId": "c", "status": status}}
        wire.answer({"jsonrpc": "2.0", "id": request.json["id"], "result": document})

    async with registered_agent(hub, raw_agent(script)) as agent:
        ran = await meshway_async("call", agent.id, "bake", env={"MESHWAY_URL": hub.url})
    assert ran.status == 1
    assert "no flour left" in ran.err
