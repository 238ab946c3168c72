"""What the hub accepts, what it reads, and what it refuses with which error."""

import json

import msgspec
import pytest

from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, negotiate_version
from meshway.protocols.a2a.errors import render_error
from meshway.protocols.a2a.requests import RequestRefused, is_rest_path, read_jsonrpc, read_rest
from support.a2a_wire_samples import MESSAGE, MESSAGE_0_3, MESSAGE_0_3_PROTO, envelope, rest, rpc, send

JSON = "application/json"
SEND = envelope("SendMessage", {"message": MESSAGE})
SEND_0_3 = envelope("message/send", {"message": MESSAGE_0_3})


def refusal(body: bytes, *, version: str | None = "1.0", content_type: str | None = JSON) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        read_jsonrpc(body, version=version, content_type=content_type)
    return caught.value


def code(body: bytes, *, version: str | None = "1.0", content_type: str | None = JSON) -> int:
    """The JSON-RPC code the caller would see."""
    refused = refusal(body, version=version, content_type=content_type)
    reply = render_error(refused.error, refused.dialect, refused.request_id)
    assert reply.status == 200
    return msgspec.json.decode(reply.body)["error"]["code"]


@pytest.mark.parametrize(
    ("body", "version", "expected"),
    [
        (SEND, "1.0", None),
        (SEND, "1.1", None),
        (SEND, " 1.0.1 ", None),
        (SEND, None, -32009),
        (SEND, "", -32009),
        (SEND, "0.3", -32009),
        (SEND, "99.0", -32009),
        (SEND, "banana", -32009),
        (SEND_0_3, None, None),
        (SEND_0_3, "", None),
        (SEND_0_3, "0.3", None),
        (SEND_0_3, "0.3.0", None),
        # 0.3 does not know -32009.
        (SEND_0_3, "1.0", -32603),
        (SEND_0_3, "99.0", -32009),
        (SEND_0_3, "0.2", -32009),
    ],
)
def test_version_header_and_method_style_must_agree(body, version, expected):
    if expected is None:
        read_jsonrpc(body, version=version, content_type=JSON)
    else:
        assert code(body, version=version) == expected


def test_an_absent_version_means_0_3_and_any_1_x_is_1_0():
    assert negotiate_version(None).value == "0.3"
    assert negotiate_version("1.7").value == "1.0"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage"', -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":"\xff"}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}", -32700),
        (b"[" + SEND + b"]", -32600),
        (b"[]", -32600),
        (b'"text"', -32600),
        (b"null", -32600),
        (b'{"id":1,"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":2.0,"id":1,"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"2.0","id":[1],"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"SendMessage"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessages","params":{}}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"sendmessage","params":{}}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":null}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":7}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"CancelTask","params":{"id":""}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":".."}}', -32602),
    ],
)
def test_a_wrong_envelope_or_wrong_params_get_the_code_of_the_specification(body, expected):
    assert code(body) == expected


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_a_wrong_content_type_is_32005(content_type):
    refused = refusal(SEND, content_type=content_type)
    assert code(SEND, content_type=content_type) == -32005
    assert refused.request_id == b"7", "the caller can tell which request was meant"


@pytest.mark.parametrize(
    "content_type", [None, "application/json; charset=utf-8", "Application/JSON", "application/a2a+json"]
)
def test_json_in_any_spelling_is_taken(content_type):
    assert read_jsonrpc(SEND, version="1.0", content_type=content_type).operation is AgentOperation.SEND_MESSAGE


def test_all_missing_fields_of_a_message_are_named_at_once():
    refused = refusal(envelope("SendMessage", {"message": {"taskId": 5}, "configuration": {"returnImmediately": "no"}}))
    assert [fault.field for fault in refused.error.fields] == [
        "message.messageId",
        "message.role",
        "message.parts",
        "message.taskId",
        "configuration.returnImmediately",
    ]
    details = msgspec.json.decode(render_error(refused.error, refused.dialect, refused.request_id).body)["error"][
        "data"
    ]
    assert details[0]["reason"] == "INVALID_PARAMS"
    assert details[1]["fieldViolations"][0] == {
        "field": "message.messageId",
        "description": "is required and must be a string",
    }


