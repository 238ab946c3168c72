"""What stock clients do after the first answer: join a running task again, and keep push-notification configs."""

import asyncio

import httpx
import pytest
from a2a.helpers.proto_helpers import get_artifact_text
from a2a.types import (
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    ListTaskPushNotificationConfigsRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)

from support.hub_process import HubProcess
from support.sdk_client import ask, stock_client

every_pair_of_versions = pytest.mark.parametrize(
    ("client_dialect", "agent_dialect"),
    [("j10", "j10"), ("r10", "j10"), ("j03", "j10"), ("j10", "j03"), ("j03", "j03"), ("j10", "r10"), ("r10", "r10")],
)


@every_pair_of_versions
async def test_client_that_lost_its_stream_joins_the_task_again_and_sees_its_end(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(15):
        client = await stock_client(http, f"{hub.url}/a2a/{agent_dialect}", client_dialect, streaming=True)
        events = ask(client, "sleep 1")
        first = await anext(events)
        await events.aclose()
        again = [event async for event in client.subscribe(SubscribeToTaskRequest(id=first.task.id))]
    assert again[0].task.id == first.task.id
    states = [event.status_update.status.state for event in again if event.HasField("status_update")]
    assert states[-1] == TaskState.TASK_STATE_COMPLETED
    texts = [get_artifact_text(e.artifact_update.artifact) for e in again if e.HasField("artifact_update")]
    assert texts == ["done: 1"]


@pytest.mark.parametrize("agent_dialect", ["j10", "r10", "j03"])
@pytest.mark.parametrize("client_dialect", ["j10", "r10", "j03"])
async def test_push_configs_are_kept_by_the_agent_that_owns_the_task(
    hub: HubProcess, client_dialect: str, agent_dialect: str
) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(15):
        client = await stock_client(http, f"{hub.url}/a2a/{agent_dialect}", client_dialect, streaming=True)
        events = ask(client, "sleep 20")
        task_id = (await anext(events)).task.id
        wanted = TaskPushNotificationConfig(task_id=task_id, id="mine", url="http://127.0.0.1:9/hook", token="t")
        made = await client.create_task_push_notification_config(wanted)
        assert (made.task_id, made.id, made.url) == (task_id, "mine", wanted.url)
        got = await client.get_task_push_notification_config(
            GetTaskPushNotificationConfigRequest(task_id=task_id, id="mine")
        )
        assert got.url == wanted.url
        listing = ListTaskPushNotificationConfigsRequest(task_id=task_id)
        listed = await client.list_task_push_notification_configs(listing)
        assert [config.id for config in listed.configs] == ["mine"]
        await client.delete_task_push_notification_config(
            DeleteTaskPushNotificationConfigRequest(task_id=task_id, id="mine")
        )
        assert not (await client.list_task_push_notification_configs(listing)).configs
        await client.cancel_task(CancelTaskRequest(id=task_id))
        await events.aclose()
