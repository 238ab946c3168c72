"""Requests the hub answers itself, in each of the four dialects, and its answers."""

import json
from pathlib import Path

import msgspec
import pytest
from a2a.compat.v0_3 import types as types_0_3

from meshway.kernel.errors import InvalidRequest, UpstreamInvalid
from meshway.protocols.a2a.canonical import (
    encode_event,
    encode_result,
    read_push_config,
    read_send,
    read_task_query,
    strip_push_config,
)
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Binding, Dialect
from meshway.protocols.a2a.requests import A2ARequest, read_jsonrpc, read_rest
from meshway.protocols.sse import SseParser
from support.a2a_wire_samples import DIALECTS, MESSAGE, get_task, rest, rpc, send

_SHAPES = {
    JSONRPC_1_0: "a2a_1_0",
    REST_1_0: "a2a_1_0",
    JSONRPC_0_3: "a2a_0_3_jsonrpc",
    REST_0_3: "a2a_0_3_http_json",
}
IDS = [f"{dialect.version.value}-{dialect.binding.value}" for dialect in DIALECTS]
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=IDS)


def golden(name: str, dialect: Dialect) -> dict:
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())[_SHAPES[dialect]]


def sending(dialect: Dialect, params: dict) -> A2ARequest:
    match dialect:
        case _ if dialect is JSONRPC_1_0:
            return rpc("SendMessage", params)
        case _ if dialect is JSONRPC_0_3:
            return rpc("message/send", params)
        case _ if dialect is REST_1_0:
            return rest("POST", "/message:send", params)
        case _:
            return rest("POST", "/v1/message:send", params)


def configuring(dialect: Dialect, params: dict) -> A2ARequest:
    match dialect:
        case _ if dialect is JSONRPC_1_0:
            return rpc("CreateTaskPushNotificationConfig", params)
        case _ if dialect is JSONRPC_0_3:
            return rpc("tasks/pushNotificationConfig/set", params)
        case _ if dialect is REST_1_0:
            return rest("POST", "/tasks/t-1/pushNotificationConfigs", params)
        case _:
            return rest("POST", "/v1/tasks/t-1/pushNotificationConfigs", params)


# --- SendMessage ---


@each_dialect
def test_a_message_means_the_same_in_every_dialect(dialect):
    terms = read_send(sending(dialect, golden("send-request", dialect)))
    core = golden("send-request", JSONRPC_1_0)
    assert json.loads(terms.message) == core["message"]
    assert (terms.message_id, terms.task_id, terms.context_id) == ("m-1", "t-1", "c-1")
    assert (terms.blocking, terms.history_length) == (False, 5)
    assert json.loads(terms.push_config) == core["configuration"]["taskPushNotificationConfig"]
    assert json.loads(terms.metadata) == core["metadata"]


@each_dialect
def test_what_a_client_does_not_ask_for_is_absent(dialect):
    terms = read_send(send(dialect))
    assert json.loads(terms.message) == MESSAGE
    assert (terms.task_id, terms.context_id, terms.history_length) == (None, None, None)
    assert (terms.push_config, terms.metadata, terms.extensions) == (None, None, None)
    assert terms.blocking


def test_a_message_of_1_0_stays_the_bytes_it_was():
    message = '{"role":"ROLE_USER", "parts":[{"data":1.50,"x":"ü\\u0041"}],"messageId":"m"}'.encode()
    body = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":%b}}' % message
    assert read_send(read_jsonrpc(body, version="1.0", content_type="application/json")).message == message
    request = read_rest(
        "POST", "/message:send", "", b'{"message":%b}' % message, version="1.0", content_type=None, extensions="urn:x"
    )
    terms = read_send(request)
    assert terms.message == message
    assert terms.extensions == "urn:x"


def test_a_message_spelled_as_only_protojson_reads_it_gets_its_usual_names():
    message = {"message_id": "m", "task_id": "t", "role": 1, "parts": [{"text": "x", "media_type": "a/b"}], "v": 1}
    for request in (rpc("SendMessage", {"message": message}), rest("POST", "/message:send", {"message": message})):
        assert json.loads(read_send(request).message) == {
            "messageId": "m", "taskId": "t", "role": "ROLE_USER", "parts": [{"text": "x", "mediaType": "a/b"}], "v": 1,
        }  # fmt: skip


