"""Whole requests and answers between every pair of dialects: untouched where they are the same, else translated."""

import contextlib

import msgspec
import pytest
from a2a.compat.v0_3 import types as types_0_3
from a2a.types import a2a_pb2
from google.protobuf.json_format import ParseDict

from meshway.kernel.errors import InvalidRequest, OperationUnsupported, UpstreamInvalid
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Binding, Dialect, Version
from meshway.protocols.a2a.inbound import decode_reply
from meshway.protocols.a2a.outbound import encode_request
from meshway.protocols.a2a.requests import A2ARequest, read_jsonrpc, read_rest
from meshway.registry.values import AgentInterface
from meshway.tasks.values import TaskState
from support.a2a_wire_samples import DIALECTS, MESSAGE, MOMENT, PAIR_NAMES, PAIRS, get_task, interface, rest, rpc, send

JSON = b"application/json"
CORE_TASK = {
    "id": "t-1",
    "contextId": "c-1",
    "status": {"state": "TASK_STATE_COMPLETED", "timestamp": MOMENT},
    "artifacts": [{"artifactId": "a", "parts": [{"text": "done"}], "x-vendor": 1}],
    "x-vendor": {"deep": True},
}
JSON_TASK = {
    "kind": "task",
    "id": "t-1",
    "contextId": "c-1",
    "status": {"state": "completed", "timestamp": MOMENT},
    "artifacts": [{"artifactId": "a", "parts": [{"kind": "text", "text": "done"}], "x-vendor": 1}],
    "x-vendor": {"deep": True},
}


def answer(dialect: Dialect, *, sent: bool, request_id: object = 7) -> bytes:
    """The answer with the task that an agent of this dialect gives to a send, or to a get."""
    if dialect is JSONRPC_0_3:
        return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": JSON_TASK})
    result = {"task": CORE_TASK} if sent else CORE_TASK
    if dialect is JSONRPC_1_0:
        return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": result})
    return msgspec.json.encode(result)


def reread(wire, dialect: Dialect) -> A2ARequest:
    """What the hub sends, read as an agent of that dialect (or another hub) would."""
    version = dict(wire.headers).get(b"a2a-version")
    text = version.decode() if version else None
    if dialect.binding is Binding.JSONRPC:
        assert (wire.method, wire.path) == (b"POST", "")
        return read_jsonrpc(wire.body, version=text, content_type="application/json")
    return read_rest(
        wire.method.decode(), wire.path, wire.query, wire.body, version=text, content_type="application/json"
    )


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("stream", [False, True], ids=["send", "stream"])
def test_a_message_reaches_an_agent_of_every_dialect(client, agent, stream):
    request = send(client, stream=stream, taskId="t-1", contextId="c-1")
    wire = encode_request(request, interface(agent))
    got = reread(wire, agent)
    assert got.dialect is agent
    assert got.operation is request.operation
    assert (got.message_id, got.task_id, got.context_id, got.blocking) == ("m-1", "t-1", "c-1", True)
    assert b"x-vendor" in wire.body
    if client is agent:
        assert wire.body is request.body
    accept = dict(wire.headers)[b"accept"]
    assert accept.startswith(b"text/event-stream") is stream


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("sent", [True, False], ids=["send", "get"])
def test_a_task_comes_back_from_an_agent_of_every_dialect(client, agent, sent):
    request = send(client) if sent else get_task(client)
    body = answer(agent, sent=sent)
    reply = decode_reply(request, interface(agent), 200, JSON, body)
    assert reply.status == 200
    assert msgspec.json.decode(reply.body) == msgspec.json.decode(answer(client, sent=sent))
    if client is agent:
        assert reply.body is body
    assert reply.task is not None
    assert (reply.task.task_id, reply.task.context_id) == ("t-1", "c-1")
    assert (reply.task.state, reply.task.timestamp_ms) == (TaskState.COMPLETED, 1795330800123)


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_a_get_reaches_an_agent_of_every_dialect(client, agent):
    got = (
        reread(encode_request(get_task(client, "t/1 ü"), interface(agent)), agent)
        if client.binding is Binding.JSONRPC
        else (reread(encode_request(get_task(client, "t%2F1%20%C3%BC"), interface(agent)), agent))
    )
    assert got.task_id == "t/1 ü"
    history = dict(got.query).get("historyLength") or msgspec.json.decode(got.params)["historyLength"]
    assert int(history) == 3


