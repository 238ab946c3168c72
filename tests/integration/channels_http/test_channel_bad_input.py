"""What is wrong with a data call is answered with a problem document that names the field, and nothing is stored."""

import base64
import json

import pytest

from meshway.messaging.settings import MessagingSettings
from support.channel_hub import channel_hub

QUEUE = "/v1/queues/q/messages"
STREAM = "/v1/streams/s"
EVENTS = "/v1/events/e"
GOOD = b'{"data":1}'


@pytest.fixture
async def hub(tmp_path):
    settings = MessagingSettings(batch_max=10, data_bytes_max=100_000, long_poll_max_ms=1_000)
    async with channel_hub(tmp_path / "data", messaging=settings) as hub:
        yield hub


def batch(*messages):
    return b'{"messages":[' + b",".join(messages) + b"]}"


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["code"], document["status"]) == (code, status)
    assert document["detail"]
    return [each["field"] for each in document["errors"]]


async def send(hub, path, body, content_type="application/json", **headers):
    return await hub.http.post(path, content=body, headers={"Content-Type": content_type, **headers})


async def assert_nothing_stored(hub):
    assert await hub.stored("q") == 0
    answer = await hub.http.get("/v1/streams/s/messages?from=first")
    assert answer.json()["items"] == [], answer.text


WRONG_MESSAGES = [
    (b'{"data":1,"id":5}', "id"),
    (b'{"data":1,"id":""}', "id"),
    (b'{"data":1,"id":"%b"}' % (b"x" * 256), "id"),
    (b'{"data":1,"attributes":{"a":1}}', "attributes"),
    (b'{"data":1,"attributes":[]}', "attributes"),
    (b'{"data":1,"attributes":{"a":"%b"}}' % (b"x" * 20_000), "attributes"),
    (b'{"data":1,"content_type":""}', "content_type"),
    (b'{"data":1,"content_type":"a\\nb"}', "content_type"),
    (b'{"data_base64":"not base64!"}', "data_base64"),
    (b'{"data_base64":"abc"}', "data_base64"),
    (b'{"data_base64":5}', "data_base64"),
    (b'{"data":1,"data_base64":"AA=="}', ""),
    (b"{}", ""),
    (b"5", ""),
    (b'{"data":1,"dela_ms":5}', "dela_ms"),
]


@pytest.mark.parametrize("path", [QUEUE, STREAM, EVENTS])
@pytest.mark.parametrize(("message", "field"), WRONG_MESSAGES)
async def test_a_wrong_member_is_named_by_its_place_and_refuses_the_whole_post(hub, path, message, field):
    fields = problem(await send(hub, path, batch(GOOD, message)), 400, "invalid_request")
    assert fields[0] in (f"messages.1.{field}".rstrip("."), "messages.1")
    assert fields[0] == f"messages.1.{field}".rstrip(".") or not field
    await assert_nothing_stored(hub)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (b'{"data":1,"delay_ms":-1}', "delay_ms"),
        (b'{"data":1,"delay_ms":1.5}', "delay_ms"),
        (b'{"data":1,"delay_ms":99999999999999999999}', "delay_ms"),
        (b'{"data":1,"delay_ms":40000000000}', "delay_ms"),
        (b'{"data":1,"deliver_at":"tomorrow"}', "deliver_at"),
        (b'{"data":1,"expires_in_ms":0}', "expires_in_ms"),
        (b'{"data":1,"priority":"highest"}', "priority"),
        (b'{"data":1,"dedupe_id":""}', "dedupe_id"),
    ],
)
async def test_a_wrong_term_of_a_queued_message_is_named(hub, message, field):
    assert problem(await send(hub, QUEUE, batch(GOOD, message)), 400, "invalid_request") == [f"messages.1.{field}"]
    await assert_nothing_stored(hub)


