"""Several instances of one agent: spreading, failing over what was certainly not sent, and nothing else."""

import asyncio
import itertools

import pytest

from support.hub_process import HubProcess
from support.raw_agent import (
    RawAgent,
    RawRequest,
    Wire,
    answering,
    message_answer,
    raw_agent,
    registered_agent,
    registered_replicas,
    running_agent,
    task_answer,
)
from support.wire_client import V10, Reply, open_stream, rpc, say, send_params

_numbers = itertools.count(1)


def named(name: str) -> RawAgent:
    """An agent that says its name; asked for a task it makes one."""

    def make(request: RawRequest) -> object:
        if request.json["method"] == "GetTask":
            return task_answer(request, task=request.json["params"]["id"], bare=True)
        if request.json["params"]["message"]["parts"][0]["text"] == "task":
            return task_answer(request, task=f"{name}-{next(_numbers)}", state="TASK_STATE_WORKING")
        return message_answer(request, text=name)

    return raw_agent(answering(make))


async def ask(hub: HubProcess, agent: str, text: str = "hello") -> Reply:
    return await say(hub, "POST", f"/a2a/{agent}", rpc("SendMessage", send_params(text)), headers=V10)


def text_of(reply: Reply) -> str:
    assert "result" in reply.json, reply.body
    return reply.json["result"]["message"]["parts"][0]["text"]


async def instances(hub: HubProcess, agent: str) -> dict[str, dict]:
    """By URL."""
    shown = (await say(hub, "GET", f"/v1/agents/{agent}")).json
    return {instance["url"]: instance for instance in shown["instances"]}


