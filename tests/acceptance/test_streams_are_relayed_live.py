"""Streams: nothing is held back, silence is kept alive, and whoever leaves frees the other side."""

import asyncio
import contextlib
import signal
import time

import httpx
import pytest

from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawRequest, Wire, message_answer, raw_agent, registered_agent
from support.sdk_client import ask as sdk_ask
from support.sdk_client import stock_client
from support.wire_client import V03, V10, open_stream, rpc, say, send_params

CALL = rpc("SendStreamingMessage", send_params())


def working(task: str = "t-live") -> dict:
    return {"task": {"id": task, "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}}


def chunk_of(number: int, text: str = "x") -> dict:
    artifact = {"artifactId": "a", "parts": [{"text": text}], "name": str(number)}
    return {"artifactUpdate": {"taskId": "t-live", "contextId": "c", "artifact": artifact, "append": number > 0}}


async def test_head_of_a_stream_does_not_wait_for_its_first_event(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        await wire.closed.wait()

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
    ):
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert "content-length" not in stream.headers


@pytest.mark.parametrize("client", ["1.0", "0.3"])
async def test_each_event_arrives_before_the_agent_makes_the_next(hub: HubProcess, client: str) -> None:
    seen_by_client = asyncio.Semaphore(0)

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event(working())
        for number in range(20):
            await seen_by_client.acquire()
            wire.event(chunk_of(number))
        wire.event(
            {"statusUpdate": {"taskId": "t-live", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}}}
        )
        wire.end()

    old = {"message": {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "x"}], "kind": "message"}}
    call, headers = (CALL, V10) if client == "1.0" else (rpc("message/stream", old), V03)
    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=headers) as stream,
    ):
        count = 0
        while await stream.event() is not None:
            count += 1
            seen_by_client.release()
    assert count == 22


async def test_event_cut_into_pieces_arrives_whole_and_several_at_once_arrive_apart(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        event = b'data: {"jsonrpc":"2.0","id":1,"result":{"message":{"messageId":"\xc3\xa9"}}}\n\n'
        for at in range(0, len(event), 7):
            wire.chunk(event[at : at + 7])
            await asyncio.sleep(0)
        wire.chunk(event * 3)
        wire.chunk(event.replace(b"\n", b"\r\n"))
        wire.end()

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
    ):
        events = [await stream.event() for _ in range(4)]
    assert [event["result"]["message"]["messageId"] for event in events if event] == ["é"] * 4


async def test_silence_is_kept_alive_and_the_stock_client_survives_it(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event(working())
        await asyncio.sleep(6)
        done = {"taskId": "t-live", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}}
        wire.event({"statusUpdate": done})
        wire.end()

    async def watch_comments(agent_id: str) -> float:
        began = time.monotonic()
        async with await open_stream(hub, "POST", f"/a2a/{agent_id}", CALL, headers=V10) as stream:
            await stream.event()
            frame = await stream.frame()
            assert frame is not None
            assert frame.startswith(b":")
            return time.monotonic() - began

    async def stock(agent_id: str) -> int:
        # Its default time-out is 5 s between bytes.
        async with httpx.AsyncClient() as http:
            client = await stock_client(http, f"{hub.url}/a2a/{agent_id}", "j10", streaming=True)
            return len([event async for event in sdk_ask(client, "hello")])

    async with registered_agent(hub, raw_agent(script)) as agent:
        silent_s, events = await asyncio.gather(watch_comments(agent.id), stock(agent.id))
    assert 3.0 < silent_s < 4.9
    assert events == 2


async def test_agent_that_says_nothing_yet_is_waited_for_without_a_bound_of_unary_calls() -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        await asyncio.sleep(1)
        wire.event(working())
        wire.end()

    with running_hub(config="[gateway]\ntimeout_ms = 300\n") as hub:
        async with (
            registered_agent(hub, raw_agent(script)) as agent,
            await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
        ):
            events = await stream.rest()
    assert [list(event["result"]) for event in events] == [["task"]]


async def test_client_that_leaves_an_unrecorded_stream_closes_the_agents_side_within_a_second(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event(working())
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(script), settings={"record": "off"}) as agent:
        for _ in range(5):
            async with await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream:
                await stream.event()
            await agent.scripts_ended(within_s=1)
    metrics = (await say(hub, "GET", "/metrics")).body.decode()
    assert "meshway_open_streams 0" in metrics


async def test_client_that_leaves_a_unary_call_closes_the_agents_side_within_a_second(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(script)) as agent:
        call = asyncio.create_task(say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10))
        await agent.wait_seen()
        call.cancel()
        await agent.scripts_ended(within_s=1)