@pytest.mark.parametrize(
    ("request_", "agent", "method", "path", "query", "body"),
    [
        (
            rpc("CancelTask", {"id": "t", "metadata": {"a": 1}}),
            REST_1_0,
            b"POST",
            "/tasks/t:cancel",
            "",
            {"id": "t", "metadata": {"a": 1}},
        ),
        (
            rpc("CancelTask", {"id": "t", "metadata": {"a": 1}}),
            REST_0_3,
            b"POST",
            "/v1/tasks/t:cancel",
            "",
            {"metadata": {"a": 1}},
        ),
        (rpc("tasks/resubscribe", {"id": "t"}), REST_1_0, b"POST", "/tasks/t:subscribe", "", None),
        (rpc("SubscribeToTask", {"id": "t"}), REST_0_3, b"POST", "/v1/tasks/t:subscribe", "", None),
        (
            rpc("ListTasks", {"pageSize": 5, "includeArtifacts": True}),
            REST_1_0,
            b"GET",
            "/tasks",
            "pageSize=5&includeArtifacts=true",
            None,
        ),
        (rpc("GetExtendedAgentCard", {}), REST_0_3, b"GET", "/v1/card", "", None),
        (rpc("agent/getAuthenticatedExtendedCard", {}), REST_1_0, b"GET", "/extendedAgentCard", "", None),
        (
            rpc("DeleteTaskPushNotificationConfig", {"taskId": "t", "id": "c"}),
            REST_1_0,
            b"DELETE",
            "/tasks/t/pushNotificationConfigs/c",
            "",
            None,
        ),
        (
            rpc("tasks/pushNotificationConfig/get", {"id": "t"}),
            REST_1_0,
            b"GET",
            "/tasks/t/pushNotificationConfigs/t",
            "",
            None,
        ),
        (
            rpc("tasks/pushNotificationConfig/list", {"id": "t"}),
            REST_1_0,
            b"GET",
            "/tasks/t/pushNotificationConfigs",
            "",
            None,
        ),
    ],
)
def test_each_operation_takes_its_place_in_http(request_, agent, method, path, query, body):
    wire = encode_request(request_, interface(agent))
    assert (wire.method, wire.path, wire.query) == (method, path, query)
    assert (msgspec.json.decode(wire.body) if wire.body else None) == body
    assert (b"content-type" in dict(wire.headers)) is bool(wire.body)


@pytest.mark.parametrize(
    ("request_", "agent", "method", "params"),
    [
        (
            rest("GET", "/tasks", query="pageSize=5&includeArtifacts=True&contextId=c"),
            JSONRPC_1_0,
            "ListTasks",
            {"pageSize": 5, "includeArtifacts": True, "contextId": "c"},
        ),
        (
            rest("GET", "/tasks/t/pushNotificationConfigs/c"),
            JSONRPC_1_0,
            "GetTaskPushNotificationConfig",
            {"taskId": "t", "id": "c"},
        ),
        (
            rest("GET", "/tasks/t/pushNotificationConfigs/c"),
            JSONRPC_0_3,
            "tasks/pushNotificationConfig/get",
            {"id": "t", "pushNotificationConfigId": "c"},
        ),
        (
            rest("GET", "/tasks/t/pushNotificationConfigs"),
            JSONRPC_0_3,
            "tasks/pushNotificationConfig/list",
            {"id": "t"},
        ),
        (
            rest("DELETE", "/v1/tasks/t/pushNotificationConfigs/c"),
            JSONRPC_1_0,
            "DeleteTaskPushNotificationConfig",
            {"taskId": "t", "id": "c"},
        ),
        (rest("POST", "/tasks/t:cancel"), JSONRPC_0_3, "tasks/cancel", {"id": "t"}),
        (rest("GET", "/tasks/t:subscribe"), JSONRPC_0_3, "tasks/resubscribe", {"id": "t"}),
        (rest("GET", "/acme/tasks/t"), JSONRPC_1_0, "GetTask", {"id": "t", "tenant": "acme"}),
        (
            rest("POST", "/tasks/t/pushNotificationConfigs", {"id": "c", "url": "http://x"}),
            JSONRPC_0_3,
            "tasks/pushNotificationConfig/set",
            {"taskId": "t", "pushNotificationConfig": {"id": "c", "url": "http://x"}},
        ),
        (
            rest(
                "POST",
                "/v1/tasks/t/pushNotificationConfigs",
                {"parent": "tasks/t", "configId": "c", "config": {"pushNotificationConfig": {"url": "http://x"}}},
            ),
            JSONRPC_1_0,
            "CreateTaskPushNotificationConfig",
            {"taskId": "t", "id": "c", "url": "http://x"},
        ),
    ],
)
def test_each_http_operation_takes_its_place_in_json_rpc(request_, agent, method, params):
    wire = encode_request(request_, interface(agent))
    body = msgspec.json.decode(wire.body)
    assert (body["jsonrpc"], body["method"], body["params"]) == ("2.0", method, params)
    assert isinstance(body["id"], int)