@pytest.mark.parametrize("path", [STREAM, EVENTS])
async def test_a_term_of_queues_is_refused_elsewhere(hub, path):
    fields = problem(await send(hub, path, batch(b'{"data":1,"delay_ms":5}')), 400, "invalid_request")
    assert fields == ["messages.0.delay_ms"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "messages"),
        (b'{"messages":5}', "messages"),
        (b'{"messages":[]}', "messages"),
        (batch(*[GOOD] * 11), "messages"),
        (b'{"message":[]}', "messages"),
        (b"[]", ""),
        (b"null", ""),
        (b'"text"', ""),
    ],
)
async def test_a_wrong_batch_is_named(hub, body, field):
    for path in (QUEUE, STREAM, EVENTS):
        assert problem(await send(hub, path, body), 400, "invalid_request")[0] == field
    await assert_nothing_stored(hub)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        batch(b'{"data":NaN}'),
        batch(b'{"data":Infinity}'),
        batch(b'{"data":01}'),
        batch(b'{"data":"\xff"}'),
        batch(b'{"data":"\xed\xa0\x80"}'),
        batch(b'{"data":"\\ud800"}'),
        batch(b'{"data":"line\nbreak"}'),
        batch(b'{"data":' + b"[" * 100_000),
        batch(b'{"data":' + b'{"a":' * 100_000),
        batch(GOOD) + b"x",
        "über".encode("utf-16"),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_no_json_is_malformed_and_the_hub_goes_on(hub, body):
    for path in (QUEUE, STREAM, EVENTS):
        assert problem(await send(hub, path, body), 400, "malformed_body") == []
    for path in ("/v1/commands/c", "/v1/queues/q/lease", "/v1/queues/q/settle", "/v1/queries/c/reply"):
        # An unknown member may be met before the place where the JSON breaks.
        answer = await send(hub, path, body)
        problem(answer, 400, answer.json()["code"])
    await assert_nothing_stored(hub)
    assert (await send(hub, QUEUE, batch(GOOD))).status_code == 202


@pytest.mark.parametrize("coding", ["gzip", "br, gzip"])
async def test_a_packed_body_is_refused_as_such(hub, coding):
    for path in (QUEUE, STREAM, EVENTS, "/v1/queues/q/lease"):
        answer = await send(hub, path, batch(GOOD), **{"Content-Encoding": coding})
        problem(answer, 415, "content_type_unsupported")
        assert coding in answer.json()["detail"]
    await assert_nothing_stored(hub)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "", "application/x-www-form-urlencoded", "application/cloudevents+avro"]
)
async def test_another_media_type_is_415(hub, content_type):
    for path in (QUEUE, STREAM, EVENTS):
        problem(await send(hub, path, batch(GOOD), content_type), 415, "content_type_unsupported")
    if "cloudevents" not in content_type:
        for path in ("/v1/queues/q/lease", "/v1/queues/q/settle", "/v1/queries/c", "/v1/queries/c/reply"):
            problem(await send(hub, path, b"{}", content_type), 415, "content_type_unsupported")
    await assert_nothing_stored(hub)


@pytest.mark.parametrize(
    "name", ["a..b", ".a", "a.", "a%20b", "a%2Fb", "%FF", "a*b", "*", "%3E", "_audit", "_x.y", "ü", "a" * 256, "a%0A"]
)
async def test_an_invalid_name_is_named(hub, name):
    calls = [
        (f"/v1/queues/{name}/messages", batch(GOOD)),
        (f"/v1/streams/{name}", batch(GOOD)),
        (f"/v1/events/{name}", batch(GOOD)),
        (f"/v1/queues/{name}/lease", b"{}"),
        (f"/v1/queues/{name}/settle", b'{"settlements":[{"delivery_id":"d","action":"ack"}]}'),
        (f"/v1/commands/{name}", GOOD),
    ]
    if name not in ("*", "%3E"):
        # A responder may answer a pattern of channels.
        calls.append((f"/v1/queries/{name}/lease", b"{}"))
    for path, body in calls:
        assert problem(await send(hub, path, body), 400, "invalid_request") == ["channel"], path
    for path in (f"/v1/queues/{name}/messages", f"/v1/streams/{name}/messages"):
        assert problem(await hub.http.get(path), 400, "invalid_request") == ["channel"], path


async def test_a_bare_array_is_refused_however_deep_it_goes(hub):
    for path in (QUEUE, "/v1/commands/c", "/v1/queues/q/lease"):
        assert problem(await send(hub, path, b"[" * 100_000), 400, "invalid_request") == [""]


