"""Limits: what one client or one agent may take of the hub, and what it is told."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawRequest, Wire, message_answer, raw_agent, registered_agent
from support.wire_client import JSON, V10, open_stream, rpc, say, send_params

SEND = rpc("SendMessage", send_params())
STREAM = rpc("SendStreamingMessage", send_params())
CONFIG = """
[http]
body_timeout_ms = 800
write_stall_ms = 1000
header_bytes_max = 8192
body_bytes_max = 100000
connections_max = 50
[http1]
idle_timeout_ms = 800
connect_timeout_ms = 500
body_bytes_max = 200000
[gateway]
calls_in_flight_max = 3
timeout_ms = 1500
[a2a_upstream]
stream_first_byte_ms = 700
"""


@pytest.fixture(scope="module")
def tight() -> Iterator[HubProcess]:
    with running_hub(config=CONFIG) as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


async def first_line(hub: HubProcess, *parts: bytes) -> bytes:
    """Status line of the answer to raw bytes, or nothing where the connection was just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    try:
        for part in parts:
            writer.write(part)
        async with asyncio.timeout(5):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_headers_beyond_the_limit_are_431(tight: HubProcess) -> None:
    host = f"host: 127.0.0.1:{tight.port}\r\n".encode()
    big = b"x-big: " + b"a" * 9_000 + b"\r\n"
    many = b"".join(b"x-%d: a\r\n" % number for number in range(150))
    for headers in (big, many):
        for path in (b"/a2a/x", b"/v1/agents"):
            line = await first_line(tight, b"GET " + path + b" HTTP/1.1\r\n" + host + headers + b"\r\n")
            assert b" 431 " in line, line


async def test_body_that_does_not_come_is_cut(tight: HubProcess) -> None:
    began = time.monotonic()
    head = f"POST /a2a/x HTTP/1.1\r\nhost: 127.0.0.1:{tight.port}\r\ncontent-type: application/json\r\n"
    line = await first_line(tight, f"{head}content-length: 90\r\n\r\n{{".encode())
    assert line == b"" or b" 408 " in line
    assert time.monotonic() - began < 3


async def test_chunked_body_beyond_the_limit_is_413(tight: HubProcess) -> None:
    head = f"POST /a2a/x HTTP/1.1\r\nhost: 127.0.0.1:{tight.port}\r\ncontent-type: application/json\r\n"
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    line = await first_line(tight, f"{head}transfer-encoding: chunked\r\n\r\n".encode(), *[chunk] * 4)
    assert b" 413 " in line


