"""Streams, event by event, between every pair of dialects."""

import msgspec
import pytest

from meshway.kernel.errors import UpstreamBroken, UpstreamInvalid
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Dialect
from meshway.protocols.a2a.errors import render_stream_error
from meshway.protocols.a2a.inbound import StreamTranslator
from meshway.protocols.sse import SseParser
from meshway.tasks.values import TaskState
from support.a2a_wire_samples import DIALECTS, MOMENT, PAIR_NAMES, PAIRS, interface, send

CORE = [
    {"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED", "timestamp": MOMENT}, "x": 1}},
    {"artifactUpdate": {"taskId": "t", "contextId": "c", "artifact": {"artifactId": "a", "parts": [{"text": "ü\n"}]}}},
    {
        "statusUpdate": {
            "taskId": "t",
            "contextId": "c",
            "status": {"state": "TASK_STATE_CANCELED"},
            "metadata": {"n": 1},
        }
    },
]
JSON_0_3 = [
    {"kind": "task", "id": "t", "contextId": "c", "status": {"state": "submitted", "timestamp": MOMENT}, "x": 1},
    {"kind": "artifact-update", "taskId": "t", "contextId": "c",
     "artifact": {"artifactId": "a", "parts": [{"kind": "text", "text": "ü\n"}]}},
    {"kind": "status-update", "taskId": "t", "contextId": "c", "status": {"state": "canceled"}, "metadata": {"n": 1},
     "final": True},
]  # fmt: skip
PROTO_0_3 = [
    CORE[0],
    CORE[1],
    {"statusUpdate": CORE[2]["statusUpdate"] | {"status": {"state": "TASK_STATE_CANCELLED"}, "final": True}},
]
EVENTS = {JSONRPC_1_0: CORE, REST_1_0: CORE, JSONRPC_0_3: JSON_0_3, REST_0_3: PROTO_0_3}


def payloads(dialect: Dialect) -> list[dict]:
    events = EVENTS[dialect]
    if dialect in (REST_1_0, REST_0_3):
        return events
    return [{"jsonrpc": "2.0", "id": 7, "result": event} for event in events]


def stream(dialect: Dialect, end: bytes = b"\r\n") -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(payload) + end + end for payload in payloads(dialect))


def decoded(frames: list) -> list:
    events = SseParser().feed(b"".join(frame for frame, _ in frames))
    return [msgspec.json.decode(event.data) for event in events]


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_the_events_of_every_dialect_arrive_in_the_client_s_own(client, agent):
    translator = StreamTranslator(send(client, stream=True), interface(agent))
    frames = translator.feed(stream(agent))
    assert decoded(frames) == payloads(client)
    assert [seen and seen.state for _, seen in frames] == [TaskState.SUBMITTED, None, TaskState.CANCELED]
    assert all(seen is None or (seen.task_id, seen.context_id) == ("t", "c") for _, seen in frames)
    assert all(frame.endswith((b"\n\n", b"\r\n\r\n")) for frame, _ in frames)
    assert translator.finish() == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_of_the_client_s_own_dialect_are_the_bytes_that_came_however_they_are_cut(dialect, end):
    whole = stream(dialect, end)
    for cut in range(len(whole) + 1):
        translator = StreamTranslator(send(dialect, stream=True), interface(dialect))
        frames = translator.feed(whole[:cut]) + translator.feed(whole[cut:])
        assert b"".join(frame for frame, _ in frames) == whole
        assert [seen and seen.state for _, seen in frames] == [TaskState.SUBMITTED, None, TaskState.CANCELED]


def test_events_fed_byte_by_byte_are_translated_the_same():
    whole = b"\xef\xbb\xbf: hello\n\n" + stream(JSONRPC_0_3)
    translator = StreamTranslator(send(REST_1_0, stream=True), interface(JSONRPC_0_3))
    frames = [frame for n in range(len(whole)) for frame in translator.feed(whole[n : n + 1])]
    assert decoded(frames) == CORE


def test_ids_survive_translation_and_comments_do_not_pass():
    data = b": ping\n\nid: 41\nevent: message\ndata: " + msgspec.json.encode(CORE[0]) + b"\n\n:\n\n"
    [(frame, _)] = StreamTranslator(send(JSONRPC_0_3, stream=True), interface(REST_1_0)).feed(data)
    assert frame.startswith(b"id: 41\ndata: {")
    [(frame, _)] = StreamTranslator(send(REST_1_0, stream=True), interface(REST_1_0)).feed(data)
    assert frame == data[data.index(b"id: 41") : -3]


