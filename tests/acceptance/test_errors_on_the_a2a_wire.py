"""What the hub says when a call cannot be made, in each dialect, as the contract's tables have it."""

import asyncio
import json
import time
from collections.abc import Mapping

import pytest

from support.hub_process import HubProcess
from support.ports import free_port
from support.raw_agent import RawRequest, Wire, message_answer, raw_agent, registered_agent
from support.wire_client import V03, V10, Reply, open_stream, rpc, say, send_params

OLD_PARAMS = {
    "message": {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}], "kind": "message"}
}
SEND_10 = rpc("SendMessage", send_params())
SEND_03 = rpc("message/send", OLD_PARAMS)
# How a message is sent in each dialect: path below the agent, body, headers.
SENDING: dict[str, tuple[str, object, Mapping[str, str]]] = {
    "j10": ("", SEND_10, V10),
    "j03": ("", SEND_03, V03),
    "r10": ("/message:send", send_params(), V10),
    "r03": (
        "/v1/message:send",
        {"request": {"messageId": "m", "role": "ROLE_USER", "content": [{"text": "hi"}]}},
        V03,
    ),
}
every_dialect = pytest.mark.parametrize("dialect", SENDING)


async def send_as(hub: HubProcess, agent: str, dialect: str, headers: Mapping[str, str] | None = None) -> Reply:
    path, body, own = SENDING[dialect]
    return await say(hub, "POST", f"/a2a/{agent}{path}", body, headers={**own, **(headers or {})})


def error_of(reply: Reply) -> dict:
    return reply.json["error"]


def info_of(reply: Reply) -> dict:
    """The ErrorInfo of an error in either binding."""
    error = error_of(reply)
    details = error.get("data") or error.get("details") or []
    (info,) = [each for each in details if each["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"]
    return info


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{nonsense", V10, -32700),
        (b"", V10, -32700),
        (b"\xff\xfe", V10, -32700),
        (json.dumps([SEND_10]).encode(), V10, -32600),
        (b'"text"', V10, -32600),
        (json.dumps(SEND_10 | {"jsonrpc": "1.0"}).encode(), V10, -32600),
        (json.dumps(SEND_10 | {"id": True}).encode(), V10, -32600),
        (json.dumps(SEND_10 | {"id": {"a": 1}}).encode(), V10, -32600),
        (json.dumps({"jsonrpc": "2.0", "id": 1}).encode(), V10, -32600),
        (rpc("DoSomething", {}), V10, -32601),
        (rpc("tasks/send", {}), V03, -32601),
        (rpc("SendMessage", None), V10, -32602),
        (rpc("SendMessage", []), V10, -32602),
        (rpc("SendMessage", {"message": {"messageId": "m", "role": "ROLE_USER"}}), V10, -32602),
        (rpc("SendMessage", send_params(messageId="")), V10, -32602),
        (rpc("SendMessage", send_params(role="ROLE_ROBOT")), V10, -32602),
        (rpc("SendMessage", send_params(parts=[])), V10, -32602),
        (rpc("GetTask", {}), V10, -32602),
        (SEND_10, V10 | {"a2a-version": "99.0"}, -32009),
        (SEND_10, V03, -32009),
        # 0.3 has no code for it.
        (SEND_03, V10, -32603),
        (SEND_10, {**V10, "content-type": "text/plain"}, -32005),
        (rpc("GetTask", {"id": "unknown"}), V10, -32001),
        (rpc("tasks/get", {"id": "unknown"}), V03, -32001),
    ],
)
async def test_wrong_json_rpc_request_gets_the_code_of_the_table(
    hub: HubProcess, body: object, headers: dict[str, str], code: int
) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", body, headers=headers)
        assert reply.status == 200
        assert reply.json["jsonrpc"] == "2.0"
        assert error_of(reply)["code"] == code, reply.body
        assert error_of(reply)["message"]
        assert agent.seen == []


