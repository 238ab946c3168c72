"""Agents with a URL whose connections break in the middle of a task: the client sees one stream and one end."""

import asyncio
import json

import pytest

from support.hub_process import HubProcess
from support.raw_agent import RawAgent, RawRequest, Wire, raw_agent, registered_agent, running_agent
from support.wire_client import V10, open_stream, rpc, send_params

DONE = "TASK_STATE_COMPLETED"


def snapshot(task: str, *chunks: str, state: str = "TASK_STATE_WORKING") -> dict:
    parts = [{"text": chunk} for chunk in chunks]
    artifacts = [{"artifactId": "a", "parts": parts}] if parts else []
    return {"id": task, "contextId": "c", "status": {"state": state}, "artifacts": artifacts}


def chunk(task: str, text: str, *, append: bool = True) -> dict:
    artifact = {"artifactId": "a", "parts": [{"text": text}]}
    return {"artifactUpdate": {"taskId": task, "contextId": "c", "artifact": artifact, "append": append}}


def end(task: str, state: str = DONE) -> dict:
    return {"statusUpdate": {"taskId": task, "contextId": "c", "status": {"state": state}}}


class BreakingAgent:
    """Says two chunks and breaks off; `subscribed` and `got` are what it answers the hub that comes back."""

    def __init__(self, task: str, *, subscribed: list[dict] | None, got: dict | None) -> None:
        self.task = task
        self.subscribed = subscribed
        self.got = got
        self.asked: list[str] = []

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        call = request.json
        self.asked.append(call["method"])
        match call["method"]:
            case "SendStreamingMessage":
                wire.start_stream()
                wire.event({"task": snapshot(self.task)}, request_id=call["id"])
                wire.event(chunk(self.task, "one ", append=False), request_id=call["id"])
                wire.event(chunk(self.task, "two "), request_id=call["id"])
                await asyncio.sleep(0.1)
                wire.die()
            case "SubscribeToTask" if self.subscribed is not None:
                wire.start_stream()
                for event in self.subscribed:
                    wire.event(event, request_id=call["id"])
                wire.end()
            case "GetTask" if self.got is not None:
                wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": self.got})
            case "GetTask":
                error = {"code": -32001, "message": "no such task"}
                wire.answer({"jsonrpc": "2.0", "id": call["id"], "error": error})
            case _:
                error = {"code": -32004, "message": "not here"}
                wire.answer({"jsonrpc": "2.0", "id": call["id"], "error": error})


async def streamed(hub: HubProcess, agent: RawAgent) -> list[dict]:
    """The results of one stream, to its end."""
    call = rpc("SendStreamingMessage", send_params())
    results = []
    async with (
        asyncio.timeout(20),
        await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10) as stream,
    ):
        while (event := await stream.event()) is not None:
            assert "result" in event, event
            results.append(event["result"])
    return results


def text_of(results: list[dict]) -> str:
    """What a client has put together; an update that does not append begins the artifact again."""
    text = ""
    for update in (each["artifactUpdate"] for each in results if "artifactUpdate" in each):
        said = "".join(part["text"] for part in update["artifact"]["parts"])
        text = text + said if update.get("append") else said
    return text


def ends_of(results: list[dict]) -> list[str]:
    states = [each["statusUpdate"]["status"]["state"] for each in results if "statusUpdate" in each]
    return [state for state in states if state != "TASK_STATE_WORKING"]


async def numbers_of(hub: HubProcess, task: str) -> list[int]:
    _, _, content = await asyncio.to_thread(hub.request, "GET", f"/v1/tasks/{task}/events")
    assert isinstance(content, bytes)
    return [int(line[3:]) for line in content.splitlines() if line.startswith(b"id:")]


async def test_a_broken_stream_is_taken_up_again_where_the_agent_can(hub: HubProcess) -> None:
    task = "cut-1"
    rest = [{"task": snapshot(task, "one ", "two ", "three ")}, chunk(task, "four"), end(task)]
    breaking = BreakingAgent(task, subscribed=rest, got=None)
    async with registered_agent(hub, raw_agent(breaking)) as agent:
        results = await streamed(hub, agent)
        numbers = await numbers_of(hub, task)
    assert breaking.asked[:2] == ["SendStreamingMessage", "SubscribeToTask"]
    assert (text_of(results), ends_of(results)) == ("one two three four", [DONE])
    assert numbers == list(range(1, len(numbers) + 1))
    # The client has seen all that was kept.
    assert len(numbers) == len(results)


