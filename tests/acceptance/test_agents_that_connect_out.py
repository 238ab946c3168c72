"""Stock A2A clients of every dialect and agents of the SDK that connect out: to clients they are agents like others."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from a2a.client import Client
from a2a.helpers.proto_helpers import new_text_message
from a2a.types import (
    Artifact,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import TaskNotCancelableError, UnsupportedOperationError

from meshway.client import Agent, MeshwayClient, TaskContext
from support.hub_process import HubProcess, running_hub
from support.sdk_agent import DIALECTS
from support.sdk_client import ask, stock_client
from support.task_clients import until

COMPLETED, CANCELED = TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_CANCELED
NOBODY_WAITS = {"return_immediately": True}
# Only 1.0 can ask for them.
DIALECTS_THAT_LIST = [dialect for dialect in DIALECTS if DIALECTS[dialect][1] == "1.0"]

every_dialect = pytest.mark.parametrize("dialect", list(DIALECTS))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub() as hub:
        yield hub


class Site:
    """A hub and one agent that connects out; the agent can leave and come back."""

    def __init__(self, hub: HubProcess, agent_id: str) -> None:
        self.hub = hub
        self.agent_id = agent_id
        self.executions: list[str] = []
        self.cancelled: list[str] = []

    def agent(self) -> Agent:
        """`count N` says numbers, `sleep N` takes time, `colour` asks, `via AGENT TEXT` passes on what another says."""
        agent = Agent(self.agent_id, description="Does what the first word says.")

        @agent.handler
        async def work(task: TaskContext) -> AsyncIterator[str]:
            verb, _, rest = task.text.partition(" ")
            self.executions.append(task.text)
            if verb == "colour":
                yield f"painted {(await task.ask('which colour?')).text}"
            elif verb == "via":
                other, _, text = rest.partition(" ")
                async with MeshwayClient(self.hub.url) as client:
                    yield (await client.ask(other, text)).text
            elif verb == "sleep":
                try:
                    await asyncio.sleep(float(rest))
                except asyncio.CancelledError:
                    self.cancelled.append(task.text)
                    raise
                yield "rested"
            else:
                for number in range(int(rest)):
                    yield f"{number} "

        return agent

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """While the block runs, the agent is connected."""
        agent = self.agent()
        serving = asyncio.create_task(agent.serve(self.hub.url))
        try:
            await until(self._has_instance)
            yield
        finally:
            agent.stop()
            await serving

    def _has_instance(self) -> bool:
        status, _, agent = self.hub.request("GET", f"/v1/agents/{self.agent_id}")
        return status == 200 and bool(agent["instances"])

    @asynccontextmanager
    async def client(self, dialect: str, *, streaming: bool = False) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(timeout=20) as http, asyncio.timeout(25):
            yield await stock_client(http, f"{self.hub.url}/a2a/{self.agent_id}", dialect, streaming=streaming)

    async def rest(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
        return await asyncio.to_thread(self.hub.request, method, path, body, headers=headers)


@pytest.fixture
async def site(hub: HubProcess, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Its agent is of this test alone, and connected."""
    site = Site(hub, f"out-{abs(hash(request.node.name))}")
    async with site.working():
        yield site


async def sent(client: Client, text: str, **configuration: object) -> Task:
    """The task that a client without streaming is answered with."""
    message = new_text_message(text, role=Role.ROLE_USER)
    request = SendMessageRequest(message=message, configuration=SendMessageConfiguration(**configuration))
    (answer,) = [each async for each in client.send_message(request)]
    return answer.task


def said(artifact: Artifact) -> str:
    """Chunks are parts of one artifact."""
    return "".join(part.text for part in artifact.parts)


def texts(events: Sequence[StreamResponse]) -> str:
    return "".join(said(e.artifact_update.artifact) for e in events if e.HasField("artifact_update"))


def last_state(events: Sequence[StreamResponse]) -> int:
    return [e.status_update.status.state for e in events if e.HasField("status_update")][-1]


async def until_state(client: Client, task_id: str, state: int) -> Task:
    for _ in range(300):
        task = await client.get_task(GetTaskRequest(id=task_id))
        if task.status.state == state:
            return task
        await asyncio.sleep(0.05)
    raise AssertionError(task)


# --- the operations -------------------------------------------------------------------------------------------------


@every_dialect
async def test_a_blocking_call_is_answered_with_the_finished_task(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "count 3")
        assert task.status.state == COMPLETED
        assert "".join(said(each) for each in task.artifacts) == "0 1 2 "
        assert (await client.get_task(GetTaskRequest(id=task.id))).artifacts == task.artifacts


