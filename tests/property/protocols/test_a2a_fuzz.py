"""Whatever arrives, the parsers answer with a value or with one of their declared errors."""

import contextlib

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshway.kernel.errors import InvalidRequest, OperationUnsupported, PayloadTooLarge, UpstreamInvalid
from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.card import read_card, serve_card
from meshway.protocols.a2a.errors import render_error
from meshway.protocols.a2a.inbound import StreamTranslator, decode_reply
from meshway.protocols.a2a.outbound import encode_request
from meshway.protocols.a2a.requests import RequestRefused, read_jsonrpc, read_rest
from meshway.protocols.a2a.shapes import JSON_0_3, PROTO_0_3
from meshway.protocols.a2a.tasklist import read_list_query
from meshway.protocols.a2a.translation import lower_result, raise_result
from meshway.protocols.jsonrpc import has_unique_names
from support.a2a_wire_samples import DIALECTS, MESSAGE, MESSAGE_0_3, interface, send

NAMES = [
    "id",
    "taskId",
    "task_id",
    "contextId",
    "messageId",
    "role",
    "parts",
    "content",
    "message",
    "request",
    "params",
    "configuration",
    "blocking",
    "tenant",
    "kind",
    "file",
    "status",
    "state",
    "artifact",
    "artifacts",
    "history",
    "metadata",
    "text",
    "data",
    "raw",
    "url",
    "result",
    "error",
    "code",
    "task",
    "msg",
    "statusUpdate",
    "name",
    "update",
    "artifactUpdate",
    "configs",
    "pushNotificationConfig",
    "authentication",
    "schemes",
    "config",
    "parent",
    "x-other",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["ROLE_USER", "user", "message", "task", "TASK_STATE_WORKING", "working"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=25,
)
METHODS = st.sampled_from(
    [operation.value for operation in AgentOperation] + ["message/send", "tasks/get", "tasks/resubscribe"]
)
VERSIONS = st.sampled_from([None, "1.0", "0.3"]) | st.text(max_size=6)
DIALECT = st.sampled_from(DIALECTS)
FEW = settings(max_examples=150, deadline=None)


def _send_on(request) -> None:
    for dialect in DIALECTS:
        try:
            encode_request(request, interface(dialect, tenant="t"), context_id="c")
        except (InvalidRequest, OperationUnsupported):
            continue


@FEW
@given(
    st.binary(max_size=200) | JSON.map(msgspec.json.encode),
    VERSIONS,
    st.text(max_size=12) | st.just("application/json"),
)
def test_any_bytes_are_a_request_or_are_refused(body, version, content_type):
    try:
        read_jsonrpc(body, version=version, content_type=content_type)
    except RequestRefused as refused:
        msgspec.json.decode(render_error(refused.error, refused.dialect, refused.request_id).body)


@FEW
@given(METHODS, JSON, JSON)
def test_any_params_are_a_request_or_are_refused_and_can_be_sent_on(method, request_id, params):
    if isinstance(params, dict) and "message" in params and isinstance(params["message"], dict):
        params["message"] = (MESSAGE_0_3 if "/" in method else MESSAGE) | params["message"]
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    try:
        request = read_jsonrpc(body, version=None if "/" in method else "1.0", content_type="application/json")
    except RequestRefused as refused:
        msgspec.json.decode(render_error(refused.error, refused.dialect, refused.request_id).body)
        return
    _send_on(request)
    if request.operation is AgentOperation.LIST_TASKS:
        with contextlib.suppress(InvalidRequest):
            read_list_query(request)


@FEW
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    st.lists(
        st.sampled_from(
            [
                "v1",
                "tasks",
                "message:send",
                "t:cancel",
                "t:subscribe",
                "pushNotificationConfigs",
                "x",
                "%2e%2e",
                "..",
                "",
            ]
        )
        | st.text(max_size=4),
        max_size=5,
    ).map(lambda parts: "/" + "/".join(parts)),
    st.text(max_size=20),
    st.just(b"") | st.binary(max_size=30) | JSON.map(msgspec.json.encode),
    VERSIONS,
)
def test_any_path_is_a_request_or_is_refused_and_can_be_sent_on(method, path, query, body, version):
    try:
        request = read_rest(method, path, query, body, version=version, content_type="application/json")
    except RequestRefused as refused:
        render_error(refused.error, refused.dialect)
        return
    _send_on(request)


@FEW
@given(DIALECT, DIALECT, st.integers(200, 599), st.binary(max_size=100) | JSON.map(msgspec.json.encode))
def test_any_answer_is_translated_or_is_not_a2a(client, agent, status, body):
    for wrapped in (body, b'{"jsonrpc":"2.0","id":1,"result":%b}' % body, b'{"error":%b}' % body):
        try:
            reply = decode_reply(send(client), interface(agent), status, b"application/json", wrapped)
        except UpstreamInvalid:
            continue
        msgspec.json.decode(reply.body)


