"""Tasks of agents with a URL that the hub relays: webhooks are the hub's, and what was cancelled has ended."""

import asyncio

import pytest

from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawAgent, RawRequest, Wire, raw_agent, registered_agent, running_agent
from support.wire_client import V10, open_stream, rpc, say, send_params

COMPLETED, CANCELED = "TASK_STATE_COMPLETED", "TASK_STATE_CANCELED"


def snapshot(task: str, *, state: str = "TASK_STATE_WORKING") -> dict:
    return {"id": task, "contextId": "c", "status": {"state": state}}


async def streamed(hub: HubProcess, agent: RawAgent, params: dict) -> list[dict]:
    """The results of one stream, to its end."""
    call = rpc("SendStreamingMessage", params)
    results = []
    async with (
        asyncio.timeout(20),
        await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10) as stream,
    ):
        while (event := await stream.event()) is not None:
            assert "result" in event, event
            results.append(event["result"])
    return results


@pytest.mark.parametrize("streams", [True, False])
async def test_a_webhook_that_comes_with_a_message_is_the_hubs_and_the_agent_never_sees_it(
    hub: HubProcess, streams: bool
) -> None:
    task = f"hooked-{streams}"

    async def work(request: RawRequest, wire: Wire) -> None:
        call = request.json
        if not streams:
            result = {"task": snapshot(task, state=COMPLETED)}
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": result})
            return
        artifact = {"artifactId": "a", "parts": [{"text": "one"}]}
        end = {"taskId": task, "contextId": "c", "status": {"state": COMPLETED}}
        wire.start_stream()
        wire.event({"task": snapshot(task)}, request_id=call["id"])
        wire.event({"artifactUpdate": {"taskId": task, "contextId": "c", "artifact": artifact}}, request_id=call["id"])
        wire.event({"statusUpdate": end}, request_id=call["id"])
        wire.end()

    async def take(request: RawRequest, wire: Wire) -> None:
        wire.answer({})

    receiver = raw_agent(take)
    async with running_agent(receiver), registered_agent(hub, raw_agent(work)) as agent:
        config = {"url": f"{receiver.url}/hook", "token": "my-token"}
        params = send_params() | {"configuration": {"taskPushNotificationConfig": config}}
        if streams:
            await streamed(hub, agent, params)
        else:
            call = rpc("SendMessage", params)
            status, _, _ = await asyncio.to_thread(hub.request, "POST", f"/a2a/{agent.id}", call, headers=V10)
            assert status == 200
        await receiver.wait_seen(3 if streams else 1)
        assert b"my-token" not in agent.received
    assert receiver.seen[0].headers["x-a2a-notification-token"] == "my-token"
    assert COMPLETED in receiver.seen[-1].body.decode()


async def test_a_webhook_that_may_not_be_called_is_refused_before_the_agent_is_called(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        params = send_params() | {"configuration": {"taskPushNotificationConfig": {"url": "ftp://x.test/"}}}
        _, _, refused = await asyncio.to_thread(
            hub.request, "POST", f"/a2a/{agent.id}", rpc("SendMessage", params), headers=V10
        )
        assert isinstance(refused, dict)
        assert "error" in refused
        assert not agent.seen


@pytest.mark.parametrize("stops", [True, False])
async def test_a_cancelled_task_whose_agent_keeps_its_stream_open_ends_all_the_same(
    hub: HubProcess, stops: bool
) -> None:
    task = f"open-{stops}"

    async def work(request: RawRequest, wire: Wire) -> None:
        call = request.json
        if call["method"] == "CancelTask":
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "result": snapshot(task, state=CANCELED)})
            return
        wire.start_stream()
        wire.event({"task": snapshot(task)}, request_id=call["id"])
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(work)) as agent:
        call = rpc("SendStreamingMessage", send_params())
        async with (
            asyncio.timeout(10),
            await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10) as stream,
        ):
            assert await stream.event() is not None
            if stops:
                path, body = f"/v1/agents/{agent.id}/stop", None
            else:
                path, body = f"/a2a/{agent.id}", rpc("CancelTask", {"id": task})
            status, _, _ = await asyncio.to_thread(hub.request, "POST", path, body, headers=V10)
            assert status == 200
            ends = []
            while (event := await stream.event()) is not None:
                ends.append(event["result"]["statusUpdate"]["status"]["state"])
    assert ends == [CANCELED]


@pytest.mark.parametrize("state", ["TASK_STATE_WORKING", COMPLETED])
async def test_an_agent_may_answer_with_the_same_task_again_whatever_happened_to_the_hub(state: str) -> None:
    """It recognises a message that was sent twice, or has one task for all of them."""

    async def work(request: RawRequest, wire: Wire) -> None:
        result = {"task": snapshot("always", state=state)}
        wire.answer({"jsonrpc": "2.0", "id": request.json["id"], "result": result})

    with running_hub() as hub:
        async with registered_agent(hub, raw_agent(work)) as agent:
            for round_ in range(4):
                if round_ == 2:
                    await asyncio.to_thread(hub.kill)
                    await asyncio.to_thread(hub.start)
                call = rpc("SendMessage", send_params())
                reply = await say(hub, "POST", f"/a2a/{agent.id}", call, headers=V10)
                assert reply.json.get("result", reply.json) == {"task": snapshot("always", state=state)}
            if state == COMPLETED:
                _, _, events = hub.request("GET", "/v1/tasks/always/events")
                assert isinstance(events, bytes)
                assert [line for line in events.splitlines() if line.startswith(b"id:")] == [b"id: 1"]
