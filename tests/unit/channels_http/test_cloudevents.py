"""CloudEvents 1.0 become messages, and wrong ones are refused by the names of their attributes."""

import base64
import json

import msgspec
import pytest

from meshway.kernel.errors import InvalidRequest, MalformedBody
from meshway.protocols.cloudevents import read_batch, read_binary, read_structured

EVENT = {
    "specversion": "1.0",
    "id": "a-1",
    "source": "/agents/planner",
    "type": "plan.made",
    "subject": "trip",
    "time": "2026-01-02T03:04:05Z",
    "dataschema": "https://schemas.example/plan",
    "datacontenttype": "application/json",
    "priorityclass": 3,
    "sampled": True,
    "absent": None,
    "data": {"steps": [1, 2]},
}


def structured(**changes):
    event = {**EVENT, **changes}
    return json.dumps({name: value for name, value in event.items() if value is not ...}).encode()


def refused(read, *arguments):
    with pytest.raises(InvalidRequest) as caught:
        read(*arguments)
    return [each.field for each in caught.value.fields]


def test_a_structured_event_keeps_id_data_and_every_attribute():
    (message,) = read_structured(structured()).messages
    assert (message.id, message.identity, message.content_type) == ("a-1", "/agents/planner a-1", "application/json")
    assert msgspec.json.decode(message.data) == {"steps": [1, 2]}
    assert message.attributes == {
        "ce_specversion": "1.0",
        "ce_source": "/agents/planner",
        "ce_type": "plan.made",
        "ce_subject": "trip",
        "ce_time": "2026-01-02T03:04:05Z",
        "ce_dataschema": "https://schemas.example/plan",
        "ce_priorityclass": "3",
        "ce_sampled": "true",
    }


def test_events_of_one_id_and_two_sources_are_two():
    (one,) = read_structured(structured()).messages
    (other,) = read_structured(structured(source="/agents/other")).messages
    assert one.id == other.id
    assert one.identity != other.identity


def test_a_long_identity_is_hashed_and_still_tells_events_apart():
    identities = {
        read_structured(structured(source="/" + "s" * 300, id=event_id)).messages[0].identity for event_id in ("a", "b")
    }
    assert len(identities) == 2
    assert all(len(identity) == 64 for identity in identities)


def test_all_missing_attributes_are_named_at_once():
    assert refused(read_structured, b'{"data":1}') == ["id", "source", "specversion", "type"]
    assert refused(read_structured, structured(source="", type=None)) == ["source", "type"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": "1.0.1"}, "specversion"),
        ({"id": "x" * 256}, "id"),
        ({"id": {"a": 1}}, "id"),
        ({"type": 1.5}, "type"),
        ({"Upper": "x"}, "Upper"),
        ({"with_underscore": "x"}, "with_underscore"),
        ({"data_base64": "aGk="}, "data_base64"),
        ({"data": ..., "data_base64": "not base64!"}, "data_base64"),
        ({"data": ..., "data_base64": 5}, "data_base64"),
    ],
)
def test_a_wrong_attribute_is_named(changes, field):
    assert refused(read_structured, structured(**changes)) == [field]


def test_bytes_of_a_structured_event_stay_base64():
    body = structured(data=..., data_base64=base64.b64encode(b"\x00\xff").decode(), datacontenttype="image/png")
    (message,) = read_structured(body).messages
    assert (message.data, message.data_base64, message.content_type) == (msgspec.UNSET, "AP8=", "image/png")


def test_an_event_without_data_is_null():
    (message,) = read_structured(structured(data=...)).messages
    assert bytes(message.data) == b"null"


def test_a_batch_is_refused_for_its_first_wrong_event_by_its_place():
    good = structured()
    assert len(read_batch(b"[" + good + b"," + good + b"]").messages) == 2
    assert refused(read_batch, b"[" + good + b"," + structured(source=...) + b"]") == ["1.source"]
    assert read_batch(b"[]").messages == []


