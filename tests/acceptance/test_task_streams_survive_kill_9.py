"""Kill -9 of the hub in the middle of 1,000 streams, of agents that connect out and of stock A2A servers.

Every client resumes; every sequence is complete, in order, without duplicate, with one terminal event.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence

import httpx
import pytest

from meshway.client import MeshwayClient
from support.hub_process import HubProcess, running_hub
from support.ports import free_port
from support.sdk_client import stock_client
from support.task_children import child_agent, text_of
from support.task_clients import FollowedTask, StockFollower, until
from support.task_judge import faults_of, snapshot_faults_of

AGENTS = ("pull", "push")
SDK_CLIENTS, STOCK_CLIENTS = 980, 20
CHUNKS, PAUSE_S = 10, 1.5
# Those of stock clients begin earlier, and are to be under way as long.
STOCK_CHUNKS = 14


@pytest.mark.timeout(240)
async def test_streams_go_on_when_the_hub_is_killed_twice():
    await survive(rounds=2)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_streams_go_on_when_the_hub_is_killed_fifty_times():
    await survive(rounds=50)


async def survive(*, rounds: int) -> None:
    with running_hub() as hub:
        port = free_port()
        url = {"MESHWAY_URL": hub.url}
        with child_agent("push", str(port), environ=url), child_agent("pull", "pull", environ=url):
            await until(lambda: hub.request("GET", "/v1/agents/pull")[0] == 200)
            await asyncio.to_thread(hub.register, "push", f"http://127.0.0.1:{port}/")
            for _ in range(rounds):
                await one_round(hub)


async def one_round(hub: HubProcess) -> None:
    seen = [FollowedTask() for _ in range(SDK_CLIENTS)]
    # Of one client a connection each: what a thousand programs would do.
    async with MeshwayClient(hub.url) as client, httpx.AsyncClient() as http:
        stock = await stock_followers(hub, http)
        async with asyncio.TaskGroup() as group:
            for follower in stock:
                group.create_task(follower.follow(f"{STOCK_CHUNKS} {PAUSE_S}"))
            # A stock client waits 5 s for its answer, and cannot ask again: it comes before the crowd.
            await until(lambda: all(follower.events for follower in stock))
            for number, task in enumerate(seen):
                group.create_task(task.read(client.stream(AGENTS[number % 2], f"{CHUNKS} {PAUSE_S}")))
            # In the middle: everybody has begun, and hardly anybody is done.
            await until(lambda: all(len(each.events) >= 3 for each in (*seen, *stock)), within_s=60)
            done = sum(each.events[-1].state == "TASK_STATE_COMPLETED" for each in (*seen, *stock))
            assert done < (SDK_CLIENTS + STOCK_CLIENTS) / 10
            await asyncio.to_thread(hub.kill)
            await asyncio.to_thread(hub.start)
    refuse_faults([faults_of(task.events, expected_text=text_of(CHUNKS)) for task in seen])
    refuse_faults([snapshot_faults_of(follower.events, expected_text=text_of(STOCK_CHUNKS)) for follower in stock])
    assert all(follower.subscriptions for follower in stock)
    # What stock clients cannot see, for their streams had no numbers to them.
    logs = [await asyncio.to_thread(numbers_of, hub, follower.task_id) for follower in stock]
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in logs), logs


async def stock_followers(hub: HubProcess, http: httpx.AsyncClient) -> list[StockFollower]:
    clients = [await stock_client(http, f"{hub.url}/a2a/{agent}", "j10", streaming=True) for agent in AGENTS]
    return [StockFollower(clients[number % 2]) for number in range(STOCK_CLIENTS)]


def numbers_of(hub: HubProcess, task_id: str) -> list[int]:
    """Of all its events as the hub keeps them."""
    _, _, content = hub.request("GET", f"/v1/tasks/{task_id}/events")
    assert isinstance(content, bytes)
    return [int(line[3:]) for line in content.splitlines() if line.startswith(b"id:")]


def refuse_faults(judged: Sequence[Sequence[str]]) -> None:
    faults: Mapping[int, Sequence[str]] = {number: found for number, found in enumerate(judged) if found}
    assert not faults, f"{len(faults)} of {len(judged)} streams, such as {json.dumps(list(faults.items())[:3])}"
