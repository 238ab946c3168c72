"""The demo agents, driven by the stock a2a-sdk client and by hand."""

import asyncio
import subprocess
import sys

import httpx
import msgspec
import pytest
from a2a.client import create_client
from a2a.helpers import get_message_text, new_text_message
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    TaskState,
)

from meshway.testing.agents import DEMO_AGENT_IDS, demo_agents


@pytest.fixture
async def urls():
    async with demo_agents(tick_s=0.01) as served:
        yield served


async def say(url: str, text: str, *, task_id: str | None = None) -> list[StreamResponse]:
    async with await create_client(url) as client:
        message = new_text_message(text, role=Role.ROLE_USER, task_id=task_id)
        return [event async for event in client.send_message(SendMessageRequest(message=message))]


async def test_all_demo_agents_are_served_under_their_ids(urls):
    assert tuple(sorted(urls)) == DEMO_AGENT_IDS


async def test_echo_answers_a_stock_client_with_its_words(urls):
    events = await say(urls["echo"], "good morning")
    assert [get_message_text(event.message) for event in events] == ["good morning"]


async def test_shout_speaks_only_the_old_protocol_and_a_stock_client_copes(urls):
    events = await say(urls["shout"], "good morning")
    assert [get_message_text(event.message) for event in events] == ["GOOD MORNING"]
    async with httpx.AsyncClient() as http:
        answer = (await http.post(urls["shout"], json={"jsonrpc": "2.0", "id": 1, "method": "SendMessage"})).json()
    assert answer["error"]["code"] == -32601


async def test_countdown_streams_its_task_progress_and_one_artifact_in_chunks(urls):
    events = await say(urls["countdown"], "count from 3 please")
    assert events[0].HasField("task")
    chunks = [event.artifact_update for event in events if event.HasField("artifact_update")]
    assert "".join(chunk.artifact.parts[0].text for chunk in chunks) == "3 2 1 lift-off"
    assert [chunk.append for chunk in chunks] == [False, True, True, True]
    assert [chunk.last_chunk for chunk in chunks] == [False, False, False, True]
    assert len({chunk.artifact.artifact_id for chunk in chunks}) == 1
    assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED


async def test_countdown_asks_for_a_number_and_goes_on_with_the_same_task(urls):
    asked = await say(urls["countdown"], "count down")
    assert asked[-1].status_update.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
    task_id = asked[0].task.id
    rest = await say(urls["countdown"], "2", task_id=task_id)
    assert rest[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
    assert {event.status_update.task_id for event in rest if event.HasField("status_update")} == {task_id}


async def test_a_unary_call_of_countdown_waits_for_the_whole_task(urls):
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "2"}]}
    call = {"jsonrpc": "2.0", "id": "x", "method": "SendMessage", "params": {"message": message}}
    async with httpx.AsyncClient() as http:
        answer = (await http.post(urls["countdown"], json=call)).json()
    assert answer["id"] == "x"
    assert answer["result"]["task"]["artifacts"][0]["parts"] == [{"text": "2 1 lift-off"}]
    assert answer["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_countdown_refuses_to_count_for_ever(urls):
    events = await say(urls["countdown"], "99999999999999999999")
    assert events[-1].status_update.status.state == TaskState.TASK_STATE_REJECTED


async def test_a_countdown_nobody_listens_to_can_be_found_subscribed_to_and_cancelled():
    async with demo_agents(tick_s=0.2) as urls, await create_client(urls["countdown"]) as client:
        request = SendMessageRequest(message=new_text_message("50", role=Role.ROLE_USER))
        stream = client.send_message(request)
        task_id = (await anext(stream)).task.id
        await stream.aclose()

        assert (await client.get_task(GetTaskRequest(id=task_id))).status.state == TaskState.TASK_STATE_WORKING
        subscription = client.subscribe(SubscribeToTaskRequest(id=task_id))
        assert (await anext(subscription)).task.id == task_id
        cancelled = await client.cancel_task(CancelTaskRequest(id=task_id))
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        async with asyncio.timeout(5):
            rest = [event async for event in subscription]
        assert rest[-1].status_update.status.state == TaskState.TASK_STATE_CANCELED


async def test_leaving_the_block_ends_running_countdowns_and_frees_the_port():
    async with asyncio.timeout(5):
        async with demo_agents(tick_s=60) as urls, httpx.AsyncClient() as http:
            message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "2"}]}
            call = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": {"message": message}}
            async with http.stream("POST", urls["countdown"], json=call) as response:
                assert response.status_code == 200
            url = urls["countdown"]
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(url)


def test_the_child_process_says_where_it_serves_and_leaves_with_its_parent():
    command = [sys.executable, "-m", "meshway.testing.agents"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        urls = msgspec.json.decode(child.stdout.readline())
        card = httpx.get(urls["echo"] + "/.well-known/agent-card.json").json()
        assert card["supportedInterfaces"][0]["url"] == urls["echo"] + "/"
        child.stdin.close()
        assert child.wait(timeout=5) == 0
