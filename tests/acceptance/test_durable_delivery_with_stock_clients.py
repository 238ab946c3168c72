"""Stock clients and stock agents with a URL; the hub between them keeps the work, on demand or by a setting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from a2a.client import Client
from a2a.helpers.proto_helpers import get_message_text
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)

from support.hub_process import HubProcess
from support.ports import free_port
from support.pull_site import NOBODY_WAITS, last_state, sent, text_of_task, texts, until_state
from support.raw_agent import answering, raw_agent, running_agent
from support.sdk_agent import DIALECTS, SdkAgents
from support.sdk_client import ask, stock_client
from support.task_children import child_agent, text_of
from support.task_clients import until
from support.wire_client import JSON, V10, rpc, say, send_params

DURABLE = {"meshway-delivery": "durable"}
COMPLETED = TaskState.TASK_STATE_COMPLETED

# Each dialect once on either side, and no one translated into itself.
PAIRS = list(zip(DIALECTS, reversed(DIALECTS), strict=True))
every_pair = pytest.mark.parametrize(("client_dialect", "agent_dialect"), PAIRS)


@asynccontextmanager
async def client_of(
    hub: HubProcess, agent: str, dialect: str, *, streaming: bool = False, durable: bool = True
) -> AsyncIterator[Client]:
    headers = DURABLE if durable else {}
    async with httpx.AsyncClient(timeout=20, headers=headers) as http, asyncio.timeout(40):
        yield await stock_client(http, f"{hub.url}/a2a/{agent}", dialect, streaming=streaming)


# --- an agent that is down ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["header", "setting"])
async def test_what_stock_clients_ask_of_an_agent_that_is_down_is_done_when_it_is_up(hub: HubProcess, by: str) -> None:
    agent, port = f"down-by-{by}", free_port()
    register_down(hub, agent, port, delivery="durable" if by == "setting" else "direct")
    tasks = {}
    for dialect in DIALECTS:
        async with client_of(hub, agent, dialect, durable=by == "header") as client:
            task = await sent(client, "3 0.01", **NOBODY_WAITS)
            assert task.status.state in (TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING)
            tasks[dialect] = task.id
    with child_agent("push", str(port), environ={}):
        for dialect, task_id in tasks.items():
            async with client_of(hub, agent, dialect) as client:
                done = await until_state(client, task_id, COMPLETED)
            assert text_of_task(done) == text_of(3)
    hub.request("DELETE", f"/v1/agents/{agent}")


async def test_without_it_an_agent_that_is_down_is_an_error(hub: HubProcess) -> None:
    register_down(hub, "just-down", free_port())
    reply = await say(hub, "POST", "/a2a/just-down", rpc("SendMessage", send_params()), headers=V10)
    assert (reply.status, reply.json["error"]["code"]) == (200, -32603)
    hub.request("DELETE", "/v1/agents/just-down")


def register_down(hub: HubProcess, agent: str, port: int, *, delivery: str = "direct") -> None:
    """By card: nobody asks whether it answers."""
    interface = {"url": f"http://127.0.0.1:{port}/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    card = raw_agent().card
    assert isinstance(card, dict)
    body = {"id": agent, "card": card | {"supportedInterfaces": [interface]}, "settings": {"delivery": delivery}}
    status, _, answer = hub.request("POST", "/v1/agents", body)
    assert status == 201, answer


# --- an agent that is up --------------------------------------------------------------------------------------------


@every_pair
async def test_a_durable_task_is_the_hubs_own_and_says_what_the_agent_says(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with client_of(hub, agent_dialect, client_dialect) as client:
        task = await sent(client, "count 3")
        assert (task.status.state, text_of_task(task)) == (COMPLETED, "0 1 2 ")
        kept = (await say(hub, "GET", f"/v1/tasks?agent={agent_dialect}&limit=1")).json["items"]
        assert [(each["id"], each["hub_owned"]) for each in kept] == [(task.id, True)]
        receipts = (await say(hub, "GET", f"/v1/tasks/{task.id}/receipts")).json["items"]
        assert [each["state"] for each in receipts] == ["queued", "claimed", "running", "replied"]
    async with client_of(hub, agent_dialect, client_dialect, streaming=True) as client:
        events = [event async for event in ask(client, "count 3")]
    assert (texts(events), last_state(events)) == ("0 1 2 ", COMPLETED)


@every_pair
async def test_an_agent_that_only_answers_with_a_message_has_completed_the_task(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with client_of(hub, agent_dialect, client_dialect) as client:
        task = await sent(client, "hello")
    assert task.status.state == COMPLETED
    assert get_message_text(task.status.message) == "echo: hello"


@every_pair
async def test_a_durable_conversation_goes_on_in_the_same_task(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with client_of(hub, agent_dialect, client_dialect, streaming=True) as client:
        asked = [event async for event in ask(client, "ask me")]
        task = asked[0].task
        assert last_state(asked) == TaskState.TASK_STATE_INPUT_REQUIRED
        answered = [event async for event in ask(client, "blue", task_id=task.id)]
        assert last_state(answered) == COMPLETED
        whole = await client.get_task(GetTaskRequest(id=task.id))
    assert [get_message_text(message) for message in whole.history] == ["ask me", "which colour?", "blue"]


@every_pair
async def test_cancelling_a_durable_task_cancels_the_agents(
    hub: HubProcess, sdk_agents: SdkAgents, client_dialect: str, agent_dialect: str
) -> None:
    async with client_of(hub, agent_dialect, client_dialect) as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        await until(lambda: is_running(hub, task.id))
        seen = len(sdk_agents.seen)
        assert (await client.cancel_task(CancelTaskRequest(id=task.id))).status.state == TaskState.TASK_STATE_CANCELED
        # Nothing else is asked of an agent at work.
        await until(lambda: any("well-known" not in each[":path"] for each in sdk_agents.seen[seen:]))
        assert (await client.get_task(GetTaskRequest(id=task.id))).status.state == TaskState.TASK_STATE_CANCELED


def is_running(hub: HubProcess, task_id: str) -> bool:
    """The agent has said something."""
    _, _, receipts = hub.request("GET", f"/v1/tasks/{task_id}/receipts")
    assert isinstance(receipts, dict)
    return any(each["state"] == "running" for each in receipts["items"])


async def test_a_durable_stream_that_its_client_left_is_joined_again(hub: HubProcess) -> None:
    async with client_of(hub, "j10", "j10", streaming=True) as client:
        events = ask(client, "sleep 0.7")
        task_id = (await anext(events)).task.id
        await events.aclose()
        again = [event async for event in client.subscribe(SubscribeToTaskRequest(id=task_id))]
        listed = (await client.list_tasks(ListTasksRequest(page_size=1))).tasks
    assert (texts(again), last_state(again)) == ("done: 0.7", COMPLETED)
    assert [task.id for task in listed] == [task_id]


# --- webhooks of agents with a URL ----------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True], ids=["relayed", "durable"])
@pytest.mark.parametrize("agent", list(DIALECTS))
async def test_a_webhook_is_told_every_event_of_an_agent_that_does_not_know_of_it(
    hub: HubProcess, sdk_agents: SdkAgents, agent: str, *, durable: bool
) -> None:
    async with running_agent(raw_agent(answering(lambda _: {}))) as hook:
        config = TaskPushNotificationConfig(url=f"{hook.url}/hook", token="t")
        params = send_params("count 3") | {"configuration": {"taskPushNotificationConfig": {"url": config.url}}}
        headers = V10 | (DURABLE if durable else {})
        reply = await say(hub, "POST", f"/a2a/{agent}", rpc("SendStreamingMessage", params), headers=headers)
        lines = reply.body.splitlines()
        numbers = [int(line[3:]) for line in lines if line.startswith(b"id:")]
        await hook.wait_seen(len(numbers))
    assert numbers == list(range(1, len(numbers) + 1))
    assert [int(each.headers["meshway-event-number"]) for each in hook.seen] == numbers
    shown = [next(iter(each.json)) for each in hook.seen]
    assert (shown[0], shown.count("artifactUpdate")) == ("task", 3)
    assert hook.seen[-1].json["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_webhook_where_the_hub_may_not_go_is_refused_before_the_agent_is_called(
    hub: HubProcess, sdk_agents: SdkAgents
) -> None:
    seen = len(sdk_agents.seen)
    config = {"taskPushNotificationConfig": {"url": "http://169.254.169.254/latest"}}
    params = send_params("count 3") | {"configuration": config}
    refused = await say(hub, "POST", "/a2a/j10", rpc("SendMessage", params), headers=V10)
    by_rest = await say(hub, "POST", "/a2a/j10/message:send", params, headers=V10 | JSON)
    assert refused.json["error"]["data"][0]["reason"] == "EGRESS_DENIED"
    assert by_rest.status == 403
    assert len(sdk_agents.seen) == seen
