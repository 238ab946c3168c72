"""Every object of the data model in its three JSON shapes, both ways, and as the stock SDK understands them."""

import json
from pathlib import Path

import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb_0_3
from a2a.compat.v0_3 import conversions, proto_utils
from a2a.compat.v0_3 import types as types_0_3
from a2a.types import a2a_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.shapes import JSON_0_3, PROTO_0_3, Legacy
from meshway.protocols.a2a.translation import lower_params, lower_result, raise_params, raise_result

GOLDEN = sorted(
    path for path in (Path(__file__).parent / "golden").glob("*.json") if not path.name.startswith(("card-", "error-"))
)
SHAPES = [("a2a_0_3_jsonrpc", JSON_0_3), ("a2a_0_3_http_json", PROTO_0_3)]
EVENTS = [
    path for path in GOLDEN if json.loads(path.read_text())["operation"] in ("SendMessage", "SendStreamingMessage")
]
EVENTS = [path for path in EVENTS if json.loads(path.read_text())["side"] == "result"]


def _lower(golden: dict, legacy: Legacy) -> object:
    lower = lower_result if golden["side"] == "result" else lower_params
    return lower(AgentOperation(golden["operation"]), golden["a2a_1_0"], legacy)


def _raise(golden: dict, value: object, legacy: Legacy) -> object:
    operation = AgentOperation(golden["operation"])
    if golden["side"] == "result":
        return raise_result(operation, value, legacy)
    return raise_params(operation, value, legacy, None)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize(("shape", "legacy"), SHAPES, ids=["jsonrpc", "http_json"])
def test_an_object_of_1_0_becomes_the_golden_one_of_0_3(path, shape, legacy):
    golden = json.loads(path.read_text())
    before = json.dumps(golden["a2a_1_0"])
    assert _lower(golden, legacy) == golden[shape]
    assert json.dumps(golden["a2a_1_0"]) == before, "the translation must not change what it was given"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize(("shape", "legacy"), SHAPES, ids=["jsonrpc", "http_json"])
def test_an_object_of_0_3_becomes_the_golden_one_of_1_0_unknown_fields_included(path, shape, legacy):
    golden = json.loads(path.read_text())
    assert _raise(golden, golden[shape], legacy) == golden["a2a_1_0"]


def _core_proto(event: dict) -> a2a_pb2.StreamResponse:
    return ParseDict(event, a2a_pb2.StreamResponse(), ignore_unknown_fields=True)


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_the_stock_sdk_reads_our_0_3_json_as_the_same_object(path):
    golden = json.loads(path.read_text())
    answer = types_0_3.SendStreamingMessageSuccessResponse.model_validate(
        {"jsonrpc": "2.0", "id": 1, "result": _lower(golden, JSON_0_3)}
    )
    expected = _core_proto(golden["a2a_1_0"])
    if expected.HasField("message"):
        _forget_the_media_type_of_texts(expected.message)
    assert conversions.to_core_stream_response(answer) == expected


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_the_stock_sdk_reads_our_0_3_http_json_as_the_same_object(path):
    golden = json.loads(path.read_text())
    proto = ParseDict(_lower(golden, PROTO_0_3), pb_0_3.StreamResponse(), ignore_unknown_fields=True)
    answer = types_0_3.SendStreamingMessageSuccessResponse(result=proto_utils.FromProto.stream_response(proto))
    expected = _core_proto(golden["a2a_1_0"])
    _forget_what_the_0_3_proto_lacks(expected)
    assert _without_empty(MessageToDict(conversions.to_core_stream_response(answer))) == _without_empty(
        MessageToDict(expected)
    )


def _forget_the_media_type_of_texts(message: a2a_pb2.Message) -> None:
    """The SDK drops it on the way to 0.3."""
    for part in message.parts:
        if part.WhichOneof("content") == "text" and part.media_type:
            part.ClearField("media_type")


def _forget_what_the_0_3_proto_lacks(event: a2a_pb2.StreamResponse) -> None:
    if event.HasField("message"):
        _forget_the_media_type_of_texts(event.message)
    for message in (event.message, *event.task.history):
        if message.reference_task_ids:
            message.ClearField("reference_task_ids")


def _without_empty(value: object) -> object:
    """The SDK's proto conversion turns absent metadata into empty ones."""
    if isinstance(value, dict):
        return {k: _without_empty(v) for k, v in value.items() if v not in ({}, [], False, "")}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("shape", "legacy"), SHAPES, ids=["jsonrpc", "http_json"])