RPC_ERROR = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32004,"message":"not now"}}'
REST_ERROR = b'{"error":{"code":400,"status":"FAILED_PRECONDITION","message":"not now","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"UNSUPPORTED_OPERATION"}]}}'  # noqa: E501


@pytest.mark.parametrize(("client", "agent"), PAIRS, ids=PAIR_NAMES)
def test_an_error_in_a_stream_keeps_its_meaning(client, agent):
    data = REST_ERROR if agent in (REST_1_0, REST_0_3) else RPC_ERROR
    name = b"" if agent is JSONRPC_0_3 else b"event: error\r\n"
    whole = name + b"data: " + data + b"\r\n\r\n"
    [(frame, seen)] = StreamTranslator(send(client, stream=True), interface(agent)).feed(whole)
    assert seen is None
    if client is agent:
        assert frame == whole
        return
    [event] = SseParser().feed(frame)
    error = msgspec.json.decode(event.data)["error"]
    assert event.event == (b"" if client is JSONRPC_0_3 else b"error")
    assert error["message"] == "not now"
    assert error["code"] == (-32004 if client in (JSONRPC_1_0, JSONRPC_0_3) else 400)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_of_the_hub_s_own_ends_a_stream(dialect):
    frame = render_stream_error(
        UpstreamBroken("the agent went away", may_have_acted=True), dialect, b'"x"', agent="echo"
    )
    [event] = SseParser().feed(frame)
    body = msgspec.json.decode(event.data)
    details = body["error"].get("data") or body["error"]["details"]
    assert details[0]["metadata"] == {"code": "upstream_broken", "agent": "echo", "mayHaveActed": "true"}
    assert event.event == (b"" if dialect is JSONRPC_0_3 else b"error")
    assert body.get("id", "x") == "x"


def test_a_last_event_without_its_blank_line_counts_if_it_is_whole():
    data = b"data: " + msgspec.json.encode(CORE[2])
    for client in (REST_1_0, JSONRPC_1_0):
        translator = StreamTranslator(send(client, stream=True), interface(REST_1_0))
        assert translator.feed(data) == []
        [(frame, seen)] = translator.finish()
        assert frame.endswith(b"\n\n")
        assert seen.state is TaskState.CANCELED
        assert translator.finish() == []
    translator = StreamTranslator(send(REST_1_0, stream=True), interface(REST_1_0))
    translator.feed(data[:-3])
    assert translator.finish() == []


@pytest.mark.parametrize("client", [REST_1_0, JSONRPC_0_3])
def test_one_event_beyond_the_limit_ends_the_stream(client):
    translator = StreamTranslator(send(client, stream=True), interface(REST_1_0), event_bytes_max=1_000)
    assert len(translator.feed(b"data: " + msgspec.json.encode(CORE[0]) + b"\n\n" + b"x" * 900)) == 1
    with pytest.raises(UpstreamInvalid, match="1000 bytes"):
        translator.feed(b"x" * 200)


@pytest.mark.parametrize(
    "data", [b"data: {\n\n", b"data: <html>\n\n", b"data: \xff\n\n", b"data: " + b"[" * 100_000 + b"\n\n"]
)
@pytest.mark.parametrize("client", [REST_1_0, JSONRPC_1_0])
def test_an_event_that_is_no_json_ends_the_stream(client, data):
    with pytest.raises(UpstreamInvalid):
        StreamTranslator(send(client, stream=True), interface(REST_1_0)).feed(data)


def test_events_of_a_later_version_pass_where_nothing_must_be_translated():
    data = b'data: {"timelineUpdate":{"taskId":"t"}}\n\nevent: progress\ndata: 50%\n\ndata: {"task":7}\n\n'
    frames = StreamTranslator(send(REST_1_0, stream=True), interface(REST_1_0)).feed(data)
    assert b"".join(frame for frame, _ in frames) == data
    assert (
        StreamTranslator(send(JSONRPC_1_0, stream=True), interface(REST_1_0)).feed(b"event: progress\ndata: 50%\n\n")
        == []
    )


def test_json_on_several_data_lines_is_one_event():
    data = b'data: {"task":\ndata: {"id":"t","status":{"state":"TASK_STATE_WORKING"}}}\n\n'
    for client in (REST_1_0, JSONRPC_1_0):
        [(frame, seen)] = StreamTranslator(send(client, stream=True), interface(REST_1_0)).feed(data)
        assert seen.state is TaskState.WORKING
        assert (frame == data) is (client is REST_1_0)