@pytest.mark.parametrize("missing", ["messageId", "role", "parts"])
@pytest.mark.parametrize(("method", "message"), [("SendMessage", MESSAGE), ("message/stream", MESSAGE_0_3)])
def test_each_required_field_of_a_message_is_demanded(method, message, missing):
    body = envelope(method, {"message": {name: value for name, value in message.items() if name != missing}})
    refused = refusal(body, version=None if "/" in method else "1.0")
    assert [fault.field for fault in refused.error.fields] == [f"message.{missing}"]


@pytest.mark.parametrize("parts", [[], [{}] * 0, None, {}, "x"])
def test_a_message_without_parts_is_refused(parts):
    assert code(envelope("SendMessage", {"message": MESSAGE | {"parts": parts}})) == -32602


@pytest.mark.parametrize("request_id", [1, 0, -5, "abc", "", None, "ü\u2028", 12345678901234567890])
def test_the_id_comes_back_as_the_bytes_it_was(request_id):
    body = envelope("SendMessage", {"message": MESSAGE}, request_id)
    assert msgspec.json.decode(rpc("SendMessage", {"message": MESSAGE}, request_id).request_id) == request_id
    assert read_jsonrpc(body, version="1.0", content_type=JSON).body is body


def test_a_request_without_id_is_answered_with_null():
    body = b'{"jsonrpc":"2.0","method":"GetTask","params":{"id":"t"}}'
    assert read_jsonrpc(body, version="1.0", content_type=JSON).request_id == b"null"


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"GetTask","method":"SendMessage","params":{"message":@M}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"id":"victim"},"params":{"message":@M}}',
        b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"GetTask","method":"SendMessage","params":{"message":@M}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"taskId":"victim"},"message":@M}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"taskId":"a","taskId":"b",@N}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"task\\u0049d":"a","taskId":"b",@N}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"taskId":"a","task_id":"b",@N}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"task_id":"a","task_id":"b",@N}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"a","id":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{ "id" : "a" , "\\u0069d":"b"}}',
    ],
)
def test_a_name_given_twice_cannot_hide_a_task_from_the_hub(body):
    inner = b'"messageId":"m","role":"ROLE_USER","parts":[{"text":"x"}]'
    assert code(body.replace(b"@M", b"{" + inner + b"}", 1).replace(b"@N", inner)) in (-32600, -32602)


@pytest.mark.parametrize("name", ["TaskId", "TASKID", "taskid", "task_Id", "ta\u017fkId", "tas\u212aId"])
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("mine", [{}, {"taskId": "mine"}])
def test_a_name_that_careless_parsers_read_as_the_task_s_cannot_hide_it(name, escaped, mine):
    message = json.dumps(MESSAGE | mine | {name: "theirs"}, ensure_ascii=escaped).encode()
    body = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":%b}}' % message
    with pytest.raises(RequestRefused) as refused:
        read_jsonrpc(body, version="1.0", content_type=JSON)
    assert name in refused.value.error.detail


@pytest.mark.parametrize(
    "body",
    [
        {"method": "GetTask", "params": {"id": "mine", "ID": "theirs"}},
        {"method": "GetTask", "params": {"id": "mine"}, "Params": {"id": "theirs"}},
        {"method": "GetTask", "params": {"id": "mine"}, "Method": "CancelTask"},
        {"method": "SendMessage", "params": {"message": MESSAGE, "Message": MESSAGE | {"taskId": "theirs"}}},
        {"method": "SendMessage", "params": {"message": MESSAGE}, "PARAMS": {"message": MESSAGE}},
        {"method": "DeleteTaskPushNotificationConfig", "params": {"taskId": "mine", "id": "c", "TaskID": "theirs"}},
    ],
)
def test_a_name_in_other_letters_cannot_replace_what_the_hub_checked(body):
    with pytest.raises(RequestRefused) as refused:
        read_jsonrpc(json.dumps({"jsonrpc": "2.0", "id": 1} | body).encode(), version="1.0", content_type=JSON)
    assert refused.value.error.code in ("invalid_request", "malformed_body")