@pytest.mark.parametrize("pattern", ["a.%3E.b", "a%3E", "a.b*", "**", "_audit", "%00"])
async def test_an_invalid_pattern_is_named(hub, pattern):
    for kind in ("events", "streams"):
        assert problem(await hub.http.get(f"/v1/{kind}/{pattern}"), 400, "invalid_request") == ["channel"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/events/e?groop=g", "groop"),
        ("/v1/events/e?group=a&group=b", "group"),
        ("/v1/events/e?group=a%20b", "group"),
        ("/v1/streams/s?from=yesterday", "from"),
        ("/v1/streams/s?from=0", "from"),
        ("/v1/streams/s?from=last:0", "from"),
        ("/v1/streams/s?from=time:2026", "from"),
        ("/v1/streams/s?start=1", "start"),
        ("/v1/streams/s.*?from=5", "from"),
        ("/v1/streams/s/messages?from=-1", "from"),
        ("/v1/streams/s/messages?limit=0", "limit"),
        ("/v1/streams/s/messages?limit=ten", "limit"),
        ("/v1/streams/s/messages?limit=1&limit=2", "limit"),
        ("/v1/streams/s/messages?wait_ms=-1", "wait_ms"),
        ("/v1/streams/s/messages?wait_ms=1001", "wait_ms"),
        ("/v1/queues/q/messages?limit=100000", "limit"),
        ("/v1/queues/q/messages?x=", "x"),
    ],
)
async def test_a_wrong_parameter_is_named(hub, path, field):
    assert (await send(hub, QUEUE, batch(GOOD))).status_code == 202
    assert problem(await hub.http.get(path), 400, "invalid_request") == [field]


@pytest.mark.parametrize("path", ["/v1/streams/s", "/v1/streams/s.%3E"])
@pytest.mark.parametrize("last_event_id", ["x", "-1", "9" * 30, "%00"])
async def test_a_last_event_id_that_is_none_of_ours_is_refused(hub, path, last_event_id):
    answer = await hub.http.get(path, headers={"Last-Event-ID": last_event_id})
    assert problem(answer, 400, "invalid_request") == ["cursor"]


async def test_an_unknown_reader_is_404(hub):
    problem(await hub.http.get("/v1/streams/s?reader=nobody"), 404, "reader_not_found")
    problem(await hub.http.get("/v1/streams/s/messages?reader=nobody"), 404, "reader_not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"count":0}', "count"),
        (b'{"count":1001}', "count"),
        (b'{"count":"1"}', "count"),
        (b'{"wait_ms":-1}', "wait_ms"),
        (b'{"wait_ms":1001}', "wait_ms"),
        (b'{"max":1}', "max"),
    ],
)
async def test_a_wrong_lease_is_named(hub, body, field):
    for path in ("/v1/queues/q/lease", "/v1/commands/c/lease"):
        assert problem(await send(hub, path, body), 400, "invalid_request") == [field]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"delivery_id": "d", "action": "nack"}, "settlements.0.action"),
        ({"delivery_id": "d", "action": "retry", "delay_ms": -5}, "settlements.0.delay_ms"),
        ({"delivery_id": "d", "action": "ack", "delay_ms": 5}, "settlements.0.delay_ms"),
        ({"delivery_id": "d", "action": "dead_letter", "reason": "x" * 1_025}, "settlements.0.reason"),
        ({"action": "ack"}, "settlements.0.delivery_id"),
        ({"delivery_id": 5, "action": "ack"}, "settlements.0.delivery_id"),
    ],
)
async def test_a_wrong_settlement_is_named_and_nothing_is_settled(hub, item, field):
    await send(hub, QUEUE, batch(GOOD))
    held = (await send(hub, "/v1/queues/q/lease", b'{"wait_ms":900}')).json()["deliveries"][0]["delivery_id"]
    body = json.dumps({"settlements": [item, {"delivery_id": held, "action": "ack"}]}).encode()
    assert problem(await send(hub, "/v1/queues/q/settle", body), 400, "invalid_request") == [field]
    assert await hub.stored("q") == 1


@pytest.mark.parametrize("body", [b'{"settlements":[]}', b"{}", b'{"settlements":{}}'])
async def test_a_wrong_list_of_settlements_is_named(hub, body):
    assert problem(await send(hub, "/v1/queues/q/settle", body), 400, "invalid_request") == ["settlements"]


async def test_a_foreign_delivery_is_stale_and_stays_with_its_holder(hub):
    await send(hub, QUEUE, batch(GOOD))
    held = (await send(hub, "/v1/queues/q/lease", b'{"wait_ms":900}')).json()["deliveries"][0]["delivery_id"]
    body = json.dumps({"settlements": [{"delivery_id": held, "action": "ack"}]}).encode()
    assert (await send(hub, "/v1/queues/other/settle", body)).json() == {"outcomes": ["stale"]}
    assert (await send(hub, "/v1/queues/q/settle", body)).json() == {"outcomes": ["done"]}
    assert (await send(hub, "/v1/queues/q/settle", body)).json() == {"outcomes": ["stale"]}


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("commands", b"{}", ""),
        ("commands", b'{"data":1,"timeout_ms":0}', "timeout_ms"),
        ("commands", b'{"data":1,"timeout_ms":99999999}', "timeout_ms"),
        ("commands", b'{"data":1,"cache_key":"k","cache_ttl_ms":5}', "cache_key"),
        ("queries", b'{"data":1,"cache_key":"k","cache_ttl_ms":-5}', "cache_ttl_ms"),
        ("queries", b'{"data":1,"nothing":5}', "nothing"),
        ("queries", b'{"data":1,"attributes":{"a":[]}}', "attributes"),
    ],
)
async def test_a_wrong_request_is_named(hub, kind, body, field):
    fields = problem(await send(hub, f"/v1/{kind}/c", body), 400, "invalid_request")
    assert not field or field in fields


