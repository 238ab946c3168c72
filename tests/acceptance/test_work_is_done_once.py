"""The same request twice, by stock clients of every dialect: one task under one key, two without one.

Thousands at once, and retries over a crash in the middle: test_retries_act_once.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from a2a.client import Client
from a2a.helpers.proto_helpers import new_text_message
from a2a.types import GetTaskRequest, Role, SendMessageConfiguration, SendMessageRequest, StreamResponse, TaskState

from support.hub_process import HubProcess, running_hub
from support.keeping_agent import KeepingAgent
from support.pull_site import Site, text_of_task, texts
from support.raw_agent import RawAgent, RawRequest, Wire, message_answer, raw_agent, registered_agent, task_answer
from support.sdk_agent import DIALECTS
from support.sdk_client import stock_client
from support.wire_client import V10, Reply, rpc, say, send_params

every_dialect = pytest.mark.parametrize("dialect", list(DIALECTS))
every_kind = pytest.mark.parametrize("kind", ["pull", "push"])


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub() as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


# --- agents of both kinds that count ---------------------------------------------------------------------------------


class Counting:
    """An agent that takes a moment, and knows how often it has worked. Its words are `0 1 2 `."""

    def __init__(self, agent_id: str) -> None:
        self.id = agent_id

    @property
    def worked(self) -> int:
        raise NotImplementedError


class CountingPull(Counting):
    def __init__(self, site: Site) -> None:
        super().__init__(site.agent_id)
        self._site = site

    @property
    def worked(self) -> int:
        return len(self._site.executions)


class CountingPush(Counting):
    """Unary calls are answered when all is said, streams as KeepingAgent does it."""

    def __init__(self) -> None:
        self._keeping = KeepingAgent(chunks=3, pause_s=0.1)
        self._unary: list[dict] = []
        self.agent: RawAgent = raw_agent(self._script)
        super().__init__(self.agent.id)

    @property
    def worked(self) -> int:
        return len(self._unary) + len(self._keeping.tasks)

    async def _script(self, request: RawRequest, wire: Wire) -> None:
        call = request.json
        if call["method"] == "SendMessage":
            artifact = {"artifactId": "a", "parts": [{"text": "0 1 2 "}]}
            document = task_answer(request, task=f"{self.id}-{len(self._unary) + 1}")["result"]["task"]
            self._unary.append(document | {"artifacts": [artifact]})
            await asyncio.sleep(0.3)
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": {"task": self._unary[-1]}})
            return
        found = [each for each in self._unary if each["id"] == call["params"].get("id")]
        if found:
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": found[0]})
        else:
            await self._keeping.script(request, wire)


@asynccontextmanager
async def counting(hub: HubProcess, kind: str, **settings: object) -> AsyncIterator[Counting]:
    if kind == "push":
        push = CountingPush()
        async with registered_agent(hub, push.agent, settings=settings):
            yield push
        return
    site = Site(hub)
    async with site.working():
        if settings:
            changed = await site.rest("PATCH", f"/v1/agents/{site.agent_id}", {"settings": settings})
            assert changed.status == 200
        yield CountingPull(site)


# --- clients that repeat themselves ----------------------------------------------------------------------------------


def request_of(text: str = "count 3") -> SendMessageRequest:
    message = new_text_message(text, role=Role.ROLE_USER)
    return SendMessageRequest(message=message, configuration=SendMessageConfiguration())


@asynccontextmanager
async def client_of(
    hub: HubProcess, agent: Counting, dialect: str, *, key: str | None = None, streaming: bool = False
) -> AsyncIterator[Client]:
    """A stock client that sends this key with all it sends."""
    headers = {} if key is None else {"idempotency-key": key}
    async with httpx.AsyncClient(timeout=20, headers=headers) as http, asyncio.timeout(20):
        yield await stock_client(http, f"{hub.url}/a2a/{agent.id}", dialect, streaming=streaming)


async def answers(client: Client, request: SendMessageRequest) -> list[StreamResponse]:
    return [each async for each in client.send_message(request)]


async def raw_send(hub: HubProcess, agent: Counting, text: str, **headers: str) -> Reply:
    """The same message, messageId and all, each time the text is the same."""
    return await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params(text)), headers=V10 | headers)


def task_of(reply: Reply) -> str:
    return reply.json["result"]["task"]["id"]


# --- under a key -----------------------------------------------------------------------------------------------------


@every_kind
@every_dialect
async def test_a_stock_client_that_asks_again_joins_the_running_task_and_later_gets_its_result(
    hub: HubProcess, kind: str, dialect: str
) -> None:
    request = request_of()
    async with counting(hub, kind) as agent, client_of(hub, agent, dialect, key=f"{kind}-{dialect}") as client:
        first, second = await asyncio.gather(answers(client, request), answers(client, request))
        third = await answers(client, request)
        (task,) = {answer.task.id for answer in (*first, *second, *third)}
        assert {text_of_task(answer.task) for answer in (*first, *second, *third)} == {"0 1 2 "}
        assert (await client.get_task(GetTaskRequest(id=task))).status.state == TaskState.TASK_STATE_COMPLETED
        assert agent.worked == 1


@every_kind
@every_dialect
async def test_a_stream_under_a_used_key_shows_the_same_task_from_its_beginning(
    hub: HubProcess, kind: str, dialect: str
) -> None:
    request = request_of()
    async with counting(hub, kind) as agent:
        async with client_of(hub, agent, dialect, key=f"stream-{kind}-{dialect}", streaming=True) as client:
            first, second = await asyncio.gather(answers(client, request), answers(client, request))
            third = await answers(client, request)
        assert agent.worked == 1
    assert first == second == third
    assert texts(first) == "0 1 2 "


@every_kind
async def test_another_message_under_the_key_is_a_conflict_at_every_door(hub: HubProcess, kind: str) -> None:
    async with counting(hub, kind) as agent:
        path, key = f"/a2a/{agent.id}", {"idempotency-key": f"taken-{kind}"}
        await raw_send(hub, agent, "count 3", **key)
        by_rpc = await raw_send(hub, agent, "count 4", **key)
        by_rest = await say(hub, "POST", f"{path}/message:send", send_params("count 4"), headers=V10 | key)
        stream = rpc("SendStreamingMessage", send_params("count 4"))
        streamed = await say(hub, "POST", path, stream, headers=V10 | key)
        assert agent.worked == 1
    for reply in (by_rpc, streamed):
        error = reply.json["error"]
        assert (reply.status, error["code"]) == (200, -32602)
        assert error["data"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert by_rest.status == 409
    assert by_rest.json["error"]["details"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"


@every_kind
async def test_the_result_is_given_again_by_a_hub_that_was_killed_since(hub: HubProcess, kind: str) -> None:
    async with counting(hub, kind) as agent:
        key = {"idempotency-key": f"kept-{kind}"}
        first = await raw_send(hub, agent, "count 3", **key)
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        again = await raw_send(hub, agent, "count 3", **key)
        other = await raw_send(hub, agent, "count 4", **key)
        assert agent.worked == 1
    assert again.json["result"] == first.json["result"]
    assert other.json["error"]["code"] == -32602


async def test_an_answer_that_is_a_message_is_given_again_too(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(message_answer(request, text=f"answer {len(agent.seen)}"))

    agent = raw_agent(script)
    async with registered_agent(hub, agent):
        call, headers = rpc("SendMessage", send_params()), V10 | {"idempotency-key": "said"}
        replies = [await say(hub, "POST", f"/a2a/{agent.id}", call, headers=headers) for _ in range(2)]
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        replies.append(await say(hub, "POST", f"/a2a/{agent.id}", call, headers=headers))
        assert len(agent.seen) == 1
    assert [reply.json["result"]["message"]["parts"][0]["text"] for reply in replies] == ["answer 1"] * 3


async def test_a_call_that_never_reached_the_agent_leaves_its_key_free(hub: HubProcess) -> None:
    push = CountingPush()
    async with registered_agent(hub, push.agent):
        pass
    card = {"id": push.id, "card": push.agent.card}
    assert (await say(hub, "POST", "/v1/agents", card, headers=V10)).status == 201
    headers = {"idempotency-key": "early"}
    assert "error" in (await raw_send(hub, push, "count 3", **headers)).json
    async with registered_agent(hub, push.agent):
        reply = await raw_send(hub, push, "count 3", **headers)
        assert push.worked == 1
    assert task_of(reply) == f"{push.id}-1"


async def test_each_caller_has_keys_of_its_own_and_uses_one_for_one_agent(keyed) -> None:
    key = {"idempotency-key": "shared"}
    async with counting(keyed.hub, "push") as one, counting(keyed.hub, "push") as other:
        tasks = [task_of(await raw_send(keyed.hub, one, "count 3", **key, **who)) for who in (keyed.ann, keyed.bob)]
        assert (one.worked, len(set(tasks))) == (2, 2)
        elsewhere = await raw_send(keyed.hub, other, "count 3", **key, **keyed.ann)
        assert elsewhere.json["error"]["data"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
        assert other.worked == 0


# --- without one -----------------------------------------------------------------------------------------------------


@every_kind
@every_dialect
async def test_the_same_message_twice_without_a_key_is_two_tasks(hub: HubProcess, kind: str, dialect: str) -> None:
    request = request_of()
    async with counting(hub, kind) as agent, client_of(hub, agent, dialect) as client:
        tasks = [answer.task.id for _ in range(2) for answer in await answers(client, request)]
        assert agent.worked == 2
    assert len(set(tasks)) == 2


@every_kind
async def test_an_agent_that_is_set_to_takes_the_same_message_for_a_repetition(hub: HubProcess, kind: str) -> None:
    async with counting(hub, kind, dedupe_messages=True) as agent:
        tasks = [task_of(await raw_send(hub, agent, "count 3")) for _ in range(2)]
        assert agent.worked == 1
        # What says something else is another message, whatever it calls itself.
        other = task_of(await raw_send(hub, agent, "count 4"))
        assert agent.worked == 2
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        tasks.append(task_of(await raw_send(hub, agent, "count 3")))
        assert agent.worked == 2
    assert len(set(tasks)) == 1
    assert other not in tasks