async def test_what_was_missed_is_made_from_the_task_where_nothing_can_be_taken_up(hub: HubProcess) -> None:
    task = "cut-2"
    breaking = BreakingAgent(task, subscribed=None, got=snapshot(task, "one ", "two ", "three", state=DONE))
    async with registered_agent(hub, raw_agent(breaking)) as agent:
        results = await streamed(hub, agent)
        numbers = await numbers_of(hub, task)
    assert "GetTask" in breaking.asked
    assert (text_of(results), ends_of(results)) == ("one two three", [DONE])
    assert numbers == list(range(1, len(results) + 1))


async def test_a_task_that_the_agent_has_forgotten_has_failed_and_says_why(hub: HubProcess) -> None:
    breaking = BreakingAgent("cut-3", subscribed=None, got=None)
    async with registered_agent(hub, raw_agent(breaking)) as agent:
        results = await streamed(hub, agent)
    assert (text_of(results), ends_of(results)) == ("one two ", ["TASK_STATE_FAILED"])
    assert "task_lost" in json.dumps(results[-1])


@pytest.mark.parametrize("by_setting", [True, False])
async def test_durable_work_waits_for_an_agent_that_is_down_and_each_attempt_is_the_same_message(
    hub: HubProcess, by_setting: bool
) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        if request in sends(agent) and len(sends(agent)) == 1:
            # It may have worked on it: the hub looks before it tries again.
            wire.die()
            return
        await BreakingAnswers()(request, wire)

    agent = raw_agent(script)
    async with registered_agent(hub, agent):
        pass
    # Down, but known.
    async with running_agent(agent):
        settings = {"settings": {"delivery": "durable"}} if by_setting else {}
        await asyncio.to_thread(hub.register, agent.id, agent.url, **settings)
    call = rpc("SendMessage", send_params() | {"configuration": {"returnImmediately": True}})
    headers = V10 if by_setting else V10 | {"meshway-delivery": "durable"}
    _, _, answer = await asyncio.to_thread(hub.request, "POST", f"/a2a/{agent.id}", call, headers=headers)
    task = answer["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    async with running_agent(agent):
        now = await until_done(hub, task["id"], within_s=15)
    assert now["status"]["state"] == DONE, now
    tries = sends(agent)
    assert len(tries) == 2
    assert len({each.json["params"]["message"]["messageId"] for each in tries}) == 1
    assert len({each.headers["idempotency-key"] for each in tries}) == 1
    await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")


async def test_an_agent_that_is_away_for_long_uses_up_no_attempts(hub: HubProcess) -> None:
    agent = raw_agent(BreakingAnswers())
    async with running_agent(agent):
        await asyncio.to_thread(hub.register, agent.id, agent.url, settings={"delivery": "durable", "attempts_max": 1})
    call = rpc("SendMessage", send_params() | {"configuration": {"returnImmediately": True}})
    _, _, answer = await asyncio.to_thread(hub.request, "POST", f"/a2a/{agent.id}", call, headers=V10)
    # Longer than the hub waits at an idle inbox, and than the first pauses between attempts.
    await asyncio.sleep(6)
    async with running_agent(agent):
        now = await until_done(hub, answer["result"]["task"]["id"], within_s=20)
    assert now["status"]["state"] == DONE, now
    await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")


async def until_done(hub: HubProcess, task: str, *, within_s: float) -> dict:
    for _ in range(int(within_s / 0.05)):
        _, _, now = await asyncio.to_thread(hub.request, "GET", f"/v1/tasks/{task}")
        assert isinstance(now, dict)
        if now["status"]["state"] == DONE:
            break
        await asyncio.sleep(0.05)
    return now


class BreakingAnswers:
    """Knows of no task, and does what it is sent at once."""

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        call = request.json
        if call["method"] in ("SendMessage", "SendStreamingMessage"):
            done = snapshot("durable-own", "done", state=DONE)
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": {"task": done}})
        elif call["method"] == "ListTasks":
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": {"tasks": [], "totalSize": 0}})
        else:
            error = {"code": -32001, "message": "no such task"}
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "error": error})


def sends(agent: RawAgent) -> list[RawRequest]:
    return [
        each for each in agent.seen if each.body and each.json.get("method") in ("SendMessage", "SendStreamingMessage")
    ]