@FEW
@given(DIALECT, DIALECT, st.lists(st.binary(max_size=60) | JSON.map(msgspec.json.encode), max_size=4))
def test_any_stream_is_translated_or_is_not_a2a(client, agent, chunks):
    translator = StreamTranslator(send(client, stream=True), interface(agent), event_bytes_max=400)
    try:
        for chunk in chunks:
            translator.feed(b"data: " + chunk + b"\n\n")
        translator.finish()
    except UpstreamInvalid:
        return


@FEW
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "name",
                "description",
                "version",
                "url",
                "supportedInterfaces",
                "skills",
                "capabilities",
                "securitySchemes",
                "security",
                "provider",
                "additionalInterfaces",
                "preferredTransport",
                "x",
            ]
        ),
        JSON,
    )
)
def test_any_card_is_read_or_refused(card):
    plausible = {"name": "n", "description": "d", "version": "1", "url": "http://a.test"} | card
    for document in (card, plausible):
        try:
            facts = read_card(msgspec.json.encode(document))
        except (InvalidRequest, PayloadTooLarge):
            continue
        for style in ("1.0", "union", "0.3"):
            serve_card(facts, base_url="http://hub.test/a2a/x", style=style, hub_requires_key=True)


@FEW
@given(st.lists(st.tuples(st.text(max_size=3), JSON), max_size=6), st.booleans())
def test_names_given_twice_are_found_whatever_the_layout(pairs, spaced):
    comma, colon = (b" ,\n", b" : ") if spaced else (b",", b":")
    raw = b"{" + comma.join(msgspec.json.encode(k) + colon + msgspec.json.encode(v) for k, v in pairs) + b"}"
    assert has_unique_names(raw) is (len({k for k, _ in pairs}) == len(pairs))


TEXT = st.text(max_size=6)
FREE = st.dictionaries(TEXT.map(lambda key: "x" + key), JSON, max_size=2)
METADATA = st.fixed_dictionaries(
    {}, optional={"metadata": st.dictionaries(TEXT.map(lambda key: "m" + key), JSON, min_size=1, max_size=2)}
)
MEDIA = st.fixed_dictionaries(
    {}, optional={"filename": st.text(min_size=1, max_size=5), "mediaType": st.just("image/png")}
)
PART = st.one_of(
    st.builds(lambda t, m, x: {"text": t} | m | x, TEXT, METADATA, FREE),
    st.builds(
        lambda b, m, f, x: {"raw": b} | f | m | x, st.sampled_from(["", "AAH/", "QUFILw=="]), METADATA, MEDIA, FREE
    ),
    st.builds(lambda f, m, x: {"url": "http://x"} | f | m | x, MEDIA, METADATA, FREE),
    st.builds(lambda d, m, x: {"data": d} | m | x, JSON, METADATA, FREE),
)
MSG = st.builds(
    lambda i, r, p, m, x: {"messageId": i, "role": r, "parts": p} | m | x,
    TEXT,
    st.sampled_from(["ROLE_USER", "ROLE_AGENT"]),
    st.lists(PART, max_size=3),
    METADATA,
    FREE,
)
STATUS = st.builds(
    lambda s, m, x: {"state": s} | m | x,
    st.sampled_from(
        ["TASK_STATE_WORKING", "TASK_STATE_CANCELED", "TASK_STATE_AUTH_REQUIRED", "TASK_STATE_UNSPECIFIED"]
    ),
    st.fixed_dictionaries({}, optional={"message": MSG}),
    FREE,
)
ARTIFACT = st.builds(lambda i, p, x: {"artifactId": i, "parts": p} | x, TEXT, st.lists(PART, max_size=2), FREE)
TASK = st.builds(
    lambda i, s, a, h, x: {"id": i, "contextId": "c", "status": s, "artifacts": a, "history": h} | x,
    TEXT,
    STATUS,
    st.lists(ARTIFACT, max_size=2),
    st.lists(MSG, max_size=2),
    FREE,
)
EVENT = st.one_of(
    TASK.map(lambda v: {"task": v}),
    MSG.map(lambda v: {"message": v}),
    STATUS.map(lambda v: {"statusUpdate": {"taskId": "t", "contextId": "c", "status": v}}),
    ARTIFACT.map(lambda v: {"artifactUpdate": {"taskId": "t", "contextId": "c", "artifact": v, "append": True}}),
)


@FEW
@given(EVENT, st.sampled_from([JSON_0_3, PROTO_0_3]))
def test_every_event_of_1_0_survives_the_way_to_0_3_and_back(event, legacy):
    operation = AgentOperation.STREAM_MESSAGE
    wire = msgspec.json.decode(msgspec.json.encode(lower_result(operation, event, legacy)))
    assert raise_result(operation, wire, legacy) == event