@pytest.mark.parametrize(("read", "body"), [(read_structured, b"[]"), (read_batch, b"{}"), (read_batch, b"[1]")])
def test_another_shape_is_refused(read, body):
    assert refused(read, body) == [""]


@pytest.mark.parametrize("event", [b"{", b'{"id":NaN}', b'{"data":"\xff"}', b'{"data":' * 100_000, b'{"a":1}x'])
def test_what_is_no_json_is_malformed(event):
    with pytest.raises(MalformedBody):
        read_structured(event)
    with pytest.raises(MalformedBody):
        read_batch(b"[" + event)


def binary(**changes):
    headers = {
        b"ce-specversion": b"1.0",
        b"ce-id": b"a-1",
        b"ce-source": b"/agents/planner",
        b"ce-type": b"plan.made",
        b"content-type": b"application/json",
        b"host": b"hub",
    }
    for name, value in changes.items():
        headers[name.replace("_", "-").encode()] = value
    return {name: value for name, value in headers.items() if value is not None}


def test_a_binary_event_has_its_attributes_in_headers_and_its_data_in_the_body():
    (message,) = read_binary(binary(ce_team=b"r%C3%A9seau"), b'{"steps":[]}').messages
    assert (message.id, message.content_type) == ("a-1", "application/json")
    assert bytes(message.data) == b'{"steps":[]}'
    assert message.attributes == {
        "ce_specversion": "1.0",
        "ce_source": "/agents/planner",
        "ce_type": "plan.made",
        "ce_team": "réseau",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b'"quoted \\"text\\" \\\\"', 'quoted "text" \\'),
        (b"%25E2", "%E2"),
        (b"100%", "100%"),
    ],
)
def test_header_values_are_unquoted_and_percent_decoded_once(value, text):
    (message,) = read_binary(binary(ce_subject=value), b"1").messages
    assert message.attributes["ce_subject"] == text


def test_a_header_that_is_no_utf8_is_named():
    assert refused(read_binary, binary(ce_subject=b"%FF"), b"1") == ["ce-subject"]
    assert refused(read_binary, binary(ce_id=b"%FF"), b"1") == ["ce-id"]


def test_missing_headers_are_named():
    assert refused(read_binary, binary(ce_source=None, ce_type=None), b"1") == ["ce-source", "ce-type"]


@pytest.mark.parametrize(
    ("content_type", "body", "data", "data_base64"),
    [
        (b"application/json", b'{"a":1}', b'{"a":1}', None),
        (b"application/vnd.plan+json; charset=utf-8", b"[1]", b"[1]", None),
        (b"text/plain", "grüße\n".encode(), '"grüße\\n"'.encode(), None),
        (b"text/plain; charset=latin-1", b"gr\xfc\xdfe", None, "Z3L832U="),
        (b"image/png", b"\x89PNG", None, "iVBORw=="),
        (None, b"\x00", None, "AA=="),
        (b"application/json", b"", b"null", None),
    ],
)
def test_the_body_is_json_text_or_bytes_by_its_media_type(content_type, body, data, data_base64):
    (message,) = read_binary(binary(content_type=content_type), body).messages
    assert (None if message.data is msgspec.UNSET else bytes(message.data)) == data
    assert message.data_base64 == data_base64


@pytest.mark.parametrize(
    ("content_type", "body"), [(b"application/json", b"{"), (b"application/json", b"NaN"), (b"text/plain", b"\xff")]
)
def test_a_binary_body_that_is_not_what_it_says_is_malformed(content_type, body):
    with pytest.raises(MalformedBody):
        read_binary(binary(content_type=content_type), body)


def test_the_tracing_extension_of_one_event_is_its_trace():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert read_structured(structured(traceparent=trace)).traceparent == trace
    assert read_binary(binary(ce_traceparent=trace.encode()), b"1").traceparent == trace
