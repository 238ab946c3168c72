"""The matrix: {1.0, 0.3} x {JSON-RPC, HTTP+JSON} in, the same out, with stock clients and agents."""

import httpx
import pytest
from a2a.helpers.proto_helpers import get_artifact_text, get_message_text
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    StreamResponse,
    TaskState,
)

from support.hub_process import HubProcess
from support.sdk_agent import DIALECTS
from support.sdk_client import ask, stock_client

matrix = pytest.mark.parametrize(
    ("client_dialect", "agent_dialect"), [(c, a) for c in DIALECTS for a in DIALECTS], ids=lambda name: name
)


def agent_url(hub: HubProcess, agent: str) -> str:
    return f"{hub.url}/a2a/{agent}"


@matrix
async def test_unary_message_comes_back(hub: HubProcess, client_dialect: str, agent_dialect: str) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, agent_url(hub, agent_dialect), client_dialect, streaming=False)
        answers = [answer async for answer in ask(client, "hello there")]
    assert [get_message_text(answer.message) for answer in answers] == ["echo: hello there"]


@matrix
async def test_unary_task_completes_and_can_be_fetched(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, agent_url(hub, agent_dialect), client_dialect, streaming=False)
        answers = [answer async for answer in ask(client, "work the field")]
        assert len(answers) == 1
        task = answers[0].task
        assert task.status.state == TaskState.TASK_STATE_COMPLETED
        assert [get_artifact_text(artifact) for artifact in task.artifacts] == ["done: the field"]
        fetched = await client.get_task(GetTaskRequest(id=task.id))
    assert fetched.id == task.id
    assert fetched.status.state == TaskState.TASK_STATE_COMPLETED
    assert [get_artifact_text(artifact) for artifact in fetched.artifacts] == ["done: the field"]


@matrix
async def test_stream_brings_every_event_in_order(hub: HubProcess, client_dialect: str, agent_dialect: str) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, agent_url(hub, agent_dialect), client_dialect, streaming=True)
        events: list[StreamResponse] = [event async for event in ask(client, "count 10")]
    kinds = [event.WhichOneof("payload") for event in events]
    assert kinds[0] == "task"
    chunks = [get_artifact_text(e.artifact_update.artifact) for e in events if e.HasField("artifact_update")]
    assert "".join(chunks) == "0 1 2 3 4 5 6 7 8 9 "
    assert [e.artifact_update.append for e in events if e.HasField("artifact_update")] == [False] + [True] * 9
    states = [e.status_update.status.state for e in events if e.HasField("status_update")]
    assert states[-1] == TaskState.TASK_STATE_COMPLETED


@matrix
async def test_second_turn_of_a_conversation_reaches_the_same_task(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, agent_url(hub, agent_dialect), client_dialect, streaming=False)
        [answer] = [answer async for answer in ask(client, "ask me")]
        first = answer.task
        assert first.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert get_message_text(first.status.message) == "which colour?"
        # Only the task id: the hub fills in the context, which the agent would otherwise invent anew.
        [answer] = [answer async for answer in ask(client, "blue", task_id=first.id)]
        second = answer.task
    assert second.id == first.id
    assert second.context_id == first.context_id
    assert second.status.state == TaskState.TASK_STATE_COMPLETED


@matrix
async def test_running_task_can_be_cancelled(hub: HubProcess, client_dialect: str, agent_dialect: str) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, agent_url(hub, agent_dialect), client_dialect, streaming=True)
        events = ask(client, "sleep 20")
        first = await anext(events)
        cancelled = await client.cancel_task(CancelTaskRequest(id=first.task.id))
        assert cancelled.id == first.task.id
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        await events.aclose()