async def wait_for_state(hub: HubProcess, agent: str, url: str, state: str, *, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while (await instances(hub, agent))[url]["state"] != state:  # noqa: ASYNC110  another process has no event
            await asyncio.sleep(0.05)


async def test_load_is_spread_over_the_instances(hub: HubProcess) -> None:
    async with registered_replicas(hub, named("one"), named("two")) as (one, two):
        for _ in range(40):
            await ask(hub, one.id)
        assert len(one.seen) >= 8
        assert len(two.seen) >= 8


async def test_busy_instance_gets_fewer_calls_than_an_idle_one(hub: HubProcess) -> None:
    async def never(request: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    slow, idle = raw_agent(never), named("idle")
    async with registered_replicas(hub, slow, idle):
        stuck: list[asyncio.Task[Reply]] = []
        for _ in range(20):
            reply = asyncio.create_task(ask(hub, slow.id))
            arrived = asyncio.create_task(slow.wait_seen(len(stuck) + 1))
            await asyncio.wait([reply, arrived], return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                stuck.append(reply)
            arrived.cancel()
        assert len(stuck) <= 1
        assert len(idle.seen) >= 19
        for each in stuck:
            each.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_no_call_fails_while_one_instance_refuses_connections(hub: HubProcess) -> None:
    gone = named("gone")
    async with registered_agent(hub, named("stays")) as stays:
        async with running_agent(gone):
            added = await say(hub, "POST", f"/v1/agents/{stays.id}/instances", {"url": gone.url}, headers=V10)
            assert added.status == 201, added.body
        replies = await asyncio.gather(*(ask(hub, stays.id) for _ in range(60)))
        assert {text_of(reply) for reply in replies} == {"stays"}


async def test_instance_that_went_away_is_used_again_when_it_is_back(hub: HubProcess) -> None:
    away = named("away")
    async with registered_agent(hub, named("stays")) as stays:
        async with running_agent(away):
            await say(hub, "POST", f"/v1/agents/{stays.id}/instances", {"url": away.url}, headers=V10)
        for _ in range(20):
            assert text_of(await ask(hub, stays.id)) == "stays"
        assert (await instances(hub, stays.id))[away.url]["state"] in ("suspect", "offline")
        async with running_agent(away):
            await wait_for_state(hub, stays.id, away.url, "online")
            texts = {text_of(await ask(hub, stays.id)) for _ in range(20)}
        assert texts == {"stays", "away"}


@pytest.mark.parametrize(
    "half", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"]
)
async def test_message_to_an_instance_that_died_under_it_is_not_sent_to_another(hub: HubProcess, half: bytes) -> None:
    async def die(request: RawRequest, wire: Wire) -> None:
        if half:
            wire.send(half)
        wire.die()

    async with registered_replicas(hub, raw_agent(die), raw_agent(die)) as (one, two):
        reply = await ask(hub, one.id)
        assert reply.status == 200
        assert reply.json["error"]["code"] == -32603
        assert len(one.seen) + len(two.seen) == 1


async def test_instance_that_dies_within_an_unrecorded_stream_ends_it_with_an_error_event(hub: HubProcess) -> None:
    go = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event({"task": {"id": "t-dies", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})
        await go.wait()
        wire.die()

    async with registered_replicas(hub, raw_agent(script), raw_agent(script)) as (one, two):
        off = {"settings": {"record": "off"}}
        await asyncio.to_thread(hub.request, "PATCH", f"/v1/agents/{one.id}", off)
        call = rpc("SendStreamingMessage", send_params(), request_id="mine")
        async with await open_stream(hub, "POST", f"/a2a/{one.id}", call, headers=V10) as stream:
            first = await stream.event()
            assert first is not None
            assert first["result"]["task"]["id"] == "t-dies"
            go.set()
            last = await stream.event()
            assert last is not None
            assert last["error"]["code"] == -32603
            assert last["id"] == "mine"
            assert stream.frames[-1].startswith(b"event: error\n")
            info = last["error"]["data"][0]
            assert (info["reason"], info["metadata"]["agent"]) == ("UPSTREAM_BROKEN", one.id)
            # An orderly end: the client need not guess.
            assert await stream.frame() is None
        assert len(one.seen) + len(two.seen) == 1


async def test_draining_instance_gets_follow_ups_but_nothing_new(hub: HubProcess) -> None:
    async with registered_replicas(hub, named("one"), named("two")) as (one, two):
        tasks: set[str] = set()
        while not any(task.startswith("two") for task in tasks):
            tasks.add((await ask(hub, one.id, "task")).json["result"]["task"]["id"])
        held = next(task for task in tasks if task.startswith("two"))
        drained = (await instances(hub, one.id))[two.url]["id"]
        reply = await say(hub, "POST", f"/v1/agents/{one.id}/instances/{drained}/drain", {}, headers=V10)
        assert reply.status == 200, reply.body
        assert (await instances(hub, one.id))[two.url]["state"] == "draining"
        before = len(two.seen)
        for _ in range(20):
            assert text_of(await ask(hub, one.id)) == "one"
        assert len(two.seen) == before
        followed = await say(hub, "POST", f"/a2a/{one.id}", rpc("GetTask", {"id": held}), headers=V10)
        assert followed.json["result"]["id"] == held
        assert two.seen[-1].json["method"] == "GetTask"
        await say(hub, "DELETE", f"/v1/agents/{one.id}/instances/{drained}/drain", headers=V10)
        assert {text_of(await ask(hub, one.id)) for _ in range(20)} == {"one", "two"}


async def test_drained_agent_takes_no_new_calls_and_says_so(hub: HubProcess) -> None:
    async with registered_agent(hub, named("one")) as one:
        assert (await say(hub, "POST", f"/v1/agents/{one.id}/drain", {}, headers=V10)).status == 200
        reply = await ask(hub, one.id)
        assert reply.json["error"]["code"] == -32603
        assert "draining" in reply.json["error"]["message"]
        assert one.seen == []


async def test_calls_beyond_the_capacity_are_refused_with_a_time_to_come_back(hub: HubProcess) -> None:
    free = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        await free.wait()
        wire.answer(message_answer(request))

    async with registered_agent(hub, raw_agent(script), capacity=2) as agent:
        under_way = [asyncio.ensure_future(ask(hub, agent.id)) for _ in range(2)]
        await agent.wait_seen(2)
        shown = await instances(hub, agent.id)
        assert shown[agent.url]["in_flight"] == 2
        assert shown[agent.url]["capacity"] == 2
        refused = await ask(hub, agent.id)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        info = refused.json["error"]["data"][0]
        assert (info["reason"], info["metadata"]["agent"]) == ("TOO_MANY_IN_FLIGHT", agent.id)
        free.set()
        for reply in await asyncio.gather(*under_way):
            assert "result" in reply.json
        assert "result" in (await ask(hub, agent.id)).json
        assert len(agent.seen) == 3


async def test_client_that_leaves_frees_its_place(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(script), capacity=1) as agent:
        call = rpc("SendStreamingMessage", send_params())
        for _ in range(3):
            async with await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10):
                assert (await ask(hub, agent.id)).status == 429
            await agent.scripts_ended(within_s=1)
        assert (await instances(hub, agent.id))[agent.url]["in_flight"] == 0
