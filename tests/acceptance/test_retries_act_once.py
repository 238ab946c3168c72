"""Retries under one Idempotency-Key, thousands at once and over a crash of the hub: the agent acts once."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshway.client import Agent, MeshwayClient
from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawRequest, Wire, raw_agent, registered_agent, task_answer
from support.task_children import child_agent, text_of
from support.task_clients import followed, until
from support.task_judge import faults_of
from support.wire_client import JSON, V10, rpc, say, send_params

CONNECTIONS, RETRIES = 200, 10_000
# So long the agent takes: the first retry of each connection comes while it works, the others find it done.
WORK_S = 0.5


async def retry_on(port: int, agent: str, count: int) -> list[bytes]:
    """The bodies of `count` answers to the same request, one after the other on one connection."""
    body = json.dumps(rpc("SendMessage", send_params("once"))).encode()
    head = f"POST /a2a/{agent} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += f"A2A-Version: 1.0\r\nIdempotency-Key: key-of-{agent}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    try:
        for _ in range(count):
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            assert lines[0].startswith(b"http/1.1 200"), lines
            size = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            answers.append(await reader.readexactly(size))
    finally:
        writer.close()
    return answers


async def all_retries(hub: HubProcess, agent: str) -> list[dict]:
    """Results of all of them."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        each = RETRIES // CONNECTIONS
        retrying = [group.create_task(retry_on(hub.port, agent, each)) for _ in range(CONNECTIONS)]
    answers = [json.loads(answer) for retry in retrying for answer in retry.result()]
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert not refused, f"{len(refused)} were refused, such as {refused[0]}"
    return [answer["result"]["task"] for answer in answers]


@asynccontextmanager
async def serving(agent: Agent, hub: HubProcess) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.serve(hub.url))
        await until(lambda: hub.request("GET", f"/v1/agents/{agent.id}")[0] == 200)
        yield
        agent.stop()


async def test_ten_thousand_retries_of_one_key_are_one_task_of_an_agent_that_connects_out(hub: HubProcess):
    worked: Counter[str] = Counter()
    agent = Agent("once")

    @agent.handler
    async def work(task):
        worked[task.id] += 1
        await asyncio.sleep(WORK_S)
        return "done"

    async with serving(agent, hub):
        tasks = await all_retries(hub, agent.id)
    assert len(tasks) == RETRIES
    assert worked == {tasks[0]["id"]: 1}
    assert {task["id"] for task in tasks} == set(worked)
    assert {task["status"]["state"] for task in tasks} == {"TASK_STATE_COMPLETED"}


async def test_ten_thousand_retries_of_one_key_are_one_call_of_an_agent_with_a_url(hub: HubProcess):
    async def script(request: RawRequest, wire: Wire) -> None:
        if request.json["method"] == "GetTask":
            wire.answer(task_answer(request, task="t-once", bare=True))
            return
        await asyncio.sleep(WORK_S)
        wire.answer(task_answer(request, task="t-once"))

    async with registered_agent(hub, raw_agent(script)) as agent:
        tasks = await all_retries(hub, agent.id)
        sent = [request for request in agent.seen if request.json["method"] == "SendMessage"]
    assert len(tasks) == RETRIES
    assert {task["id"] for task in tasks} == {"t-once"}
    assert len(sent) == 1
    assert sent[0].headers["idempotency-key"] == f"key-of-{agent.id}"


async def test_another_message_under_a_used_key_is_a_conflict(hub: HubProcess):
    agent = Agent("keyed")

    @agent.handler
    async def work(task):
        return task.text

    headers = V10 | {"idempotency-key": "taken"}
    async with serving(agent, hub), MeshwayClient(hub.url) as client:
        first = await say(hub, "POST", "/a2a/keyed", rpc("SendMessage", send_params("this")), headers=headers)
        other = await say(hub, "POST", "/a2a/keyed", rpc("SendMessage", send_params("that")), headers=headers)
        assert first.json["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert other.status == 200
        assert other.json["error"]["code"] == -32602
        assert "IDEMPOTENCY_KEY_REUSED" in [each.get("reason") for each in other.json["error"]["data"]]
        wanted = {"agent": "keyed", "text": "this", "idempotency_key": "taken-too"}
        made = await say(hub, "POST", "/v1/tasks", wanted, headers=JSON)
        again = await say(hub, "POST", "/v1/tasks", wanted, headers=JSON)
        refused = await say(hub, "POST", "/v1/tasks", wanted | {"text": "that"}, headers=JSON)
        assert (made.status, again.status, refused.status) == (202, 200, 409), (made, again)
        assert made.json["id"] == again.json["id"]
        assert refused.json["code"] == "idempotency_key_reused"
        async with followed(client.tasks.events(made.json["id"])):
            pass


@pytest.mark.parametrize("again", ["at once", "when it is done"])
async def test_a_retry_after_the_hub_was_killed_is_the_same_task(tmp_path: Path, again: str):
    async def submit() -> str:
        return (await client.tasks.submit("8 0.3", agent="worker", idempotency_key="k")).id

    with running_hub() as hub:
        journal = tmp_path / "worker.journal"
        environ = {"MESHWAY_URL": hub.url, "TASK_JOURNAL": str(journal)}
        with child_agent("pull", "worker", environ=environ):
            await until(lambda: hub.request("GET", "/v1/agents/worker")[0] == 200)
            async with MeshwayClient(hub.url) as client:
                first = await submit()
                async with followed(client.tasks.events(first)) as task:
                    await task.until_chunks(2)
                    await asyncio.to_thread(hub.kill)
                    await asyncio.to_thread(hub.start)
                    early = await submit() if again == "at once" else first
                assert early == await submit() == first
        assert faults_of(task.events, expected_text=text_of(8)) == []
        assert journal.read_text().count('"began"') == 1


async def test_a_call_that_was_under_way_when_the_hub_died_is_not_made_again(tmp_path: Path):
    async def script(request: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    headers = V10 | {"idempotency-key": "k"}
    call = rpc("SendMessage", send_params("once"))
    with running_hub() as hub:
        async with registered_agent(hub, raw_agent(script)) as agent:
            async with asyncio.TaskGroup() as group:
                calling = group.create_task(answer_or_none(hub, f"/a2a/{agent.id}", call, headers))
                await agent.wait_seen(1)
                await asyncio.to_thread(hub.kill)
            assert calling.result() is None
            await asyncio.to_thread(hub.start)
            for _ in range(2):
                retry = await say(hub, "POST", f"/a2a/{agent.id}", call, headers=headers)
                # Nobody knows whether the agent has acted, and the caller is told so.
                assert retry.json["error"]["data"][0]["metadata"]["mayHaveActed"] == "true", retry.json
            assert len(agent.seen) == 1


async def answer_or_none(hub: HubProcess, path: str, call: dict, headers: dict[str, str]) -> object:
    try:
        return await say(hub, "POST", path, call, headers=headers)
    except (OSError, asyncio.IncompleteReadError):
        return None
