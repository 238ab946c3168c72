"""What reaches an agent and what comes back, byte for byte, watched from bare sockets on both sides."""

import gzip
import json
import re

import pytest

from support.hub_process import HubProcess
from support.raw_agent import RawRequest, Wire, answering, message_answer, raw_agent, registered_agent, task_answer
from support.wire_client import V03, V10, open_stream, rpc, say, send_params

CANARY = "mw_canary_5ecret_that_must_stay_here"
ODD = (
    b'{ "method":"SendMessage",\t"jsonrpc" : "2.0","id":"\\u00e4-7" ,"futureField":{"z":1,"a":[1.0,1e2]},\r\n'
    b'"params":{"message":{"role":"ROLE_USER","parts":[{"text":"\xc3\xa9 \\/","hint":null}],"messageId":"m", '
    b'"x-later":  true},"extra":0.10}}'
)


async def test_body_of_the_same_dialect_reaches_the_agent_unchanged(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}", ODD, headers=V10)
        assert agent.seen[0].body == ODD


async def test_answer_of_the_same_dialect_reaches_the_client_unchanged(hub: HubProcess) -> None:
    body = (
        b'{"result" :{"message":{"parts":[ ],"unknown":{"b":1,"a":2},"role":"ROLE_AGENT"}},\n "id":1,"jsonrpc":"2.0"}'
    )

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(body, content_type="application/json; charset=utf-8")

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
    assert reply.body == body
    assert reply.status == 200


async def test_rest_body_and_answer_are_unchanged(hub: HubProcess) -> None:
    sent = b'{"message": {"parts":[{"text":"a","odd":1}], "role":"ROLE_USER","messageId":"m"}, "later":[]}'
    answer = b'{"message":{"later":{},"messageId":"r","role":"ROLE_AGENT","parts":[{"text":"x"}] } }'

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(answer, content_type="application/a2a+json")

    async with registered_agent(hub, raw_agent(script, interfaces=[("HTTP+JSON", "1.0")])) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}/message:send", sent, headers=V10)
    assert agent.seen[0].target == "/rest/message:send"
    assert agent.seen[0].body == sent
    assert reply.body == answer
    assert reply.headers["content-type"] == "application/a2a+json"


async def test_events_of_the_same_dialect_are_unchanged(hub: HubProcess) -> None:
    frames = [
        b'id: 7\ndata: {"id":1, "jsonrpc":"2.0","result":{"message":{"messageId":"a","odd":1.50}}}\n\n',
        b'event: later\ndata: {"anything": true}\n\n',
        b'data: {"jsonrpc":"2.0","id":1,"result":{"novelty":{"a":1}}}\n\n',
    ]

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        for frame in frames:
            wire.chunk(frame)
        wire.end()

    async with registered_agent(hub, raw_agent(script), settings={"record": "off"}) as agent:
        call = rpc("SendStreamingMessage", send_params())
        async with await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10) as stream:
            while await stream.frame() is not None:
                pass
    assert [frame + b"\n\n" for frame in stream.frames] == frames


async def test_recorded_events_are_numbered_and_their_content_is_unchanged(hub: HubProcess) -> None:
    task = b'{"task":{"id":"t-kept","contextId":"c","status":{"state":"TASK_STATE_WORKING"},"odd":1.50}}'
    done = b'{"statusUpdate":{"taskId":"t-kept","contextId":"c","status":{"state":"TASK_STATE_COMPLETED"},"x":[1, 2]}}'

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        for result in (task, done):
            wire.chunk(b'id: 7\ndata: {"id":1, "jsonrpc":"2.0","result":%b}\n\n' % result)
        wire.end()

    async with registered_agent(hub, raw_agent(script)) as agent:
        call = rpc("SendStreamingMessage", send_params())
        async with await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=V10) as stream:
            while await stream.frame() is not None:
                pass
    numbered = [b'id: %d\ndata: {"jsonrpc":"2.0","id":1,"result":%b}' % each for each in ((1, task), (2, done))]
    # Comments may come between, where the machine is slow.
    assert [frame for frame in stream.frames if not frame.startswith(b":")] == numbered


async def test_chain_that_no_hub_wrote_is_refused(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        forged = V10 | {"Meshway-Chain": "forged"}
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=forged)
        assert reply.json["error"]["code"] == -32602
        assert not agent.seen


@pytest.mark.parametrize("slash", ["", "/"])
async def test_agent_answers_with_and_without_a_slash_and_never_redirects(hub: HubProcess, slash: str) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}{slash}", rpc("SendMessage", send_params()), headers=V10)
    assert reply.status == 200
    assert reply.json["result"]["message"]["parts"] == [{"text": "hi"}]