async def test_request_id_comes_back_with_an_error_whatever_its_type(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        for request_id in ("a", 7, None):
            wrong = rpc("NoSuch", {}, request_id=request_id)
            reply = await say(hub, "POST", f"/a2a/{agent.id}", wrong, headers=V10)
            assert reply.json["id"] == request_id
        reply = await say(hub, "POST", f"/a2a/{agent.id}", b"{", headers=V10)
        assert reply.json["id"] is None


async def test_every_wrong_field_of_a_message_is_named(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        wrong = rpc("SendMessage", {"message": {"role": 7, "parts": "x"}})
        reply = await say(hub, "POST", f"/a2a/{agent.id}", wrong, headers=V10)
    (bad,) = [each for each in error_of(reply)["data"] if each["@type"].endswith("BadRequest")]
    fields = {each["field"] for each in bad["fieldViolations"]}
    assert {"message.messageId", "message.role", "message.parts"} <= fields
    assert all(each["description"] for each in bad["fieldViolations"])


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("POST", "/message:send", b"{nonsense", V10, 400, "INVALID_JSON"),
        ("POST", "/message:send", {}, V10, 400, "INVALID_PARAMS"),
        ("POST", "/message:send", send_params(), V10 | {"a2a-version": "99.0"}, 400, "VERSION_NOT_SUPPORTED"),
        ("POST", "/message:send", send_params(), V03, 400, "VERSION_NOT_SUPPORTED"),
        ("POST", "/message:send", send_params(), V10 | {"content-type": "text/html"}, 400, None),
        ("GET", "/tasks/unknown", None, V10, 404, "TASK_NOT_FOUND"),
        ("POST", "/tasks/unknown:cancel", None, V10, 404, "TASK_NOT_FOUND"),
        ("GET", "/tasks/unknown:subscribe", None, V10, 404, "TASK_NOT_FOUND"),
        ("POST", "/tasks/unknown:subscribe", None, V10, 404, "TASK_NOT_FOUND"),
        ("GET", "/v1/tasks/unknown", None, V03, 404, "TASK_NOT_FOUND"),
        ("GET", "/nothing/here", None, V10, 404, None),
        ("GET", "/tasks?pageSize=0", None, V10, 400, "INVALID_PARAMS"),
        ("GET", "/tasks?pageSize=101", None, V10, 400, "INVALID_PARAMS"),
        ("GET", "/tasks?pageToken=nonsense", None, V10, 400, "INVALID_PARAMS"),
    ],
)
async def test_wrong_rest_request_gets_the_status_of_the_table(
    hub: HubProcess,
    method: str,
    path: str,
    body: object,
    headers: dict[str, str],
    status: int,
    reason: str | None,
) -> None:
    async with registered_agent(hub, raw_agent(interfaces=[("HTTP+JSON", "1.0")])) as agent:
        reply = await say(hub, method, f"/a2a/{agent.id}{path}", body, headers=headers)
        assert reply.status == status, reply.body
        assert error_of(reply)["code"] == status
        assert error_of(reply)["status"] in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
        if reason is not None:
            assert info_of(reply)["reason"] == reason
        assert agent.seen == []


@every_dialect
async def test_unknown_agent_is_http_404_in_every_dialect(hub: HubProcess, dialect: str) -> None:
    reply = await send_as(hub, "nobody-here", dialect)
    assert reply.status == 404
    assert info_of(reply)["reason"] == "AGENT_NOT_FOUND"
    assert "nobody-here" in error_of(reply)["message"]