async def test_a_timeout_header_that_is_none_is_named(hub):
    answer = await send(hub, "/v1/commands/c", GOOD, **{"Meshway-Timeout-Ms": "soon"})
    assert problem(answer, 400, "invalid_request") == ["Meshway-Timeout-Ms"]


async def test_data_beyond_the_limit_travels_by_reference(hub):
    content = "x" * 150_000
    answer = await send(hub, QUEUE, json.dumps({"messages": [{"data": content}]}).encode())
    assert answer.status_code == 202, answer.text
    message = (await hub.http.get(QUEUE)).json()["items"][0]
    fetched = await hub.http.get(f"/v1/blobs/{message['data_ref']['sha256']}")
    assert fetched.json() == content


async def test_a_body_beyond_the_servers_limit_is_413(hub):
    answer = await send(hub, QUEUE, b" " * (33_554_432 + 1))
    problem(answer, 413, "payload_too_large")


async def test_an_unknown_blob_reference_is_named(hub):
    body = json.dumps({"messages": [{"data_ref": {"sha256": "0" * 64}}]}).encode()
    (field,) = problem(await send(hub, QUEUE, body), 400, "invalid_request")
    assert field.startswith("messages.0.data_ref")
    assert problem(await hub.http.get("/v1/blobs/nonsense"), 400, "invalid_request") == ["sha256"]


async def test_a_wrong_cloudevent_is_named_by_its_attributes(hub):
    answer = await send(hub, QUEUE, b'{"specversion":"1.0","id":"1"}', "application/cloudevents+json")
    assert problem(answer, 400, "invalid_request") == ["source", "type"]
    answer = await send(hub, QUEUE, b"1", "application/json", **{"ce-specversion": "1.0"})
    assert problem(answer, 400, "invalid_request") == ["ce-id", "ce-source", "ce-type"]
    big = base64.b64encode(b"x").decode()
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": 1, "data_base64": big}
    answer = await send(hub, QUEUE, json.dumps([event]).encode(), "application/cloudevents-batch+json")
    assert problem(answer, 400, "invalid_request") == ["0.data_base64"]
    await assert_nothing_stored(hub)


async def test_unknown_kinds_are_404_and_unknown_methods_405(hub):
    problem(await send(hub, "/v1/topics/t", batch(GOOD)), 404, "not_found")
    problem(await hub.http.get("/v1/queues/q/nothing"), 404, "not_found")
    problem(await hub.http.get("/v1/queues/q/lease"), 405, "method_unknown")


async def test_a_full_queue_is_429_and_names_its_setting(hub):
    made = await hub.http.put("/v1/queues/q", json={"max_messages": 2})
    assert made.status_code == 201, made.text
    answer = await send(hub, QUEUE, batch(GOOD, GOOD, GOOD))
    problem(answer, 429, "channel_full")
    document = answer.json()
    assert "max_messages" in document["detail"]
    assert [receipt is not None for receipt in document["receipts"]] == [True, True, False]


async def test_who_shows_a_wrong_key_is_401(hub):
    for answer in (
        await send(hub, QUEUE, batch(GOOD), Authorization="Bearer mw_nobody"),
        await hub.http.get("/v1/events/e", headers={"X-API-Key": "mw_nobody"}),
    ):
        problem(answer, 401, "unauthenticated")
        assert "www-authenticate" in answer.headers
    await assert_nothing_stored(hub)


async def test_a_key_that_may_not_call_is_403(hub):
    made = await hub.http.post("/v1/keys", json={"name": "server", "scopes": ["serve:x"]})
    assert made.status_code == 201, made.text
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    problem(await send(hub, QUEUE, batch(GOOD), **bearer), 403, "forbidden")
    problem(await hub.http.get("/v1/events/e", headers=bearer), 403, "forbidden")