async def test_tenant_of_the_interface_is_put_into_json_rpc_params(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent(tenant="acme")) as agent:
        call = rpc("SendMessage", send_params() | {"unknown": {"kept": [1, 2.50]}})
        reply = await say(hub, "POST", f"/a2a/{agent.id}", call, headers=V10)
        assert "result" in reply.json
        assert agent.seen[0].json["params"]["tenant"] == "acme"
        assert agent.seen[0].json["params"]["unknown"] == {"kept": [1, 2.50]}
        card = await say(hub, "GET", f"/a2a/{agent.id}/.well-known/agent-card.json")
        assert b"acme" not in card.body


async def test_tenant_of_the_interface_is_put_into_the_rest_path(hub: HubProcess) -> None:
    async with registered_agent(
        hub,
        raw_agent(answering(lambda request: message_answer_rest()), interfaces=[("HTTP+JSON", "1.0")], tenant="acme"),
    ) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}/message:send", send_params(), headers=V10)
    assert reply.status == 200
    assert agent.seen[0].target == "/rest/acme/message:send"


def message_answer_rest() -> dict:
    return {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x"}]}}


async def test_error_of_the_agent_comes_back_as_it_was(hub: HubProcess) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"mine","data":[{"@type":"x/y","n":1}]}}'

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(body, status=500)

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
    # Stock clients hide a JSON-RPC error behind any other status.
    assert (reply.status, reply.body) == (200, body)


async def test_rest_error_of_the_agent_comes_back_with_its_status(hub: HubProcess) -> None:
    body = b'{"error":{"code":409,"status":"ABORTED","message":"mine","details":[]}}'

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(body, status=409)

    async with registered_agent(hub, raw_agent(script, interfaces=[("HTTP+JSON", "1.0")])) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}/message:send", send_params(), headers=V10)
    assert (reply.status, reply.body) == (409, body)


async def test_headers_of_the_caller_stay_at_the_hub(hub: HubProcess) -> None:
    secrets = {
        "Cookie": f"session={CANARY}",
        "Proxy-Authorization": f"Basic {CANARY}",
        "Meshway-Deadline": CANARY,
        "Meshway-Something": CANARY,
        "X-Mine": CANARY,
        "Connection": "keep-alive, X-Hop",
        "X-Hop": CANARY,
        "TE": "trailers",
        "Keep-Alive": "timeout=5",
    }
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10 | secrets)
        assert "result" in reply.json
        assert CANARY.encode() not in agent.received
        headers = agent.seen[0].headers
    assert not {"te", "keep-alive", "cookie", "authorization", "x-api-key", "transfer-encoding"} & headers.keys()
    # The chain is the hub's own.
    assert [name for name in headers if name.startswith("meshway-")] == ["meshway-chain"]
    assert headers["host"] == f"127.0.0.1:{agent.port}"
    assert CANARY not in hub.log.read_text()


async def test_version_of_the_chosen_interface_is_what_the_agent_is_told(hub: HubProcess) -> None:
    old = {"message": {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}], "kind": "message"}}
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("message/send", old), headers=V03)
        assert reply.json["result"]["kind"] == "message"
        assert agent.seen[0].headers["a2a-version"] == "1.0"
        assert agent.seen[0].json["method"] == "SendMessage"


async def test_trace_context_goes_on_with_a_span_of_the_hub(hub: HubProcess) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    context = {"traceparent": f"00-{trace}-{span}-01", "tracestate": "vendor=1"}
    async with registered_agent(hub, raw_agent()) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10 | context)
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        given, made = (request.headers["traceparent"] for request in agent.seen)
        assert agent.seen[0].headers["tracestate"] == "vendor=1"
    parts = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01", given)
    assert parts is not None
    assert parts[1] == trace
    assert parts[2] != span
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", made)


async def test_extensions_are_passed_on(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        asked = V10 | {"A2A-Extensions": "https://x.example/a,https://x.example/b"}
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=asked)
        assert agent.seen[0].headers["a2a-extensions"] == "https://x.example/a,https://x.example/b"


@pytest.mark.parametrize(
    ("credential", "name", "value"),
    [
        ("Bearer up-5tream", "authorization", "Bearer up-5tream"),
        ("up-5tream", "authorization", "Bearer up-5tream"),
        ("X-API-Key: up-5tream", "x-api-key", "up-5tream"),
    ],
)
async def test_stored_credential_is_shown_to_the_agent_and_to_nobody_else(
    hub: HubProcess, credential: str, name: str, value: str
) -> None:
    async with registered_agent(hub, raw_agent(), credential=credential) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        assert agent.seen[0].headers[name] == value
        assert agent.card_reads[0].headers[name] == value
        for path in (f"/v1/agents/{agent.id}", "/v1/agents", f"/a2a/{agent.id}/.well-known/agent-card.json"):
            assert b"5tream" not in (await say(hub, "GET", path)).body
        shown = (await say(hub, "GET", f"/v1/agents/{agent.id}")).json
    assert shown["has_credential"] is True
    assert "5tream" not in hub.log.read_text()
    assert b"5tream" not in b"".join(path.read_bytes() for path in hub.data.iterdir() if path.is_file())


