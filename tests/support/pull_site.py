"""A hub, an agent of the SDK that connects out to it, stock clients of all dialects; their answers, readable."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import httpx
from a2a.client import Client
from a2a.helpers.proto_helpers import new_text_message
from a2a.types import (
    Artifact,
    GetTaskRequest,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    Task,
)

from meshway.client import Agent, MeshwayClient, TaskContext
from support.hub_process import HubProcess
from support.sdk_client import stock_client
from support.task_clients import until
from support.wire_client import Reply, say

__all__ = ["NOBODY_WAITS", "Site", "last_state", "said", "sent", "serving", "text_of_task", "texts", "until_state"]

NOBODY_WAITS = {"return_immediately": True}

_numbers = itertools.count(1)


class Site:
    """The agent can leave and come back; what its handler did is written down."""

    def __init__(self, hub: HubProcess, agent_id: str | None = None, *, capacity: int = 10) -> None:
        self.hub = hub
        self.agent_id = agent_id or f"out-{next(_numbers)}"
        self.executions: list[str] = []
        self.deadlines: list[datetime | None] = []
        self.cancelled: list[str] = []
        self._capacity = capacity

    @property
    def path(self) -> str:
        return f"/a2a/{self.agent_id}"

    def agent(self) -> Agent:
        """`count N` says numbers, `sleep N` takes time, `colour` and `login` ask, `via AGENT TEXT` passes on."""
        agent = Agent(
            self.agent_id,
            description="Does what the first word says.",
            capacity=self._capacity,
            # A test that failed is not to wait for work that it left behind.
            drain_timeout_s=1.0,
        )

        @agent.handler
        async def work(task: TaskContext) -> AsyncIterator[str]:
            verb, _, rest = task.text.partition(" ")
            self.executions.append(task.text)
            self.deadlines.append(task.deadline)
            match verb:
                case "colour":
                    yield f"painted {(await task.ask('which colour?')).text}"
                case "login":
                    yield f"welcome, {(await task.ask('who are you?', auth=True)).text}"
                case "via":
                    other, _, text = rest.partition(" ")
                    async with MeshwayClient(self.hub.url) as client:
                        yield (await client.ask(other, text)).text
                case "sleep":
                    await self._rest(task, float(rest))
                    yield "rested"
                case _:
                    for number in range(int(rest)):
                        yield f"{number} "

        return agent

    async def _rest(self, task: TaskContext, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(task.text)
            raise

    @asynccontextmanager
    async def working(self, *, api_key: str | None = None) -> AsyncIterator[None]:
        """While the block runs, the agent is connected."""
        async with serving(self.hub, self.agent(), api_key=api_key):
            yield

    @asynccontextmanager
    async def client(self, dialect: str, *, streaming: bool = False) -> AsyncIterator[Client]:
        """A stock client."""
        async with httpx.AsyncClient(timeout=20) as http, asyncio.timeout(25):
            yield await stock_client(http, f"{self.hub.url}{self.path}", dialect, streaming=streaming)

    async def rest(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """A call of the hub's own API."""
        return await say(self.hub, method, path, body, headers={"content-type": "application/json", **headers})


@asynccontextmanager
async def serving(hub: HubProcess, *agents: Agent, api_key: str | None = None) -> AsyncIterator[None]:
    """While the block runs, the agents are connected."""
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.serve(hub.url, api_key))
        try:
            for agent_id in {agent.id for agent in agents}:
                wanted = sum(agent.id == agent_id for agent in agents)
                await until(lambda agent_id=agent_id, wanted=wanted: _instances(hub, agent_id) >= wanted)
            yield
        finally:
            for agent in agents:
                agent.stop()


def _instances(hub: HubProcess, agent_id: str) -> int:
    status, _, agent = hub.request("GET", f"/v1/agents/{agent_id}")
    if status != 200:
        return 0
    assert isinstance(agent, dict)
    return sum(each["state"] == "online" for each in agent["instances"])


async def sent(client: Client, text: str, **configuration: object) -> Task:
    """The task that a client without streaming is answered with."""
    message = new_text_message(text, role=Role.ROLE_USER)
    request = SendMessageRequest(message=message, configuration=SendMessageConfiguration(**configuration))
    (answer,) = [each async for each in client.send_message(request)]
    return answer.task


def said(artifact: Artifact) -> str:
    """Chunks are parts of one artifact."""
    return "".join(part.text for part in artifact.parts)


def text_of_task(task: Task) -> str:
    return "".join(said(each) for each in task.artifacts)


def texts(events: Sequence[StreamResponse]) -> str:
    return "".join(said(e.artifact_update.artifact) for e in events if e.HasField("artifact_update"))


def last_state(events: Sequence[StreamResponse]) -> int:
    return [e.status_update.status.state for e in events if e.HasField("status_update")][-1]


async def until_state(client: Client, task_id: str, state: int) -> Task:
    """The task, as soon as it is in that state."""
    for _ in range(500):
        task = await client.get_task(GetTaskRequest(id=task_id))
        if task.status.state == state:
            return task
        await asyncio.sleep(0.02)
    raise AssertionError(task)