@every_dialect
async def test_who_does_not_wait_is_answered_at_once_and_fetches_the_result(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 0.3", **NOBODY_WAITS)
        assert task.status.state in (TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING)
        assert said((await until_state(client, task.id, COMPLETED)).artifacts[0]) == "rested"


@every_dialect
async def test_a_stream_says_it_chunk_by_chunk_and_ends_once(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        events = [event async for event in ask(client, "count 5")]
    assert texts(events) == "0 1 2 3 4 "
    ends = [e for e in events if e.HasField("status_update") and e.status_update.status.state == COMPLETED]
    assert len(ends) == 1
    assert events[-1] == ends[0]


@every_dialect
async def test_a_cancelled_task_stops_its_handler_and_cannot_be_cancelled_again(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        await until_state(client, task.id, TaskState.TASK_STATE_WORKING)
        assert (await client.cancel_task(CancelTaskRequest(id=task.id))).status.state == CANCELED
        await until(lambda: bool(site.cancelled))
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=task.id))


@every_dialect
async def test_a_client_that_lost_its_stream_joins_again_and_sees_the_end(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        events = ask(client, "sleep 1")
        first = await anext(events)
        await events.aclose()
        again = [event async for event in client.subscribe(SubscribeToTaskRequest(id=first.task.id))]
        assert again[0].task.id == first.task.id
        assert (texts(again), last_state(again)) == ("rested", COMPLETED)
        with pytest.raises(UnsupportedOperationError):
            _ = [event async for event in client.subscribe(SubscribeToTaskRequest(id=first.task.id))]


@every_dialect
async def test_a_question_is_answered_in_the_next_turn_of_the_same_task(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        asked = [event async for event in ask(client, "colour")]
        task = asked[0].task
        assert last_state(asked) == TaskState.TASK_STATE_INPUT_REQUIRED
        answered = [event async for event in ask(client, "blue", task_id=task.id, context_id=task.context_id)]
    assert (texts(answered), last_state(answered)) == ("painted blue", COMPLETED)
    assert site.executions == ["colour"]


@pytest.mark.parametrize("dialect", DIALECTS_THAT_LIST)
async def test_tasks_are_listed_in_pages_with_totals_and_by_state(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        done = {(await sent(client, "count 1")).id for _ in range(5)}
        running = await sent(client, "sleep 20", **NOBODY_WAITS)
        await until_state(client, running.id, TaskState.TASK_STATE_WORKING)
        seen, token, sizes = [], "", []
        while True:
            page = await client.list_tasks(ListTasksRequest(status=COMPLETED, page_size=2, page_token=token))
            assert (page.total_size, page.page_size) == (5, 2)
            seen += [task.id for task in page.tasks]
            sizes.append(len(page.tasks))
            if not (token := page.next_page_token):
                break
        assert (sorted(seen), sizes) == (sorted(done), [2, 2, 1])
        alive = await client.list_tasks(ListTasksRequest(status=TaskState.TASK_STATE_WORKING))
        assert [task.id for task in alive.tasks] == [running.id]
        of_one = await client.list_tasks(ListTasksRequest(context_id=running.context_id))
        assert [task.id for task in of_one.tasks] == [running.id]
        await client.cancel_task(CancelTaskRequest(id=running.id))


@every_dialect
async def test_push_configs_are_kept_at_the_hub(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        wanted = TaskPushNotificationConfig(task_id=task.id, id="mine", url="http://127.0.0.1:9/hook", token="t")
        made = await client.create_task_push_notification_config(wanted)
        assert (made.task_id, made.id, made.url) == (task.id, "mine", wanted.url)
        got = GetTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        assert (await client.get_task_push_notification_config(got)).url == wanted.url
        if DIALECTS[dialect] != ("HTTP+JSON", "0.3"):
            # The client itself has no list in 0.3 over HTTP+JSON.
            every = ListTaskPushNotificationConfigsRequest(task_id=task.id)
            assert [c.id for c in (await client.list_task_push_notification_configs(every)).configs] == ["mine"]
        gone = DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        with contextlib.suppress(NotImplementedError):
            await client.delete_task_push_notification_config(gone)
        await client.cancel_task(CancelTaskRequest(id=task.id))


@every_dialect
async def test_the_extended_card_is_the_agents_with_the_hubs_address(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert card.description == "Does what the first word says."
    assert all(each.url.startswith(f"{site.hub.url}/a2a/{site.agent_id}") for each in card.supported_interfaces)


# --- offline, retried, in a chain, stopped --------------------------------------------------------------------------


@every_dialect
async def test_work_for_an_agent_that_is_away_waits_over_a_kill_of_the_hub(hub: HubProcess, dialect: str) -> None:
    site = Site(hub, f"away-{dialect}")
    async with site.working():
        pass
    async with site.client(dialect) as client:
        task = await sent(client, "count 2", **NOBODY_WAITS)
        assert task.status.state == TaskState.TASK_STATE_SUBMITTED
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        async with site.working():
            done = await until_state(client, task.id, COMPLETED)
    assert said(done.artifacts[0]) == "0 1 "
    _, _, receipts = await site.rest("GET", f"/v1/tasks/{task.id}/receipts")
    states = [each["state"] for each in receipts["items"]]
    assert states[0] == "queued"
    assert states[-1] == "replied"


async def test_a_caller_that_waits_for_an_absent_agent_gets_the_task_as_it_is_in_time(hub: HubProcess) -> None:
    site = Site(hub, "absent")
    async with site.working():
        pass
    body = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "count 1"}]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": body}}
    path = f"/a2a/{site.agent_id}"
    status, _, answer = await site.rest("POST", path, call, **{"a2a-version": "1.0", "meshway-timeout-ms": "300"})
    assert status == 200
    assert answer["result"]["task"]["status"]["state"] == "TASK_STATE_SUBMITTED"


async def test_ten_thousand_retries_of_one_key_are_one_execution(site: Site) -> None:
    message = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "count 2"}]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    headers = {"a2a-version": "1.0", "idempotency-key": "invoice-77"}
    path = f"/a2a/{site.agent_id}"
    body = json.dumps(call).encode()
    head = "".join(
        f"{name}: {value}\r\n"
        for name, value in {**headers, "host": f"127.0.0.1:{site.hub.port}", "content-type": "application/json"}.items()
    )
    request = f"POST {path} HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body
    answers: Counter[str] = Counter()

    async def retry(times: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.hub.port)
        for _ in range(times):
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
            result = json.loads(await reader.readexactly(size))
            assert "result" in result, result
            answers[result["result"]["task"]["id"]] += 1
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(500):
            group.create_task(retry(20))
    assert list(answers.values()) == [10_000]
    assert site.executions == ["count 2"]
    other = {**call, "params": {"message": {**message, "parts": [{"text": "count 3"}]}}}
    _, _, refused = await site.rest("POST", path, other, **headers)
    assert "IDEMPOTENCY_KEY_REUSED" in json.dumps(refused)


async def test_agents_that_call_each_other_in_a_circle_are_refused_with_the_chain(site: Site) -> None:
    other = Site(site.hub, f"{site.agent_id}-b")
    async with other.working(), site.client("j10") as client:
        task = await sent(client, f"via {other.agent_id} via {site.agent_id} count 1")
    # The innermost call was refused, which failed the agent that made it; the one before tells what it was answered.
    assert other.executions == [f"via {site.agent_id} count 1"]
    assert site.executions == [f"via {other.agent_id} {other.executions[0]}"]
    _, _, listed = await site.rest("GET", f"/v1/tasks?agent={other.agent_id}")
    (summary,) = listed["items"]
    _, _, inner = await site.rest("GET", f"/v1/tasks/{summary['id']}")
    assert inner["status"]["state"] == "TASK_STATE_FAILED"
    why = json.dumps(inner["status"]["message"])
    assert site.agent_id in why
    assert other.agent_id in why
    assert "delegation_refused" in said(task.artifacts[0])


async def test_cancelling_a_task_cancels_what_it_caused(site: Site) -> None:
    other = Site(site.hub, f"{site.agent_id}-b")
    async with other.working(), site.client("j10") as client:
        task = await sent(client, f"via {other.agent_id} sleep 20", **NOBODY_WAITS)
        await until(lambda: bool(other.executions))
        _, _, tree = await site.rest("GET", f"/v1/tasks/{task.id}/tree")
        assert other.agent_id in json.dumps(tree)
        await client.cancel_task(CancelTaskRequest(id=task.id))
        await until(lambda: bool(other.cancelled))
    assert other.cancelled == ["sleep 20"]


async def test_a_stopped_agent_refuses_cancels_and_goes_on_when_it_is_resumed(site: Site) -> None:
    async with site.client("j10") as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        await until_state(client, task.id, TaskState.TASK_STATE_WORKING)
        status, _, _ = await site.rest("POST", f"/v1/agents/{site.agent_id}/stop", {"reason": "nonsense"})
        assert status == 200
        await until_state(client, task.id, CANCELED)
        with pytest.raises(Exception, match="nonsense"):
            await sent(client, "count 1")
        status, _, _ = await site.rest("POST", f"/v1/agents/{site.agent_id}/resume")
        assert status == 200
        assert (await sent(client, "count 1")).status.state == COMPLETED
    _, _, audit = await site.rest("GET", "/v1/audit?order=newest&limit=2")
    assert [each["action"] for each in audit["items"]] == ["agent_resumed", "agent_stopped"]