@pytest.mark.parametrize("query", ["id=theirs", "ID=theirs", "taskId=theirs", "task_id=theirs", "name=tasks/theirs"])
def test_the_query_cannot_name_another_task_than_the_path(query):
    with pytest.raises(RequestRefused):
        read_rest("GET", "/tasks/mine", query, b"", version="1.0", content_type=None)
    repeated = query.replace("theirs", "mine") + "&historyLength=2"
    assert read_rest("GET", "/tasks/mine", repeated, b"", version="1.0", content_type=None).task_id == "mine"


def test_a_task_named_in_snake_case_is_seen():
    message = {name: value for name, value in MESSAGE.items() if name != "messageId"}
    request = rpc("SendMessage", {"message": message | {"message_id": "m-9", "task_id": "t-9", "context_id": "c-9"}})
    assert (request.message_id, request.task_id, request.context_id) == ("m-9", "t-9", "c-9")


def test_names_inside_parts_and_metadata_are_nobody_s_business():
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m","role":"ROLE_USER",'
        b'"parts":[{"data":{"taskId":1,"taskId":2}},{"text":"\\u00e9 \\"taskId\\": x"}],"metadata":{"taskId":"z"}}}}'
    )
    assert read_jsonrpc(body, version="1.0", content_type=JSON).task_id is None


@pytest.mark.parametrize(
    ("method", "params", "task_id", "config_id"),
    [
        ("GetTask", {"id": "t"}, "t", None),
        ("CancelTask", {"id": "t"}, "t", None),
        ("SubscribeToTask", {"id": "t"}, "t", None),
        ("CreateTaskPushNotificationConfig", {"taskId": "t", "id": "c", "url": "http://x"}, "t", "c"),
        ("CreateTaskPushNotificationConfig", {"taskId": "t", "url": "http://x"}, "t", None),
        ("GetTaskPushNotificationConfig", {"taskId": "t", "id": "c"}, "t", "c"),
        ("DeleteTaskPushNotificationConfig", {"task_id": "t", "id": "c"}, "t", "c"),
        ("ListTaskPushNotificationConfigs", {"taskId": "t"}, "t", None),
        ("ListTasks", {}, None, None),
        ("GetExtendedAgentCard", {}, None, None),
        ("tasks/get", {"id": "t"}, "t", None),
        ("tasks/resubscribe", {"id": "t"}, "t", None),
        (
            "tasks/pushNotificationConfig/set",
            {"taskId": "t", "pushNotificationConfig": {"id": "c", "url": "u"}},
            "t",
            "c",
        ),
        ("tasks/pushNotificationConfig/get", {"id": "t"}, "t", None),
        ("tasks/pushNotificationConfig/get", {"id": "t", "pushNotificationConfigId": "c"}, "t", "c"),
        ("tasks/pushNotificationConfig/delete", {"id": "t", "pushNotificationConfigId": "c"}, "t", "c"),
        ("tasks/pushNotificationConfig/list", {"id": "t"}, "t", None),
        ("agent/getAuthenticatedExtendedCard", {}, None, None),
    ],
)
def test_the_ids_of_each_operation_are_read_where_its_version_puts_them(method, params, task_id, config_id):
    request = rpc(method, params)
    assert (request.task_id, request.config_id) == (task_id, config_id)


@pytest.mark.parametrize(
    ("params", "field"),
    [({"taskId": "t"}, "id"), ({"id": "c"}, "taskId")],
)
def test_a_push_config_is_named_by_task_and_config(params, field):
    refused = refusal(envelope("GetTaskPushNotificationConfig", params))
    assert [fault.field for fault in refused.error.fields] == [field]