async def test_browser_at_the_address_of_an_agent_is_told_what_lives_there(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        for method in ("GET", "PUT", "DELETE"):
            reply = await say(hub, method, f"/a2a/{agent.id}")
            assert reply.status == 404
            assert ".well-known/agent-card.json" in error_of(reply)["message"]


async def test_card_of_an_unknown_agent_is_http_404(hub: HubProcess) -> None:
    assert (await say(hub, "GET", "/a2a/nobody-here/.well-known/agent-card.json")).status == 404


@every_dialect
async def test_call_without_a_key_is_401_and_says_how_to_get_one(keyed, dialect: str) -> None:
    async with registered_agent(keyed.hub, raw_agent()) as agent:
        reply = await send_as(keyed.hub, agent.id, dialect)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert "meshway keys create" in error_of(reply)["message"]
        assert agent.seen == []


@every_dialect
async def test_key_without_the_call_scope_is_403(keyed, dialect: str) -> None:
    async with registered_agent(keyed.hub, raw_agent()) as agent:
        reply = await send_as(keyed.hub, agent.id, dialect, keyed.server)
        assert reply.status == 403
        assert "call" in error_of(reply)["message"]
        assert agent.seen == []


@every_dialect
async def test_agent_that_is_gone_is_an_error_that_names_it(hub: HubProcess, dialect: str) -> None:
    card = raw_agent(port=free_port()).card
    agent_id = f"gone-{dialect}"
    status, _, answer = await asyncio.to_thread(hub.request, "POST", "/v1/agents", {"id": agent_id, "card": card})
    assert status == 201, answer
    reply = await send_as(hub, agent_id, dialect)
    if dialect.startswith("j"):
        assert reply.status == 200
        assert error_of(reply)["code"] == -32603
    else:
        assert reply.status == 503
    info = info_of(reply)
    assert info["reason"] == "UPSTREAM_UNAVAILABLE"
    assert info["metadata"]["agent"] == agent_id
    assert "mayHaveActed" not in info["metadata"]
    assert int(reply.headers["retry-after"]) >= 1


@every_dialect
async def test_deadline_of_the_caller_ends_the_wait_and_the_call_of_the_agent(hub: HubProcess, dialect: str) -> None:
    closed_after_s: list[float] = []

    async def script(request: RawRequest, wire: Wire) -> None:
        began = time.monotonic()
        await wire.closed.wait()
        closed_after_s.append(time.monotonic() - began)

    async with registered_agent(hub, raw_agent(script)) as agent:
        began = time.monotonic()
        reply = await send_as(hub, agent.id, dialect, {"meshway-timeout-ms": "300"})
        took = time.monotonic() - began
        await agent.scripts_ended()
        assert len(agent.seen) == 1
    assert 0.25 <= took < 1.3
    assert closed_after_s[0] < 1.3
    if dialect.startswith("j"):
        assert (reply.status, error_of(reply)["code"]) == (200, -32603)
    else:
        assert reply.status == 504
    assert info_of(reply)["reason"] == "DEADLINE_EXCEEDED"
    assert info_of(reply)["metadata"] == {"code": "deadline_exceeded", "agent": agent.id, "mayHaveActed": "true"}


async def test_deadline_ends_half_an_answer_too(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"jsonrpc"')
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await send_as(hub, agent.id, "j10", {"meshway-timeout-ms": "300"})
    assert info_of(reply)["reason"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("record", ["off", "all"])
async def test_deadline_of_a_stream_is_its_last_event(hub: HubProcess, record: str) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.start_stream()
        wire.event({"task": {"id": "t-late", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})
        await wire.closed.wait()

    async with registered_agent(hub, raw_agent(script), settings={"record": record}) as agent:
        call, headers = rpc("SendStreamingMessage", send_params(), request_id="x"), V10 | {"meshway-timeout-ms": "400"}
        async with await open_stream(hub, "POST", f"/a2a/{agent.id}", call, headers=headers) as stream:
            events = await stream.rest()
        if record == "off":
            # What is recorded is read to its end, however long its client waits.
            await agent.scripts_ended()
    assert [("result" in event, "error" in event) for event in events] == [(True, False), (False, True)]
    assert events[1]["id"] == "x"
    assert events[1]["error"]["data"][0]["reason"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("wrong", ["soon", "-1", "0", "1.5", "99999999999"])
async def test_deadline_that_is_no_number_of_milliseconds_is_refused(hub: HubProcess, wrong: str) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await send_as(hub, agent.id, "j10", {"meshway-timeout-ms": wrong})
        assert error_of(reply)["code"] == -32602
        assert "Meshway-Timeout-Ms" in error_of(reply)["message"]
        assert agent.seen == []


async def test_agent_that_dies_before_its_answer_is_an_error_and_not_asked_twice(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.die()

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await send_as(hub, agent.id, "j10")
        assert len(agent.seen) == 1
    assert reply.status == 200
    assert info_of(reply)["reason"] == "UPSTREAM_BROKEN"
    assert info_of(reply)["metadata"]["mayHaveActed"] == "true"


async def test_agent_that_dies_within_its_answer_is_an_error(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        whole = json.dumps(message_answer(request)).encode()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(whole))
        wire.send(whole[:20])
        wire.die()

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await send_as(hub, agent.id, "j10")
        assert len(agent.seen) == 1
    assert reply.status == 200
    assert error_of(reply)["code"] == -32603


async def test_error_before_the_first_event_is_a_plain_answer(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer({"jsonrpc": "2.0", "id": 1, "error": {"code": -32004, "message": "no streams here"}})

    async with registered_agent(hub, raw_agent(script)) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendStreamingMessage", send_params()), headers=V10)
    assert reply.headers["content-type"].startswith("application/json")
    assert error_of(reply) == {"code": -32004, "message": "no streams here"}


async def test_body_beyond_the_limit_is_413_before_it_is_read(hub: HubProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    head = f"POST /a2a/x HTTP/1.1\r\nhost: 127.0.0.1:{hub.port}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: 99000000\r\n\r\n".encode())
    async with asyncio.timeout(3):
        answer = await reader.readuntil(b"\r\n")
    writer.close()
    assert b" 413 " in answer


async def test_nesting_without_end_is_refused_and_the_hub_goes_on(hub: HubProcess) -> None:
    deep = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    async with registered_agent(hub, raw_agent()) as agent:
        reply = await say(hub, "POST", f"/a2a/{agent.id}", deep, headers=V10)
        assert error_of(reply)["code"] in (-32700, -32602, -32600)
        assert "result" in (await send_as(hub, agent.id, "j10")).json