def test_a_configuration_in_snake_case_counts():
    config = {"url": "https://client.test/hook", "task_id": "t"}
    params = {
        "message": MESSAGE,
        "configuration": {"history_length": "3", "task_push_notification_config": config, "return_immediately": True},
    }
    terms = read_send(rpc("SendMessage", params))
    assert (terms.history_length, terms.blocking) == (3, False)
    assert json.loads(terms.push_config) == {"url": "https://client.test/hook"}


@pytest.mark.parametrize(
    ("dialect", "length"), [(JSONRPC_1_0, 0), (REST_1_0, 0), (JSONRPC_0_3, None), (REST_0_3, None)]
)
def test_a_history_length_of_0_is_none_of_it_in_1_0_and_all_of_it_in_0_3(dialect, length):
    message = json.loads(send(dialect).params)
    terms = read_send(sending(dialect, message | {"configuration": {"historyLength": 0}}))
    assert terms.history_length == length
    assert read_task_query(get_task(dialect, history=0)).history_length == length


@each_dialect
@pytest.mark.parametrize("length", [-1, 1.5, "x", True, [], 2**31])
def test_a_history_length_that_is_none_is_refused_by_its_name(dialect, length):
    params = json.loads(send(dialect).params) | {"configuration": {"historyLength": length}}
    with pytest.raises(InvalidRequest) as refused:
        read_send(sending(dialect, params))
    assert refused.value.fields[0].field == "configuration.historyLength"


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (JSONRPC_1_0, "taskPushNotificationConfig"),
        (REST_1_0, "taskPushNotificationConfig"),
        (JSONRPC_0_3, "pushNotificationConfig"),
        (REST_0_3, "pushNotification"),
    ],
)
def test_an_inline_config_without_url_is_refused_by_the_caller_s_own_name(dialect, name):
    params = json.loads(send(dialect).params) | {"configuration": {name: {"url": ""}}}
    with pytest.raises(InvalidRequest) as refused:
        read_send(sending(dialect, params))
    assert refused.value.fields[0].field == f"configuration.{name}.url"


@pytest.mark.parametrize(
    ("dialect", "part", "field"),
    [(JSONRPC_0_3, {"kind": "video"}, "message.parts.0"), (REST_0_3, {"video": 1}, "message.content.0")],
)
def test_a_part_that_means_nothing_is_refused_by_its_place(dialect, part, field):
    with pytest.raises(InvalidRequest) as refused:
        read_send(send(dialect, **{"parts" if dialect is JSONRPC_0_3 else "content": [part]}))
    assert refused.value.fields[0].field == field


@pytest.mark.parametrize("more", [{"metadata": 7}, {"configuration": {"taskPushNotificationConfig": 7}}])
def test_params_of_another_shape_are_refused(more):
    with pytest.raises(InvalidRequest):
        read_send(rpc("SendMessage", {"message": MESSAGE} | more))


# --- GetTask ---


@each_dialect
def test_the_history_length_of_a_get_is_read_in_every_dialect(dialect):
    assert read_task_query(get_task(dialect, history=3)).history_length == 3


def test_a_get_may_leave_the_history_length_out_and_spell_it_in_snake_case():
    assert read_task_query(rpc("GetTask", {"id": "t"})).history_length is None
    assert read_task_query(rest("GET", "/tasks/t")).history_length is None
    assert read_task_query(rpc("GetTask", {"id": "t", "history_length": 2})).history_length == 2
    assert read_task_query(rest("GET", "/tasks/t", query="history_length=2")).history_length == 2


@pytest.mark.parametrize("request_", [rpc("GetTask", {"id": "t", "historyLength": -1}), get_task(REST_1_0, history=-2)])
def test_a_get_with_a_wrong_history_length_is_refused(request_):
    with pytest.raises(InvalidRequest) as refused:
        read_task_query(request_)
    assert refused.value.fields[0].field == "historyLength"


# --- Push notification configs ---


@each_dialect
def test_a_config_to_create_means_the_same_in_every_dialect(dialect):
    config = json.loads(read_push_config(configuring(dialect, golden("create-push-config-request", dialect))))
    assert config == golden("create-push-config-request", JSONRPC_1_0)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (rpc("CreateTaskPushNotificationConfig", {"task_id": "t-1", "url": "u"}), {}),
        (rest("POST", "/tasks/t-1/pushNotificationConfigs", {"url": "u"}), {}),
        (rpc("tasks/pushNotificationConfig/set", {"taskId": "t-1", "pushNotificationConfig": {"url": "u"}}), {}),
        (
            rest(
                "POST",
                "/v1/tasks/t-1/pushNotificationConfigs",
                {"config_id": "c", "config": {"push_notification_config": {"url": "u"}}},
            ),
            {"id": "c"},
        ),
    ],
    ids=IDS,
)
def test_the_task_of_a_config_is_the_one_the_request_names(request_, expected):
    assert json.loads(read_push_config(request_)) == {"taskId": "t-1", "url": "u"} | expected


