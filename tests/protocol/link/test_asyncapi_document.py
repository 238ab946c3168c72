"""The AsyncAPI document says what is spoken: references lead somewhere, schemas accept real frames and no others."""

from collections.abc import Iterator
from typing import get_args

import jsonschema_rs
import msgspec
import pytest

from meshway.edges.link.codec import problem_raw
from meshway.edges.rest.asyncapi import build_asyncapi
from meshway.kernel.errors import InvalidRequest
from meshway.messaging.receipts import Receipt
from meshway.messaging.settlements import SettlementItem
from meshway.protocols.link import frames

DOCUMENT = build_asyncapi(version="1.2.3")
MESSAGE = msgspec.Raw(
    b'{"sequence":3,"id":"m","channel":"a.b","data":{"x":1},"content_type":"application/json","attributes":{"k":"v"},'
    b'"timestamp":"2026-11-22T07:00:00.000Z","principal":"local"}'
)
BYTES = msgspec.Raw(
    b'{"id":"m","channel":"a.b","data_base64":"AAE=","content_type":"image/png","attributes":{},'
    b'"timestamp":"2026-11-22T07:00:00.000Z","principal":"local","traceparent":"00-a-b-01"}'
)
REAL = [
    frames.Subscribe(id="s", kind="streams", channel="a.>", credit=10, start="first"),
    frames.Subscribe(id="s", kind="events", channel="a", group="g"),
    frames.Credit(id="s", messages=5),
    frames.Unsubscribe(id="s"),
    frames.Publish(ref="1", kind="queues", channel="q", messages=msgspec.Raw(b'[{"data":1,"delay_ms":5}]')),
    frames.Settle(ref="1", queue="q", settlements=[SettlementItem(delivery_id="d", action="retry", delay_ms=1)]),
    frames.Ack(ref="1", channel="s", reader="r", sequence=3),
    frames.Request(ref="1", kind="queries", channel="q", data=msgspec.Raw(b"[1]"), cache_key="k", cache_ttl_ms=5),
    frames.Reply(ref="1", request_id="r", executed=False, error="no"),
    frames.Reply(ref="1", request_id="r", data=msgspec.Raw(b'"x"')),
    frames.Ping(ref="1"),
    frames.Welcome(protocol=1, hub="meshway/1", ping_interval_ms=1, frame_bytes_max=1, subscriptions_max=1),
    frames.Subscribed(id="s", cursor="0"),
    frames.Messages(id="s", messages=[MESSAGE, BYTES], cursor="3"),
    frames.Messages(id="s", messages=[MESSAGE]),
    frames.Missed(id="s", missed=None),
    frames.Deliveries(
        id="s",
        deliveries=[
            frames.Delivery(delivery_id="d", attempt=1, lease_until="2026-11-22T07:00:00.000Z", message=MESSAGE)
        ],
    ),
    frames.Requests(
        id="s",
        requests=[frames.RequestItem(request_id="r", deadline="2026-11-22T07:00:00.000Z", timeout_ms=1, message=BYTES)],
    ),
    frames.Settled(ref="1", outcomes=["done", "stale"]),
    frames.Acked(ref="1", sequence=3),
    frames.Replied(ref="1", outcome="stale"),
    frames.Accepted(ref="1", receipts=[Receipt(id="m", duplicate=False, sequence=1), Receipt(id="n", duplicate=True)]),
    frames.Response(ref="1", executed=True, data=msgspec.Raw(b"{}"), cache="hit"),
    frames.Response(ref="1", executed=False, error="no", cache="off"),
    frames.Unsubscribed(id="s"),
    frames.Pong(ref="1"),
    frames.Draining(within_ms=5),
    frames.Error(problem=problem_raw(InvalidRequest("no", retry_after_ms=5)), ref="1"),
    frames.Serve(
        id="s",
        agent="counter",
        instance="host-1",
        card=msgspec.Raw(b'{"name":"Counter"}'),
        labels={"zone": "eu"},
        capacity=5,
        credit=5,
        holds=[frames.Hold(delivery_id="1.1.t.e", source=3)],
    ),
    frames.Served(
        id="s",
        instance="host-1",
        lease_ms=30_000,
        grace_ms=5_000,
        holds=[frames.HoldState(delivery_id="1.1.t.e", held=True, source=2)],
    ),
    frames.Tasks(
        id="s",
        tasks=[
            frames.TaskDelivery(
                delivery_id="1.1.t.e",
                task_id="t",
                context_id="c",
                attempt=1,
                lease_ms=30_000,
                deadline="2026-11-22T07:00:00.000Z",
                chain="token",
                message=msgspec.Raw(b'{"messageId":"m","role":"ROLE_USER","parts":[{"text":"3"}]}'),
                task=msgspec.Raw(b'{"id":"t"}'),
            )
        ],
    ),
    frames.Report(
        ref="1",
        id="s",
        reports=[frames.ReportItem(delivery_id="1.1.t.e", source=1, event=msgspec.Raw(b'{"statusUpdate":{}}'))],
    ),
    frames.Reported(
        ref="1",
        outcomes=[
            frames.ReportOutcome(delivery_id="1.1.t.e", outcome="done", source=1),
            frames.ReportOutcome(delivery_id="1.1.u.e", outcome="refused", detail="no"),
        ],
    ),
    frames.SettleTasks(
        ref="1",
        id="s",
        settlements=[frames.TaskSettlement(delivery_id="1.1.t.e", action="retry", delay_ms=5, reason="busy")],
    ),
    frames.CancelTasks(id="s", delivery_ids=["1.1.t.e"], reason="cancelled by its client"),
    frames.Bye(id="s"),
]