async def test_credential_is_dropped_when_the_agent_moves_to_another_origin(hub: HubProcess) -> None:
    elsewhere = raw_agent()
    async with registered_agent(hub, elsewhere), registered_agent(hub, raw_agent(), credential="Bearer old") as agent:
        moved = await say(hub, "PATCH", f"/v1/agents/{agent.id}", {"url": elsewhere.url}, headers=V10)
        assert moved.status == 200, moved.body
        assert moved.json["has_credential"] is False
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        assert b"Bearer old" not in elsewhere.received


async def test_task_id_in_a_path_cannot_reach_another_path_of_the_agent(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer({"task": {"id": "../../admin", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})

    async with registered_agent(hub, raw_agent(script, interfaces=[("HTTP+JSON", "1.0")])) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}/message:send", send_params(), headers=V10)
        await say(hub, "GET", f"/a2a/{agent.id}/tasks/..%2F..%2Fadmin", headers=V10)
        targets = [request.target for request in agent.seen]
    assert all("/admin" not in target and ".." not in target.replace("..%2F", "") for target in targets[1:]), targets


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html", b"<html>not an agent</html>"),
        (200, "application/json", b'{"jsonrpc":"2.0","id":1,"resu'),
        (200, "application/json", b'{"ok":true}'),
        (200, "application/json", b"[]"),
        (500, "text/plain", b"Internal Server Error"),
        (502, "text/html", b"<h1>Bad Gateway</h1>"),
        (302, "text/html", b"moved"),
    ],
)
async def test_answer_that_is_not_a2a_is_an_error_that_says_so(
    hub: HubProcess, status: int, content_type: str, body: bytes
) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(body, status=status, content_type=content_type, headers={"location": "http://127.0.0.1:9/"})

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        assert reply.status == 200
        assert reply.json["error"]["code"] == -32006
        assert reply.json["id"] == 1
        (info,) = [each for each in reply.json["error"]["data"] if each["@type"].endswith("ErrorInfo")]
        assert info["reason"] == "INVALID_AGENT_RESPONSE"
        assert info["metadata"]["agent"] == agent.id
        # Redirects are not followed, and what may have acted is not sent twice.
        assert len(agent.seen) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x-big: " + b"a" * 70_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"x-many: a\r\n" * 300 + b"content-length: 2\r\n\r\n{}",
        b"\x16\x03\x01 what is this\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\n{}",
    ],
    ids=["one header too big", "too many headers", "no HTTP", "two lengths"],
)
async def test_broken_http_of_an_agent_is_an_error_and_the_hub_goes_on(hub: HubProcess, raw: bytes) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.send(raw)

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
    assert reply.status == 200
    assert reply.json["error"]["code"] in (-32006, -32603)
    assert (await say(hub, "GET", "/readyz")).status == 200


async def test_answers_are_never_asked_for_compressed_and_a_compressed_one_is_refused(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        packed = gzip.compress(json.dumps(message_answer(request)).encode())
        wire.answer(packed, headers={"content-encoding": "gzip"})

    async with registered_agent(hub, raw_agent(script)) as agent:
        asking = V10 | {"accept-encoding": "gzip, br"}
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=asking)
        assert agent.seen[0].headers.get("accept-encoding", "identity") == "identity"
    assert reply.json["error"]["code"] == -32006


async def test_large_message_goes_both_ways(hub: HubProcess) -> None:
    text = "0123456789" * 200_000

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(message_answer(request, text=request.json["params"]["message"]["parts"][0]["text"]))

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params(text)), headers=V10)
    assert reply.json["result"]["message"]["parts"][0]["text"] == text


async def test_expired_keep_alive_connections_cost_no_call(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        for _ in range(10):
            reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
            assert "result" in reply.json, reply.body
            agent.kill_connections()


async def test_owner_record_is_made_from_a_task_in_an_answer(hub: HubProcess) -> None:
    async with registered_agent(
        hub, raw_agent(answering(lambda request: task_answer(request, task="t-of-bytes")))
    ) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        listed = await say(hub, "POST", f"/a2a/{agent.id}", rpc("ListTasks", {}), headers=V10)
    assert [task["id"] for task in listed.json["result"]["tasks"]] == ["t-of-bytes"]