@pytest.mark.parametrize(
    ("dialect", "params", "field"),
    [
        (JSONRPC_1_0, {"taskId": "t-1"}, "url"),
        (JSONRPC_1_0, {"taskId": "t-1", "url": "u", "token": 7}, "token"),
        (REST_1_0, {"url": "u", "authentication": {"scheme": 7}}, "authentication.scheme"),
        (REST_1_0, {"url": "u", "authentication": 7}, "authentication"),
        (JSONRPC_0_3, {"taskId": "t-1", "pushNotificationConfig": {}}, "pushNotificationConfig.url"),
        (REST_0_3, {"config": {"pushNotificationConfig": {"url": ""}}}, "config.pushNotificationConfig.url"),
    ],
)
def test_a_config_nothing_can_be_delivered_with_is_refused_by_its_field(dialect, params, field):
    with pytest.raises(InvalidRequest) as refused:
        read_push_config(configuring(dialect, params))
    assert refused.value.fields[0].field == field


@each_dialect
def test_an_agent_gets_a_message_without_the_inline_config_and_with_all_the_rest(dialect):
    params = golden("send-request", dialect)
    stripped = strip_push_config(sending(dialect, params))
    for name in ("taskPushNotificationConfig", "pushNotificationConfig", "pushNotification"):
        params["configuration"].pop(name, None)
    assert json.loads(stripped.params) == params
    assert stripped.body == sending(dialect, params).body
    assert stripped.task_id == "t-1"
    assert read_send(stripped).push_config is None


@each_dialect
def test_a_message_without_an_inline_config_is_the_same_request(dialect):
    plain = sending(dialect, json.loads(send(dialect).params) | {"configuration": {"acceptedOutputModes": []}})
    assert strip_push_config(plain) is plain
    talkative = send(dialect, metadata={"push": "pushNotificationConfig \u0001"})
    assert strip_push_config(talkative) is talkative


@pytest.mark.parametrize(
    "configuration",
    [
        '{"task_push_notification_config":{"url":"u"}}',
        '{"TASKPUSHNOTIFICATIONCONFIG":{"url":"u"}}',
        '{"taskPushNotificationConfig":{"url":"u"},"taskPushNotificationConfig":null}',
        '{"taskPushNotificationConfig":{"url":"u"}},"configuration":{}',
        '{"taskPushNotificationConfig":{"url":"u"}},"Configuration":{}',
        '{},"Configuration":{"taskPushNotificationConfig":{"url":"u"}}',
    ],
)
def test_no_spelling_gets_an_inline_config_past_the_hub(configuration):
    body = f'{{"message":{json.dumps(MESSAGE)},"configuration":{configuration}}}'.encode()
    request = read_rest("POST", "/message:send", "", body, version="1.0", content_type=None)
    stripped = strip_push_config(request)
    assert json.loads(stripped.body)["message"] == MESSAGE
    assert b"url" not in stripped.body


# --- Answers ---


def answered(request: A2ARequest, result: object) -> object:
    rpc_ = request.dialect.binding is Binding.JSONRPC
    return {"jsonrpc": "2.0", "id": 7, "result": result} if rpc_ else result


@each_dialect
@pytest.mark.parametrize("name", ["task-in-send-reply", "message-every-part"])
def test_what_a_message_leads_to_is_told_in_every_dialect(dialect, name):
    request = send(dialect)
    core = golden(name, JSONRPC_1_0)
    reply = encode_result(request, msgspec.json.encode(core))
    assert reply.status == 200
    assert reply.content_type == (b"application/a2a+json" if dialect is REST_1_0 else b"application/json")
    assert json.loads(reply.body) == answered(request, golden(name, dialect))


@each_dialect
def test_a_task_is_told_in_every_dialect(dialect):
    request = get_task(dialect)
    reply = encode_result(request, msgspec.json.encode(golden("task", JSONRPC_1_0)))
    assert json.loads(reply.body) == answered(request, golden("task", dialect))


