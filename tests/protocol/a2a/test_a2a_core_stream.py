"""What agents of every dialect answer, as the hub keeps it: A2A 1.0, beside what the client that asked is to see."""

import json

import msgspec
import pytest

from meshway.kernel.errors import UpstreamInvalid
from meshway.protocols.a2a.canonical import encode_event, encode_result
from meshway.protocols.a2a.core_stream import CoreTranslator, decode_core_reply
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Binding, Dialect
from meshway.protocols.a2a.inbound import StreamTranslator, decode_reply
from meshway.tasks.values import TaskState
from support.a2a_wire_samples import DIALECTS, MOMENT, PAIR_NAMES, PAIRS, get_task, interface, rest, rpc, send

IDS = [f"{dialect.version.value}-{dialect.binding.value}" for dialect in DIALECTS]
JSON = b"application/json"
CORE = [
    {"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED", "timestamp": MOMENT}, "x": 1}},
    {"artifactUpdate": {"taskId": "t", "contextId": "c", "artifact": {"artifactId": "a", "parts": [{"text": "ü\n"}]}}},
    {"statusUpdate": {"taskId": "t", "contextId": "c", "status": {"state": "TASK_STATE_CANCELED"}}},
    {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "hi"}]}},
]


def stream(dialect: Dialect, request_id: int = 7) -> bytes:
    """The events as an agent of this dialect sends them."""
    request = msgspec.structs.replace(send(dialect, stream=True), request_id=b"%d" % request_id)
    return b"".join(encode_event(request, msgspec.json.encode(event), None) for event in CORE)


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_the_events_of_every_dialect_become_those_of_1_0(client, agent):
    translator = CoreTranslator(send(client, stream=True), interface(agent))
    events = translator.feed(stream(agent))
    assert [json.loads(event.core) for event in events] == CORE
    assert [event.seen and event.seen.state for event in events] == [
        TaskState.SUBMITTED, None, TaskState.CANCELED, None,
    ]  # fmt: skip
    assert [event.frame for event in events] == [b""] * 4
    assert translator.finish() == []


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_a_client_sees_the_same_by_way_of_core_as_directly(client, agent):
    request = send(client, stream=True)
    direct = StreamTranslator(request, interface(agent)).feed(stream(agent))
    kept = CoreTranslator(request, interface(agent)).feed(stream(agent))
    by_way_of_core = [encode_event(request, core, None) for _, _, core in kept]
    assert [_payload(frame) for frame in by_way_of_core] == [_payload(frame) for frame, _ in direct]
    assert [seen for _, seen, _ in kept] == [seen for _, seen in direct]


def _payload(frame: bytes) -> object:
    return json.loads(frame.partition(b"data: ")[2])


@pytest.mark.parametrize("agent", [JSONRPC_1_0, REST_1_0])
def test_what_an_agent_of_1_0_sends_is_kept_as_the_bytes_it_is(agent):
    core = b'{"artifactUpdate": {"artifact":{"parts":[{"data":1.50}]}, "z":1e2}}'
    data = core if agent is REST_1_0 else b'{"id":7, "result": %b ,"jsonrpc":"2.0"}' % core
    [event] = CoreTranslator(send(JSONRPC_0_3, stream=True), interface(agent)).feed(b"id: 3\ndata: %b\n\n" % data)
    assert event.core == core


@pytest.mark.parametrize("agent", DIALECTS, ids=IDS)
def test_events_fed_byte_by_byte_are_the_same(agent):
    whole = b"\xef\xbb\xbf: hello\n\n" + stream(agent)
    translator = CoreTranslator(send(REST_1_0, stream=True), interface(agent))
    events = [event for n in range(len(whole)) for event in translator.feed(whole[n : n + 1])]
    assert [json.loads(event.core) for event in events] == CORE


RPC_ERROR = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32004,"message":"not now"}}'
REST_ERROR = b'{"error":{"code":400,"status":"FAILED_PRECONDITION","message":"not now","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"UNSUPPORTED_OPERATION"}]}}'  # noqa: E501
NAMED = [b"", b"event: error\n"]


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("name", NAMED, ids=["unnamed", "named"])
def test_an_error_in_a_stream_is_for_the_client_alone(client, agent, name):
    data = name + b"data: " + (RPC_ERROR if agent.binding is Binding.JSONRPC else REST_ERROR) + b"\n\n"
    request = send(client, stream=True)
    [event] = CoreTranslator(request, interface(agent)).feed(data)
    assert event.core is None
    assert [event[:2]] == StreamTranslator(request, interface(agent)).feed(data)
    assert b"not now" in event.frame


@pytest.mark.parametrize(
    "data",
    [
        b'{"timelineUpdate":{"taskId":"t"}}',
        b'{"task":7}',
        b'{"task":{"id":7}}',
        b'{"artifactUpdate":[]}',
        b'{"task":null}',
    ],
)
def test_what_comes_after_1_0_passes_where_nothing_must_be_translated(data):
    frame = b"data: %b\n\n" % data
    [event] = CoreTranslator(send(REST_1_0, stream=True), interface(REST_1_0)).feed(frame)
    assert event == (frame, None, None)


@pytest.mark.parametrize("client", DIALECTS, ids=IDS)
@pytest.mark.parametrize("agent", [JSONRPC_0_3, REST_0_3])
def test_an_event_0_3_does_not_know_is_what_it_is_without_a_record(client, agent):
    data = b'data: {"kind":"timeline","jsonrpc":"2.0","result":{"kind":"timeline"}}\n\n'
    request = send(client, stream=True)
    if client is agent:
        assert CoreTranslator(request, interface(agent)).feed(data) == [(data, None, None)]
        return
    for translator in (CoreTranslator, StreamTranslator):
        with pytest.raises(UpstreamInvalid):
            translator(request, interface(agent)).feed(data)