@pytest.mark.parametrize("agent", [JSONRPC_0_3, REST_0_3])
def test_listing_tasks_does_not_exist_in_0_3(agent):
    with pytest.raises(OperationUnsupported, match="ListTasks"):
        encode_request(rpc("ListTasks", {}), interface(agent))


def test_an_instance_that_speaks_only_grpc_cannot_be_asked():
    with pytest.raises(OperationUnsupported, match="GRPC"):
        encode_request(send(JSONRPC_1_0), AgentInterface(url="h:1", binding="GRPC", version="1.0"))


def test_versions_are_matched_by_their_numbers_not_their_spelling():
    patch = AgentInterface(url="http://a", binding="jsonrpc", version="1.0.1")
    request = send(JSONRPC_1_0)
    assert encode_request(request, patch).body is request.body
    assert encode_request(send(JSONRPC_0_3), AgentInterface(url="http://a", binding="JSONRPC", version="0.3.0")).headers


def test_the_version_header_is_that_of_the_agent():
    assert dict(encode_request(send(JSONRPC_0_3), interface(JSONRPC_1_0)).headers)[b"a2a-version"] == b"1.0"
    assert b"a2a-version" not in dict(encode_request(send(JSONRPC_1_0), interface(JSONRPC_0_3)).headers)


def test_extensions_are_asked_for_under_the_agent_s_own_header_name():
    request = send(JSONRPC_1_0)
    request.extensions = "https://example.com/a,https://example.com/b"
    headers = dict(encode_request(request, interface(JSONRPC_1_0)).headers)
    assert headers[b"a2a-extensions"] == b"https://example.com/a,https://example.com/b"
    headers = dict(encode_request(request, interface(JSONRPC_0_3)).headers)
    assert headers[b"x-a2a-extensions"] == b"https://example.com/a,https://example.com/b"


@pytest.mark.parametrize("client", DIALECTS)
def test_the_agent_s_tenant_is_put_where_its_binding_wants_it(client):
    wire = encode_request(send(client), interface(JSONRPC_1_0, tenant="acme"))
    assert msgspec.json.decode(wire.body)["params"]["tenant"] == "acme"
    wire = encode_request(send(client), interface(REST_1_0, tenant="ac/me"))
    assert wire.path == "/ac%2Fme/message:send"
    assert b"x-vendor" in wire.body