@pytest.mark.parametrize(
    ("method", "configuration", "blocking"),
    [
        ("SendMessage", None, True),
        ("SendMessage", {}, True),
        ("SendMessage", {"returnImmediately": True}, False),
        ("SendMessage", {"return_immediately": True}, False),
        ("message/send", {}, True),
        ("message/send", {"blocking": False}, False),
        ("message/send", {"blocking": True}, True),
    ],
)
def test_whether_the_client_waits_is_read_from_the_configuration(method, configuration, blocking):
    message = MESSAGE_0_3 if "/" in method else MESSAGE
    assert rpc(method, {"message": message, "configuration": configuration}).blocking is blocking


def test_a_0_3_http_client_that_leaves_blocking_out_of_its_configuration_does_not_wait():
    body = {"message": MESSAGE_0_3_PROTO, "configuration": {"acceptedOutputModes": ["text/plain"]}}
    assert rest("POST", "/v1/message:send", body).blocking is False
    assert rest("POST", "/v1/message:send", {"request": MESSAGE_0_3_PROTO}).blocking is True


# --- HTTP+JSON --------------------------------------------------------------------------------------------------------

_Op = AgentOperation


@pytest.mark.parametrize(
    ("method", "path", "dialect", "operation", "tenant", "task_id", "config_id"),
    [
        ("GET", "/tasks", REST_1_0, _Op.LIST_TASKS, None, None, None),
        ("GET", "/acme/tasks", REST_1_0, _Op.LIST_TASKS, "acme", None, None),
        ("GET", "/tasks/t-1", REST_1_0, _Op.GET_TASK, None, "t-1", None),
        ("GET", "/tasks/a%2Fb%20c", REST_1_0, _Op.GET_TASK, None, "a/b c", None),
        ("GET", "/tasks/urn:x:1", REST_1_0, _Op.GET_TASK, None, "urn:x:1", None),
        ("POST", "/tasks/urn:x:1:cancel", REST_1_0, _Op.CANCEL_TASK, None, "urn:x:1", None),
        ("POST", "/tasks/t:subscribe", REST_1_0, _Op.SUBSCRIBE_TASK, None, "t", None),
        ("GET", "/tasks/t:subscribe", REST_1_0, _Op.SUBSCRIBE_TASK, None, "t", None),
        ("GET", "/acme%20x/tasks/t:subscribe", REST_1_0, _Op.SUBSCRIBE_TASK, "acme x", "t", None),
        ("GET", "/tasks/t/pushNotificationConfigs", REST_1_0, _Op.LIST_PUSH_CONFIGS, None, "t", None),
        ("GET", "/tasks/t/pushNotificationConfigs/c", REST_1_0, _Op.GET_PUSH_CONFIG, None, "t", "c"),
        ("DELETE", "/acme/tasks/t/pushNotificationConfigs/c", REST_1_0, _Op.DELETE_PUSH_CONFIG, "acme", "t", "c"),
        ("GET", "/extendedAgentCard", REST_1_0, _Op.GET_EXTENDED_CARD, None, None, None),
        ("GET", "/v1/card", REST_0_3, _Op.GET_EXTENDED_CARD, None, None, None),
        ("GET", "/v1/tasks/t", REST_0_3, _Op.GET_TASK, None, "t", None),
        ("POST", "/v1/tasks/t:cancel", REST_0_3, _Op.CANCEL_TASK, None, "t", None),
        ("GET", "/v1/tasks/t:subscribe", REST_0_3, _Op.SUBSCRIBE_TASK, None, "t", None),
        ("DELETE", "/v1/tasks/t/pushNotificationConfigs/c", REST_0_3, _Op.DELETE_PUSH_CONFIG, None, "t", "c"),
    ],
)
def test_each_path_is_read(method, path, dialect, operation, tenant, task_id, config_id):
    request = rest(method, path)
    assert (request.dialect, request.operation) == (dialect, operation)
    assert (request.tenant, request.task_id, request.config_id) == (tenant, task_id, config_id)
    assert request.http_method == method.encode()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/message",
        "/message:sent",
        "/v1/tasks",
        "/v1/acme/tasks/t",
        "/tasks/",
        "/tasks//x",
        "/a/b/tasks/t",
        "/tasks/t/other",
        "/tasks/t/pushNotificationConfigs/c/d",
        "/v2/message:send/x",
        "/v1/extendedAgentCard",
    ],
)
def test_other_paths_are_not_found(path):
    assert not is_rest_path(path)
    with pytest.raises(RequestRefused) as caught:
        read_rest("GET", path, "", b"", version="1.0", content_type=None)
    assert render_error(caught.value.error, caught.value.dialect).status == 404