def walk(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from walk(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from walk(each)


def resolve(reference: str) -> object:
    found: object = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        assert isinstance(found, dict)
        found = found[step]
    return found


def validator(name: str) -> jsonschema_rs.Draft7Validator:
    components = msgspec.json.decode(msgspec.json.encode(DOCUMENT["components"]))
    return jsonschema_rs.Draft7Validator({"$ref": f"#/components/schemas/{name}", "components": components})


def test_every_reference_leads_somewhere() -> None:
    references = [each["$ref"] for each in walk(DOCUMENT) if "$ref" in each]
    assert len(references) > 50
    for reference in references:
        assert resolve(reference) is not None


def test_the_document_has_the_form_of_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert set(DOCUMENT) <= {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations",
                             "components"}  # fmt: skip
    channels = DOCUMENT["channels"]
    assert isinstance(channels, dict)
    assert channels["link"]["address"] == "/v1/ws"
    operations = DOCUMENT["operations"]
    assert isinstance(operations, dict)
    for operation in operations.values():
        assert operation["action"] in ("send", "receive")
        for message in (*operation["messages"], *operation.get("reply", {}).get("messages", ())):
            # An operation names messages of its channel, never of the components (AsyncAPI 3.0, Operation Object).
            assert message["$ref"].startswith("#/channels/link/messages/")
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT))["info"]["version"] == "1.2.3"


def test_every_frame_is_described_with_a_summary() -> None:
    components = DOCUMENT["components"]
    assert isinstance(components, dict)
    described = {message["title"]: message for message in components["messages"].values()}
    spoken = {each.__name__ for each in (*get_args(frames.ClientFrame), *get_args(frames.HubFrame))}
    assert set(described) == spoken
    assert all(message["summary"] for message in described.values())
    assert {message["name"] for message in described.values()} >= set(frames.CLIENT_FRAME_TYPES)


def test_all_kinds_of_frames_have_a_real_one_in_this_test() -> None:
    assert {type(each) for each in REAL} == {*get_args(frames.ClientFrame), *get_args(frames.HubFrame)}


@pytest.mark.parametrize("frame", REAL, ids=lambda frame: type(frame).__name__)
def test_real_frames_are_as_the_document_says(frame: msgspec.Struct) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(frame))
    validator(type(frame).__name__).validate(wire)


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("Subscribe", {"type": "subscribe", "id": "s", "kind": "topics", "channel": "a"}),
        ("Subscribe", {"type": "subscribe", "kind": "events", "channel": "a"}),
        ("Subscribe", {"type": "subscribe", "id": "", "kind": "events", "channel": "a"}),
        ("Publish", {"type": "publish", "ref": "1", "kind": "events", "channel": "a", "messages": [{"dat": 1}]}),
        ("Publish", {"type": "publish", "ref": "1", "kind": "events", "channel": "a", "messages": []}),
        ("Settle", {"type": "settle", "ref": "1", "queue": "q", "settlements": [{"delivery_id": "d", "action": "x"}]}),
        ("Messages", {"type": "messages", "id": "s", "messages": [{"id": "m"}]}),
        ("Credit", {"type": "subscribe", "id": "s", "messages": 1}),
        ("Serve", {"type": "serve", "id": "s", "agent": "counter"}),
        ("Report", {"type": "report", "ref": "1", "id": "s", "reports": [{"delivery_id": "d", "source": 1}]}),
        ("SettleTasks", {"type": "settle_tasks", "ref": "1", "id": "s", "settlements": [{"delivery_id": "d"}]}),
    ],
)
def test_wrong_frames_are_not(name: str, wire: dict) -> None:
    assert not validator(name).is_valid(wire)