def test_what_the_stock_sdk_sends_in_0_3_becomes_the_same_object_of_1_0(path, shape, legacy):
    golden = json.loads(path.read_text())
    core = _core_proto(golden["a2a_1_0"])
    sdk = conversions.to_compat_stream_response(core, request_id=1)
    if legacy is JSON_0_3:
        if core.HasField("message"):
            _forget_the_media_type_of_texts(core.message)
        sent = sdk.model_dump(mode="json", by_alias=True, exclude_none=True)["result"]
    else:
        _forget_what_the_0_3_proto_lacks(core)
        sent = MessageToDict(proto_utils.ToProto.stream_response(sdk.result))
    raised = _core_proto(raise_result(AgentOperation.STREAM_MESSAGE, sent, legacy))
    assert _without_empty(MessageToDict(raised)) == _without_empty(MessageToDict(core))


@pytest.mark.parametrize("name", ["send-request", "send-request-waiting"])
def test_the_stock_sdk_reads_our_0_3_requests_as_the_same_request(name):
    golden = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    core = ParseDict(golden["a2a_1_0"], a2a_pb2.SendMessageRequest(), ignore_unknown_fields=True)
    params = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": _lower(golden, JSON_0_3)}
    assert conversions.to_core_send_message_request(types_0_3.SendMessageRequest.model_validate(params)) == core

    proto = ParseDict(_lower(golden, PROTO_0_3), pb_0_3.SendMessageRequest(), ignore_unknown_fields=True)
    request = types_0_3.SendMessageRequest(id=1, params=proto_utils.FromProto.message_send_params(proto))
    read = conversions.to_core_send_message_request(request)
    core.message.ClearField("reference_task_ids")
    assert _without_empty(MessageToDict(read)) == _without_empty(MessageToDict(core))


def test_what_the_stock_0_3_http_client_sends_in_snake_case_is_understood():
    core = a2a_pb2.SendMessageRequest(
        message=a2a_pb2.Message(
            message_id="m-1",
            context_id="c-1",
            task_id="t-1",
            role=a2a_pb2.Role.ROLE_USER,
            parts=[a2a_pb2.Part(raw=b"\x00\x01", filename="x.bin", media_type="application/octet-stream")],
        ),
        configuration=a2a_pb2.SendMessageConfiguration(accepted_output_modes=["text/plain"], return_immediately=True),
    )
    compat = conversions.to_compat_send_message_request(core, request_id=0)
    sent = MessageToDict(
        pb_0_3.SendMessageRequest(
            request=proto_utils.ToProto.message(compat.params.message),
            configuration=proto_utils.ToProto.message_send_configuration(compat.params.configuration),
        ),
        preserving_proto_field_name=True,
    )
    assert "message_id" in sent["request"], "the SDK no longer sends snake_case; this test can go"
    raised = raise_params(AgentOperation.SEND_MESSAGE, sent, PROTO_0_3, None)
    assert raised["message"]["parts"] == [{"raw": "AAE=", "filename": "x.bin", "mediaType": "application/octet-stream"}]
    # ProtoJSON left out `blocking: false`.
    assert ParseDict(raised, a2a_pb2.SendMessageRequest()) == core


def test_single_encoded_bytes_of_other_0_3_agents_are_understood():
    sent = {"request": {"content": [{"file": {"fileWithBytes": "AAH/"}}]}}
    raised = raise_params(AgentOperation.SEND_MESSAGE, sent, PROTO_0_3, None)
    assert raised["message"]["parts"] == [{"raw": "AAH/"}]


def test_enum_numbers_and_unknown_states_of_a_proto_are_understood():
    task = {"id": "t", "status": {"state": 5}, "history": [{"role": 1, "content": [{"text": "x"}]}]}
    raised = raise_result(AgentOperation.GET_TASK, task, PROTO_0_3)
    assert raised["status"]["state"] == "TASK_STATE_CANCELED"
    assert raised["history"][0]["role"] == "ROLE_USER"
    lowered = lower_result(AgentOperation.GET_TASK, {"id": "t", "status": {"state": "TASK_STATE_PAUSED"}}, JSON_0_3)
    assert lowered["status"]["state"] == "unknown"


def test_a_task_that_protojson_left_half_empty_has_all_that_0_3_demands():
    lowered = lower_result(AgentOperation.GET_TASK, {"id": "t"}, JSON_0_3)
    assert types_0_3.Task.model_validate(lowered).status.state is types_0_3.TaskState.unknown
    update = lower_result(AgentOperation.STREAM_MESSAGE, {"artifactUpdate": {"taskId": "t"}}, JSON_0_3)
    types_0_3.TaskArtifactUpdateEvent.model_validate(update)