def _rest_refusal(method, path, body=b"", *, query="", version="1.0", content_type=JSON):
    with pytest.raises(RequestRefused) as caught:
        read_rest(method, path, query, body, version=version, content_type=content_type)
    reply = render_error(caught.value.error, caught.value.dialect)
    return reply.status, msgspec.json.decode(reply.body)["error"]


def test_http_errors_have_the_status_and_reason_of_the_specification():
    body = msgspec.json.encode({"message": MESSAGE})
    assert _rest_refusal("GET", "/message:send")[0] == 404
    status, error = _rest_refusal("POST", "/message:send", body, version=None)
    assert (status, error["details"][0]["reason"]) == (400, "VERSION_NOT_SUPPORTED")
    assert _rest_refusal("GET", "/v1/tasks/t", version="1.0")[0] == 400
    status, error = _rest_refusal("POST", "/message:send", body, content_type="text/plain")
    assert (status, error["details"][0]["reason"]) == (400, "CONTENT_TYPE_NOT_SUPPORTED")
    assert _rest_refusal("POST", "/message:send", b"{")[1]["details"][0]["reason"] == "INVALID_JSON"
    assert _rest_refusal("POST", "/message:send", b"")[1]["status"] == "INVALID_ARGUMENT"
    assert _rest_refusal("POST", "/message:send", b"\xff")[0] == 400
    assert _rest_refusal("GET", "/tasks/..")[0] == 400
    assert _rest_refusal("GET", "/tasks/%2E%2E")[0] == 400
    assert _rest_refusal("GET", "/tasks", query="&".join(f"a{n}=1" for n in range(100)))[0] == 400


def test_the_version_may_come_as_a_query_parameter_and_is_not_sent_on():
    request = read_rest(
        "GET", "/tasks/t", "A2A-Version=1.0&historyLength=2", b"", version=None, content_type=None, extensions="u"
    )
    assert request.query == (("historyLength", "2"),)
    assert request.extensions == "u"


def test_a_body_may_repeat_the_path_but_not_contradict_it():
    assert rest("POST", "/tasks/t:cancel", {"id": "t"}).task_id == "t"
    with pytest.raises(RequestRefused):
        rest("POST", "/tasks/t:cancel", {"id": "other"})
    with pytest.raises(RequestRefused):
        rest("POST", "/tasks/t/pushNotificationConfigs", {"taskId": "other", "url": "http://x"})
    with pytest.raises(RequestRefused):
        rest("POST", "/v1/tasks/t/pushNotificationConfigs", {"parent": "tasks/other", "config": {}})
    with pytest.raises(RequestRefused):
        rest("POST", "/acme/message:send", {"message": MESSAGE, "tenant": "other"})
    created = rest("POST", "/v1/tasks/t/pushNotificationConfigs", {"parent": "tasks/t", "configId": "c", "config": {}})
    assert (created.task_id, created.config_id) == ("t", "c")


@pytest.mark.parametrize("dialect", [JSONRPC_1_0, JSONRPC_0_3, REST_1_0, REST_0_3])
def test_the_message_is_read_in_every_dialect(dialect):
    request = send(dialect, taskId="t-1", contextId="c-1")
    assert request.dialect is dialect
    assert (request.message_id, request.task_id, request.context_id) == ("m-1", "t-1", "c-1")