@each_dialect
def test_configs_are_told_in_every_dialect(dialect):
    create = configuring(dialect, golden("create-push-config-request", dialect))
    reply = encode_result(create, msgspec.json.encode(golden("push-config", JSONRPC_1_0)))
    assert json.loads(reply.body) == answered(create, golden("push-config", dialect))
    path = "tasks/t-1/pushNotificationConfigs"
    requests = {
        JSONRPC_1_0: rpc("ListTaskPushNotificationConfigs", {"taskId": "t-1"}),
        JSONRPC_0_3: rpc("tasks/pushNotificationConfig/list", {"id": "t-1"}),
        REST_1_0: rest("GET", f"/{path}"),
        REST_0_3: rest("GET", f"/v1/{path}"),
    }
    listing = requests[dialect]
    reply = encode_result(listing, msgspec.json.encode(golden("push-config-list", JSONRPC_1_0)))
    assert json.loads(reply.body) == answered(listing, golden("push-config-list", dialect))


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            rpc("DeleteTaskPushNotificationConfig", {"taskId": "t", "id": "c"}),
            b'{"jsonrpc":"2.0","id":7,"result":null}',
        ),
        (
            rpc("tasks/pushNotificationConfig/delete", {"id": "t", "pushNotificationConfigId": "c"}),
            b'{"jsonrpc":"2.0","id":7,"result":null}',
        ),
        (rest("DELETE", "/tasks/t/pushNotificationConfigs/c"), b"{}"),
        (rest("DELETE", "/v1/tasks/t/pushNotificationConfigs/c"), b"{}"),
    ],
    ids=IDS,
)
def test_a_deletion_has_an_empty_answer(request_, body):
    assert encode_result(request_, b"null").body == body


def test_an_answer_in_1_0_is_the_bytes_of_the_result():
    core = b'{"task": {"id":"t", "x": 1.50}}'
    assert encode_result(send(REST_1_0), core).body is core
    assert encode_result(send(JSONRPC_1_0), core).body == b'{"jsonrpc":"2.0","id":7,"result":%b}' % core


EVENTS = ["stream-event-task", "status-update-working", "status-update-completed", "artifact-update"]


@each_dialect
@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("number", [None, 41])
def test_an_event_is_told_in_every_dialect_with_its_number(dialect, name, number):
    request = send(dialect, stream=True)
    frame = encode_event(request, msgspec.json.encode(golden(name, JSONRPC_1_0)), number)
    [event] = SseParser().feed(frame)
    assert event.raw == frame
    assert event.id == (None if number is None else b"41")
    assert json.loads(event.data) == answered(request, golden(name, dialect))


def test_an_event_of_0_3_says_whether_the_stream_ends():
    core = b'{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"%b"}}}'
    request = send(JSONRPC_0_3, stream=True)
    for state, final in ((b"TASK_STATE_CANCELED", True), (b"TASK_STATE_INPUT_REQUIRED", False)):
        [event] = SseParser().feed(encode_event(request, core % state, 1))
        assert types_0_3.TaskStatusUpdateEvent.model_validate(json.loads(event.data)["result"]).final is final


def test_an_event_of_1_0_is_its_bytes_in_one_line():
    core = b'{"task":{"id":"t","x":1.50}}'
    request = send(JSONRPC_1_0, stream=True)
    assert encode_event(request, core, 3) == b'id: 3\ndata: {"jsonrpc":"2.0","id":7,"result":%b}\n\n' % core
    assert encode_event(send(REST_1_0, stream=True), core, None) == b"data: %b\n\n" % core
    spread = b'{\r\n "task": {"id": "a\\nb",\n "x": 1.50}}'
    assert encode_event(send(REST_1_0, stream=True), spread, 3) == (
        b'id: 3\ndata: {"task":{"id":"a\\nb","x":1.50}}\n\n'
    )


@pytest.mark.parametrize("core", [b'{"timelineUpdate":{}}', b'{"message":{"parts":[{"video":1}]}}', b"7", b"{"])
def test_what_0_3_has_no_words_for_is_the_agent_s_fault(core):
    for dialect in (JSONRPC_0_3, REST_0_3):
        with pytest.raises(UpstreamInvalid):
            encode_event(send(dialect, stream=True), core, 1)
        with pytest.raises(UpstreamInvalid):
            encode_result(send(dialect), core)