def test_an_edit_leaves_every_other_byte_of_the_values_alone():
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","x-trace":1.50,"params":{"message":{"messageId":"m","taskId":"t",'
        b'"role":"ROLE_USER","parts":[{"data":{"big":123456789012345678901234567890,"f":1.10}}]},"metadata":{"a" : 1}}}'
    )
    request = read_jsonrpc(body, version="1.0", content_type="application/json")
    wire = encode_request(request, interface(JSONRPC_1_0), context_id="c-9")
    assert b'{"big":123456789012345678901234567890,"f":1.10}' in wire.body
    assert b'"x-trace":1.50' in wire.body
    assert b'"contextId":"c-9"' in wire.body
    assert reread(wire, JSONRPC_1_0).context_id == "c-9"


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_the_context_is_filled_in_where_the_client_named_only_the_task(client, agent):
    wire = encode_request(send(client, taskId="t-1"), interface(agent), context_id="c-9")
    assert reread(wire, agent).context_id == "c-9"
    wire = encode_request(send(client, taskId="t-1", contextId="c-1"), interface(agent), context_id="c-9")
    assert reread(wire, agent).context_id == "c-1", "what the client said stands"


def test_a_part_that_cannot_be_translated_is_named():
    request = send(JSONRPC_1_0, parts=[{"text": "a"}, {"video": "x"}])
    assert encode_request(request, interface(JSONRPC_1_0)).body is request.body
    with pytest.raises(InvalidRequest) as caught:
        encode_request(request, interface(JSONRPC_0_3))
    assert caught.value.fields[0].field == "message.parts.1"


def test_huge_numbers_and_depth_are_refused_by_the_translation_not_by_a_crash():
    for parts in (b'[{"data":1e999}]', b'[{"data":' + b"[" * 600 + b"]" * 600 + b"}]"):
        body = (
            b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m","role":"ROLE_USER","parts":'
            + parts
            + b"}}}"
        )
        request = read_jsonrpc(body, version="1.0", content_type="application/json")
        assert encode_request(request, interface(JSONRPC_1_0)).body is body
        with contextlib.suppress(InvalidRequest):
            encode_request(request, interface(JSONRPC_0_3))


def test_the_stock_models_accept_what_is_sent_to_0_3_and_to_1_0():
    wire = encode_request(send(REST_1_0), interface(JSONRPC_0_3))
    types_0_3.SendMessageRequest.model_validate_json(wire.body)
    wire = encode_request(send(JSONRPC_0_3), interface(REST_1_0))
    assert ParseDict(
        msgspec.json.decode(wire.body), a2a_pb2.SendMessageRequest(), ignore_unknown_fields=True
    ).message.role


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", DIALECTS)
@pytest.mark.parametrize("client", DIALECTS)
def test_an_upstream_error_keeps_its_meaning(client, agent):
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "TASK_NOT_FOUND",
            "domain": "a2a-protocol.org",
            "metadata": {"k": "v"},
        }
    ]
    if agent.binding is Binding.JSONRPC:
        error = {"code": -32001, "message": "no such task", "data": details}
        body, status = msgspec.json.encode({"jsonrpc": "2.0", "id": 7, "error": error}), 200
    else:
        error = {"code": 404, "status": "NOT_FOUND", "message": "no such task", "details": details}
        body, status = msgspec.json.encode({"error": error}), 404
    reply = decode_reply(get_task(client), interface(agent), status, JSON, body)
    assert reply.task is None
    if client is agent:
        assert reply.body is body
    got = msgspec.json.decode(reply.body)
    assert got["error"]["message"] == "no such task"
    if client.binding is Binding.JSONRPC:
        assert (reply.status, got["id"], got["error"]["code"]) == (200, 7, -32001)
        assert got["error"]["data"][0]["metadata"] == {"k": "v"}
    else:
        assert (reply.status, got["error"]["code"], got["error"]["status"]) == (404, 404, "NOT_FOUND")
        assert got["error"]["details"][0]["reason"] == "TASK_NOT_FOUND"
        if client is REST_0_3 and agent is not client:
            assert got["type"] == "TaskNotFoundError"


def test_codes_that_0_3_does_not_know_become_its_general_one():
    error = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32008, "message": "extension needed"}}
    reply = decode_reply(send(JSONRPC_0_3), interface(JSONRPC_1_0), 200, JSON, msgspec.json.encode(error))
    assert msgspec.json.decode(reply.body)["error"]["code"] == -32603