async def test_slow_client_slows_the_agent_and_loses_nothing(hub: HubProcess) -> None:
    text = "y" * 60_000
    sent = 0
    stopped = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        nonlocal sent
        wire.start_stream()
        for number in range(400):
            wire.event(chunk_of(number, text))
            sent += 1
            try:
                async with asyncio.timeout(1.5):
                    await wire.drain()
            except TimeoutError:
                stopped.set()
                await wire.drain()
        wire.end()

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
    ):
        async with asyncio.timeout(8):
            await stopped.wait()
        # Sockets and buffers on the way hold some megabytes, the hub no more than its limit.
        assert sent < 300, "24 MB went into the hub although nobody read"
        events = await stream.rest()
    names = [event["result"]["artifactUpdate"]["artifact"]["name"] for event in events]
    assert names == [str(number) for number in range(400)]


async def test_deadline_is_told_as_such_to_a_client_that_was_not_reading_when_it_passed(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        number = 0
        while not wire.closed.is_set():
            wire.event(chunk_of(number, "z" * 60_000))
            number += 1
            await wire.drain()
            await asyncio.sleep(0)

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10 | {"meshway-timeout-ms": "700"}) as stream,
    ):
        await asyncio.sleep(1)
        last = None
        while (event := await stream.event()) is not None:
            last = event
        assert last is not None
        assert last["error"]["data"][0]["reason"] == "DEADLINE_EXCEEDED"
        await agent.scripts_ended()


async def test_stream_that_is_no_a2a_ends_with_an_error_event(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event(working())
        wire.chunk(b"data: this is no JSON\n\n")
        await wire.closed.wait()

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
    ):
        events = await stream.rest()
        await agent.scripts_ended()
    assert events[-1]["error"]["code"] == -32006


async def test_stream_of_an_agent_that_ends_before_any_event_is_an_orderly_empty_one(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.end()

    async with (
        registered_agent(hub, raw_agent(script)) as agent,
        await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
    ):
        assert await stream.rest() == []


async def test_sigterm_lets_running_calls_finish_tells_streams_and_ends_with_status_0() -> None:
    go_on = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        if request.json["method"] == "SendMessage":
            await go_on.wait()
            wire.answer(message_answer(request, text="finished"))
            return
        wire.start_stream()
        wire.event(working())
        await wire.closed.wait()

    with running_hub(config="[http]\ndrain_timeout_ms = 2000\n") as hub:
        async with registered_agent(hub, raw_agent(script)) as agent:
            path = f"/a2a/{agent.id}"
            unary = asyncio.create_task(say(hub, "POST", path, rpc("SendMessage", send_params()), headers=V10))
            async with (
                await open_stream(hub, "POST", path, CALL, headers=V10) as stream,
                await open_stream(hub, "GET", "/v1/agents/watch") as watch,
            ):
                await stream.event()
                await agent.wait_seen(2)
                hub.send_signal(signal.SIGTERM)
                ended = asyncio.create_task(asyncio.to_thread(hub.wait, 10))
                while await watch.frame() is not None:
                    pass
                go_on.set()
                reply = await unary
                assert reply.json["result"]["message"]["parts"] == [{"text": "finished"}]
                last = await stream.event()
                assert last is not None
                assert last["error"]["data"][0]["reason"] == "DRAINING"
                assert await stream.frame() is None
            assert await ended == 0
    assert "hub_stopped" in hub.last_log


async def test_hub_that_drains_refuses_new_calls_on_open_connections() -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        await wire.closed.wait()

    with running_hub(config="[http]\ndrain_timeout_ms = 2000\n") as hub:
        async with (
            registered_agent(hub, raw_agent(script)) as agent,
            httpx.AsyncClient(base_url=hub.url) as http,
            await open_stream(hub, "POST", f"/a2a/{agent.id}", CALL, headers=V10) as stream,
        ):
            await http.get("/healthz")
            hub.send_signal(signal.SIGTERM)
            await logged(hub, "hub_draining")
            with contextlib.suppress(httpx.TransportError):
                # A new connection is refused once the listener is closed; the old ones are told.
                refused = await http.post(f"/a2a/{agent.id}", json=rpc("SendMessage", send_params()), headers=V10)
                assert refused.json()["error"]["data"][0]["reason"] == "DRAINING"
            assert len(agent.seen) == 1
            stream.close()


async def logged(hub: HubProcess, event: str) -> None:
    async with asyncio.timeout(5):
        while event not in hub.log.read_text():  # noqa: ASYNC110  another process has no event
            await asyncio.sleep(0.01)