def test_events_of_other_names_pass_in_the_agent_s_dialect_and_only_there():
    data = b"event: progress\ndata: 50%\n\n"
    assert CoreTranslator(send(REST_1_0, stream=True), interface(REST_1_0)).feed(data) == [(data, None, None)]
    assert CoreTranslator(send(JSONRPC_1_0, stream=True), interface(REST_1_0)).feed(data) == []


@pytest.mark.parametrize(
    "data", [b"data: {\n\n", b"data: <html>\n\n", b"data: \xff\n\n", b"data: " + b"[" * 100_000 + b"\n\n"]
)
@pytest.mark.parametrize("client", DIALECTS, ids=IDS)
@pytest.mark.parametrize("agent", DIALECTS, ids=IDS)
def test_an_event_that_is_no_json_ends_the_stream(client, agent, data):
    with pytest.raises(UpstreamInvalid):
        CoreTranslator(send(client, stream=True), interface(agent)).feed(data)


def test_bytes_that_are_no_utf_8_are_replaced_before_they_are_kept():
    data = b'data: {"artifactUpdate":{"artifact":{"parts":[{"text":"\xff\xc3\xbc"}]}}}\n\n'
    [event] = CoreTranslator(send(REST_1_0, stream=True), interface(REST_1_0)).feed(data)
    assert json.loads(event.core)["artifactUpdate"]["artifact"]["parts"] == [{"text": "�ü"}]


def test_a_last_event_without_its_blank_line_counts_if_it_is_whole():
    data = b"data: " + msgspec.json.encode(CORE[2])
    translator = CoreTranslator(send(JSONRPC_1_0, stream=True), interface(REST_1_0))
    assert translator.feed(data) == []
    [event] = translator.finish()
    assert json.loads(event.core) == CORE[2]
    assert translator.finish() == []
    translator.feed(data[:-3])
    assert translator.finish() == []


def test_one_event_beyond_the_limit_ends_the_stream():
    translator = CoreTranslator(send(JSONRPC_1_0, stream=True), interface(REST_1_0), event_bytes_max=1_000)
    assert len(translator.feed(b"data: " + msgspec.json.encode(CORE[0]) + b"\n\n" + b"x" * 900)) == 1
    with pytest.raises(UpstreamInvalid, match="1000 bytes"):
        translator.feed(b"x" * 200)


# --- Whole answers ---

TASK = {
    "id": "t-1",
    "contextId": "c-1",
    "status": {"state": "TASK_STATE_COMPLETED", "timestamp": MOMENT},
    "artifacts": [{"artifactId": "a", "parts": [{"text": "ü"}], "x": 1}],
}


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
@pytest.mark.parametrize("sent", [True, False], ids=["send", "get"])
def test_a_task_of_an_agent_of_every_dialect_is_kept_as_one_of_1_0(client, agent, sent):
    core = {"task": TASK} if sent else TASK
    body = encode_result(send(agent) if sent else get_task(agent), msgspec.json.encode(core)).body
    request = send(client) if sent else get_task(client)
    kept = decode_core_reply(request, interface(agent), 200, JSON, body)
    assert json.loads(kept.core) == core
    assert kept.reply == decode_reply(request, interface(agent), 200, JSON, body)
    assert json.loads(encode_result(request, kept.core).body) == json.loads(kept.reply.body)


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_an_error_has_no_core(client, agent):
    rpc_ = agent.binding is Binding.JSONRPC
    kept = decode_core_reply(
        send(client), interface(agent), 200 if rpc_ else 400, JSON, RPC_ERROR if rpc_ else REST_ERROR
    )
    assert kept.core is None
    assert b"not now" in kept.reply.body


@pytest.mark.parametrize("agent", [JSONRPC_1_0, REST_1_0])
def test_a_result_of_1_0_is_kept_as_the_bytes_it_is(agent):
    core = b'{"task": {"id":"t", "x":1.50}}'
    body = core if agent is REST_1_0 else b'{"id":7,"result": %b}' % core
    assert decode_core_reply(send(agent), interface(agent), 200, JSON, body).core == core


@pytest.mark.parametrize("result", [b"7", b"[]", b'{"timeline":{}}', b'{"task":7}'])
def test_a_result_of_no_known_shape_is_the_client_s_to_judge(result):
    body = b'{"jsonrpc":"2.0","id":7,"result":%b}' % result
    for dialect in (JSONRPC_1_0, JSONRPC_0_3):
        kept = decode_core_reply(send(dialect), interface(dialect), 200, JSON, body)
        assert kept.core is None
        assert kept.reply.body == body


def test_a_deletion_is_kept_as_null():
    for request, agent, body in (
        (rest("DELETE", "/tasks/t/pushNotificationConfigs/c"), REST_1_0, b""),
        (rpc("tasks/pushNotificationConfig/delete", {"id": "t", "pushNotificationConfigId": "c"}), JSONRPC_0_3,
         b'{"jsonrpc":"2.0","id":7}'),
    ):  # fmt: skip
        assert decode_core_reply(request, interface(agent), 200, JSON, body).core == b"null"


def test_an_answer_that_is_not_a2a_is_the_agent_s_fault():
    with pytest.raises(UpstreamInvalid):
        decode_core_reply(send(JSONRPC_1_0), interface(JSONRPC_0_3), 200, JSON, b"<html>")
    with pytest.raises(UpstreamInvalid):
        decode_core_reply(send(REST_1_0), interface(REST_1_0), 302, JSON, b"{}")