def test_an_error_of_the_old_http_sdk_is_understood():
    body = b'{"type":"TaskNotCancelableError","message":"done already"}'
    reply = decode_reply(rpc("CancelTask", {"id": "t"}), interface(REST_0_3), 409, JSON, body)
    assert msgspec.json.decode(reply.body)["error"]["code"] == -32002


def test_a_json_rpc_error_behind_an_http_error_is_shown_with_200():
    body = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"boom"}}'
    reply = decode_reply(send(JSONRPC_1_0), interface(JSONRPC_1_0), 500, JSON, body)
    assert (reply.status, reply.body) == (200, body)


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("agent", DIALECTS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html>Bad Gateway</html>"),
        (200, b"<html>hello</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b"7"),
        (302, b""),
        (500, b'{"detail":"Internal Server Error"}'),
        (200, b"[" * 100000),
        (200, b"\xff"),
    ],
)
def test_what_is_not_a2a_is_told_apart(client, agent, status, body):
    with pytest.raises(UpstreamInvalid) as caught:
        decode_reply(send(client), interface(agent), status, b"text/html", body)
    assert caught.value.may_have_acted


def test_a_json_rpc_answer_needs_a_result_or_an_error():
    with pytest.raises(UpstreamInvalid, match="neither"):
        decode_reply(send(JSONRPC_1_0), interface(JSONRPC_1_0), 200, JSON, b'{"jsonrpc":"2.0","id":7}')


def test_an_answer_of_a_later_version_passes_where_nothing_must_be_translated():
    body = b'{"jsonrpc":"2.0","id":7,"result":{"task":"a reference, perhaps"}}'
    reply = decode_reply(send(JSONRPC_1_0), interface(JSONRPC_1_0), 200, JSON, body)
    assert reply.body is body
    assert reply.task is None


@pytest.mark.parametrize("state", ["TASK_STATE_WORKING", 2])
def test_a_task_is_noticed_with_whatever_it_says_of_its_time(state):
    for moment, expected in ((MOMENT, 1795330800123), ("2026-11-22T08:00:00.123+01:00", 1795330800123), ("soon", None)):
        task = {"id": "t", "status": {"state": state, "timestamp": moment}}
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 7, "result": {"task": task}})
        seen = decode_reply(send(JSONRPC_1_0), interface(JSONRPC_1_0), 200, JSON, body).task
        assert (seen.task_id, seen.context_id, seen.state, seen.timestamp_ms) == (
            "t",
            None,
            TaskState.WORKING,
            expected,
        )


def test_a_message_is_no_task():
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 7, "result": {"message": MESSAGE}})
    assert decode_reply(send(JSONRPC_1_0), interface(JSONRPC_1_0), 200, JSON, body).task is None
    body = (
        b'{"jsonrpc":"2.0","id":7,"result":{"kind":"message","taskId":"t","messageId":"m","role":"agent","parts":[]}}'
    )
    assert decode_reply(send(JSONRPC_0_3), interface(JSONRPC_0_3), 200, JSON, body).task is None


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("agent", DIALECTS)
def test_a_deleted_push_config_is_answered_as_each_binding_does(client, agent):
    params = {"id": "t", "pushNotificationConfigId": "c"}
    request = {
        JSONRPC_1_0: lambda: rpc("DeleteTaskPushNotificationConfig", {"taskId": "t", "id": "c"}),
        JSONRPC_0_3: lambda: rpc("tasks/pushNotificationConfig/delete", params),
        REST_1_0: lambda: rest("DELETE", "/tasks/t/pushNotificationConfigs/c"),
        REST_0_3: lambda: rest("DELETE", "/v1/tasks/t/pushNotificationConfigs/c"),
    }[client]()
    body = b'{"jsonrpc":"2.0","id":7,"result":null}' if agent.binding is Binding.JSONRPC else b"{}"
    reply = decode_reply(request, interface(agent), 200, JSON, body)
    if client.binding is Binding.JSONRPC:
        assert msgspec.json.decode(reply.body) == {"jsonrpc": "2.0", "id": 7, "result": None}
    else:
        assert msgspec.json.decode(reply.body) == {}
    assert client.version in Version