async def test_client_that_does_not_read_is_cut_and_its_agent_freed(tight: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        while not wire.closed.is_set():
            wire.chunk(b": comment\n\n")
            wire.event({"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "z" * 60_000}]}})
            await wire.drain()
            await asyncio.sleep(0)

    async with (
        registered_agent(tight, raw_agent(script)) as agent,
        await open_stream(tight, "POST", f"/a2a/{agent.id}", STREAM, headers=V10),
    ):
        await agent.scripts_ended(within_s=6)


async def test_stream_whose_agent_falls_silent_for_too_long_ends_with_an_error_event(tight: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event({"task": {"id": "t-silent", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})
        await wire.closed.wait()

    async with (
        registered_agent(tight, raw_agent(script), settings={"record": "off"}) as agent,
        await open_stream(tight, "POST", f"/a2a/{agent.id}", STREAM, headers=V10) as stream,
    ):
        events = await stream.rest()
        await agent.scripts_ended()
    assert events[-1]["error"]["code"] == -32603
    assert events[-1]["error"]["data"][0]["metadata"]["agent"] == agent.id


async def test_stream_that_never_begins_is_an_error(tight: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    async with registered_agent(tight, raw_agent(script)) as agent:
        reply = await say(tight, "POST", f"/a2a/{agent.id}", STREAM, headers=V10)
        await agent.scripts_ended()
    assert reply.status == 200
    assert reply.json["error"]["code"] == -32603


async def test_setting_of_the_hub_bounds_callers_who_name_no_time_and_the_agents_setting_comes_first(
    tight: HubProcess,
) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    for settings, least, most in (({}, 1.3, 2.6), ({"timeout_ms": 300}, 0.2, 1.2)):
        async with registered_agent(tight, raw_agent(script), settings=settings) as agent:
            began = time.monotonic()
            reply = await say(tight, "POST", f"/a2a/{agent.id}", SEND, headers=V10)
            took = time.monotonic() - began
        assert reply.json["error"]["data"][0]["reason"] == "DEADLINE_EXCEEDED"
        assert least < took < most, took


async def test_calls_beyond_the_hubs_own_maximum_are_429(tight: HubProcess) -> None:
    go_on = asyncio.Event()

    async def script(request: RawRequest, wire: Wire) -> None:
        await go_on.wait()
        wire.answer(message_answer(request))

    async with registered_agent(tight, raw_agent(script)) as agent:
        calls = [asyncio.create_task(say(tight, "POST", f"/a2a/{agent.id}", SEND, headers=V10)) for _ in range(3)]
        await agent.wait_seen(3)
        refused = await say(tight, "POST", f"/a2a/{agent.id}", SEND, headers=V10)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        # Looking at the hub is not a call.
        assert (await say(tight, "GET", "/v1/agents")).status == 200
        go_on.set()
        for reply in await asyncio.gather(*calls):
            assert "result" in reply.json


async def test_answer_of_an_agent_beyond_the_limit_is_an_error(tight: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(message_answer(request, text="x" * 300_000))

    async with registered_agent(tight, raw_agent(script)) as agent:
        reply = await say(tight, "POST", f"/a2a/{agent.id}", SEND, headers=V10)
    assert reply.json["error"]["code"] in (-32006, -32603)


async def test_connections_beyond_the_maximum_are_told_so_and_the_others_live(tight: HubProcess) -> None:
    open_ones = [await asyncio.open_connection("127.0.0.1", tight.port) for _ in range(60)]
    # Those within the limit are silent; the others hear 503 at once.
    answers = await asyncio.gather(*(_line_or_silence(reader) for reader, _ in open_ones))
    for _, writer in open_ones:
        writer.close()
    assert 5 <= sum(b" 503 " in answer for answer in answers) <= 20
    async with asyncio.timeout(5):
        while True:
            try:
                if (await say(tight, "GET", "/healthz")).status == 200:
                    break
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.05)


async def _line_or_silence(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(0.5):
            return await reader.readline()
    except TimeoutError:
        return b""


async def test_control_plane_has_its_own_smaller_limit_of_bodies(hub: HubProcess) -> None:
    card = raw_agent().card | {"description": "x" * 2_000_000}
    reply = await say(hub, "POST", "/v1/agents", json.dumps({"id": "big", "card": card}).encode(), headers=JSON)
    assert reply.status == 413
    assert reply.json["code"] == "payload_too_large"


async def test_client_that_sends_far_too_much_still_gets_to_read_why(tight: HubProcess) -> None:
    for path in ("/a2a/x", "/v1/agents"):
        reply = await say(tight, "POST", path, b" " * 6_000_000, headers=JSON)
        assert reply.status == 413, path
        assert reply.json["code"] == "payload_too_large"
    # It may not go on for ever: the connection ends a little later.
    reader, writer = await asyncio.open_connection("127.0.0.1", tight.port)
    writer.write(f"POST /a2a/x HTTP/1.1\r\nhost: 127.0.0.1:{tight.port}\r\ncontent-length: 900000000\r\n\r\n".encode())
    async with asyncio.timeout(5):
        assert b" 413 " in await reader.readline()
        while not writer.is_closing():
            writer.write(b" " * 1000)
            await asyncio.sleep(0.05)


async def test_hub_that_demands_keys_from_the_start_lets_nobody_in_before_the_first() -> None:
    with running_hub(config="[auth]\nrequired = true\n") as hub:
        assert (await say(hub, "GET", "/v1/agents")).status == 401
        assert (await say(hub, "POST", "/v1/keys", {"name": "x", "scopes": ["admin"]}, headers=JSON)).status == 401
        assert (await say(hub, "GET", "/healthz")).status == 200


async def test_keys_of_the_configuration_open_the_hub() -> None:
    key = "mw_" + "c" * 40
    config = f'[[keys]]\nname = "ci"\nkey = "{key}"\nscopes = ["admin"]\n'
    with running_hub(config=config) as hub:
        assert (await say(hub, "GET", "/v1/agents")).status == 401
        assert (await say(hub, "GET", "/v1/keys", headers={"x-api-key": key})).status == 200
        assert key not in hub.log.read_text()
