"""Crowds: thousands of calls and hundreds of streams in flight through one hub process."""

import asyncio
import json

from support.hub_process import HubProcess
from support.raw_agent import RawRequest, Wire, message_answer, raw_agent, registered_agent
from support.wire_client import V10, EventStream, open_stream, rpc, say, send_params

CALLS = 2_000
STREAMS = 500


async def one_call(hub: HubProcess, agent: str, number: int) -> str:
    """On a connection of its own; waits as long as it takes, which the test bounds."""
    body = json.dumps(rpc("SendMessage", send_params(str(number)), request_id=number)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    headers = "".join(f"{name}: {value}\r\n" for name, value in V10.items())
    head = f"POST /a2a/{agent} HTTP/1.1\r\nhost: 127.0.0.1:{hub.port}\r\n{headers}content-length: {len(body)}\r\n"
    writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    reply = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert reply["id"] == number
    return reply["result"]["message"]["parts"][0]["text"]


async def test_two_thousand_calls_are_in_flight_at_once_and_each_gets_its_own_answer(hub: HubProcess) -> None:
    all_there = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        if len(agent.seen) == CALLS:
            all_there.set()
        await all_there.wait()
        text = request.json["params"]["message"]["parts"][0]["text"]
        wire.answer(message_answer(request, text=f"answer {text}"))

    async with registered_agent(hub, raw_agent(script)) as agent, asyncio.timeout(40):
        texts = await asyncio.gather(*(one_call(hub, agent.id, number) for number in range(CALLS)))
        assert list(texts) == [f"answer {number}" for number in range(CALLS)]
        metrics = (await say(hub, "GET", "/metrics")).body.decode()
        assert "meshway_in_flight 0" in metrics
        # Nobody was asked twice.
        assert len(agent.seen) == CALLS


async def test_five_hundred_streams_run_side_by_side_and_none_is_mixed_up(hub: HubProcess) -> None:
    go_on = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        name = request.json["params"]["message"]["parts"][0]["text"]
        wire.start_stream()
        for number in range(5):
            if number == 1:
                await go_on.wait()
            wire.event({"message": {"messageId": f"{name}-{number}", "role": "ROLE_AGENT", "parts": [{"text": "x"}]}})
        wire.end()

    async def opened(number: int) -> EventStream:
        call = rpc("SendStreamingMessage", send_params(str(number)))
        stream = await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10)
        first = await stream.event()
        assert first is not None
        assert first["result"]["message"]["messageId"] == f"{number}-0"
        return stream

    async def rest(number: int, stream: EventStream) -> None:
        async with stream:
            events = await stream.rest()
        assert [event["result"]["message"]["messageId"] for event in events] == [f"{number}-{n}" for n in range(1, 5)]

    async with registered_agent(hub, raw_agent(script)) as agent, asyncio.timeout(40):
        streams = await asyncio.gather(*(opened(number) for number in range(STREAMS)))
        metrics = (await say(hub, "GET", "/metrics")).body.decode()
        assert f"meshway_open_streams {STREAMS}" in metrics
        go_on.set()
        await asyncio.gather(*(rest(number, stream) for number, stream in enumerate(streams)))
        assert "meshway_open_streams 0" in (await say(hub, "GET", "/metrics")).body.decode()
