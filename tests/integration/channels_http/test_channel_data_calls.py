"""Every data call of channels through a hub on a socket: what is sent comes back, as the contract says."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re

import pytest

from support.channel_hub import channel_hub

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
async def hub(tmp_path):
    async with channel_hub(tmp_path / "data") as hub:
        yield hub


async def post(hub, path, body, status, **headers):
    answer = await hub.http.post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


class Feed:
    """Server-sent events read from a raw connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def event(self):
        """The next event as a dict of its fields; comments are passed over."""
        while True:
            block = (await self.reader.readuntil(b"\n\n")).decode()
            # Chunk sizes stand between the blocks.
            lines = [line for line in block.replace("\r\n", "\n").split("\n") if ": " in line]
            fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if fields:
                return fields

    async def data(self):
        return json.loads((await self.event())["data"])


@contextlib.asynccontextmanager
async def feed(hub, path, *lines):
    head = "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *lines, "", ""])
    reader, writer = await hub.connect(head.encode())
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(2_000)
            assert b"content-type: text/event-stream" in head
            await reader.readuntil(b": subscribed\n\n")
            yield Feed(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# --- queues ---


async def test_a_queued_message_is_leased_and_done(hub):
    sent = {"id": "m1", "data": {"n": [1, 2.50, None]}, "attributes": {"k": "v"}}
    receipts = await post(hub, "/v1/queues/jobs.a/messages", {"messages": [sent, {"data": "two"}]}, 202)
    assert receipts["receipts"][0] == {"id": "m1", "duplicate": False}
    assert len(receipts["receipts"][1]["id"]) >= 16
    peeked = (await hub.http.get("/v1/queues/jobs.a/messages?limit=10")).json()
    assert [item["id"] for item in peeked["items"]] == [receipt["id"] for receipt in receipts["receipts"]]
    assert peeked["next_cursor"] is None
    leased = (await post(hub, "/v1/queues/jobs.a/lease", {"count": 10, "wait_ms": 5_000}, 200))["deliveries"]
    assert [each["attempt"] for each in leased] == [1, 1]
    message = leased[0]["message"]
    assert MOMENT.fullmatch(message.pop("timestamp"))
    assert MOMENT.fullmatch(leased[0]["lease_until"])
    assert message == {
        "id": "m1",
        "channel": "jobs.a",
        "data": {"n": [1, 2.5, None]},
        "content_type": "application/json",
        "attributes": {"k": "v"},
        "principal": "local",
    }
    settlements = [
        {"delivery_id": leased[0]["delivery_id"], "action": "ack"},
        {"delivery_id": leased[1]["delivery_id"], "action": "retry", "delay_ms": 0},
        {"delivery_id": "nobody's", "action": "ack"},
    ]
    outcomes = await post(hub, "/v1/queues/jobs.a/settle", {"settlements": settlements}, 200)
    assert outcomes == {"outcomes": ["done", "done", "stale"]}
    again = (await post(hub, "/v1/queues/jobs.a/lease", {"count": 10, "wait_ms": 5_000}, 200))["deliveries"]
    assert [(each["attempt"], each["message"]["data"]) for each in again] == [(2, "two")]


async def test_a_repeated_post_is_a_duplicate(hub):
    body = {"messages": [{"id": "m1", "data": 1}]}
    await post(hub, "/v1/queues/q/messages", body, 202)
    again = await post(hub, "/v1/queues/q/messages", {"messages": [{"id": "m1", "data": 1, "dedupe_id": "m1"}]}, 202)
    assert again["receipts"][0]["id"] == "m1"


async def test_an_empty_queue_answers_with_nothing_after_its_wait(hub):
    assert await post(hub, "/v1/queues/q/lease", {}, 200) == {"deliveries": []}
    assert await post(hub, "/v1/queues/q/lease", {"wait_ms": 20}, 200) == {"deliveries": []}


async def test_a_long_poll_is_answered_as_soon_as_a_message_comes(hub):
    async with asyncio.TaskGroup() as group:
        polled = group.create_task(post(hub, "/v1/queues/q/lease", {"wait_ms": 9_000}, 200))
        await post(hub, "/v1/queues/q/messages", {"messages": [{"data": 1}]}, 202)
    assert len(polled.result()["deliveries"]) == 1


async def test_a_client_that_leaves_its_long_poll_takes_no_message_with_it(hub):
    body = b'{"count":10,"wait_ms":9000}'
    head = b"POST /v1/queues/q/lease HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for _ in range(3):
        _reader, writer = await hub.connect(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        # An answer on another connection: the poll before it has been read.
        await hub.http.get("/healthz")
        writer.transport.abort()
    await hub.http.get("/healthz")
    await post(hub, "/v1/queues/q/messages", {"messages": [{"data": 1}]}, 202)
    leased = await post(hub, "/v1/queues/q/lease", {"wait_ms": 5_000}, 200)
    assert [each["attempt"] for each in leased["deliveries"]] == [1]


async def test_a_trace_that_a_caller_sends_is_kept_with_the_message(hub):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await post(hub, "/v1/queues/q/messages", {"messages": [{"data": 1}]}, 202, traceparent=trace)
    leased = await post(hub, "/v1/queues/q/lease", {"wait_ms": 5_000}, 200)
    assert leased["deliveries"][0]["message"]["traceparent"].split("-")[1] == trace.split("-")[1]


# --- streams ---


async def test_a_stream_is_read_in_pages(hub):
    messages = [{"id": f"m{n}", "data": n} for n in range(1, 6)]
    receipts = (await post(hub, "/v1/streams/log", {"messages": messages}, 202))["receipts"]
    assert [(each["sequence"], each["duplicate"]) for each in receipts] == [(n, False) for n in range(1, 6)]
    again = (await post(hub, "/v1/streams/log", {"messages": messages[:1]}, 202))["receipts"]
    assert again == [{"id": "m1", "sequence": 1, "duplicate": True}]
    page = (await hub.http.get("/v1/streams/log/messages?from=first&limit=3")).json()
    assert [(item["sequence"], item["data"]) for item in page["items"]] == [(1, 1), (2, 2), (3, 3)]
    rest = (await hub.http.get(f"/v1/streams/log/messages?limit=3&cursor={page['next_cursor']}")).json()
    assert [item["sequence"] for item in rest["items"]] == [4, 5]
    assert (rest["next_cursor"], rest["next_from"]) == (None, "6")
    last = (await hub.http.get("/v1/streams/log/messages", params={"from": "last:2"})).json()
    assert [item["sequence"] for item in last["items"]] == [4, 5]


async def test_a_page_waits_for_its_first_message(hub):
    await post(hub, "/v1/streams/log", {"messages": [{"data": 1}]}, 202)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(hub.http.get("/v1/streams/log/messages?from=2&wait_ms=9000"))
        await post(hub, "/v1/streams/log", {"messages": [{"data": 2}]}, 202)
    assert [item["data"] for item in waiting.result().json()["items"]] == [2]


async def test_a_tail_replays_then_goes_on_live_and_resumes_behind_the_last_event(hub):
    await post(hub, "/v1/streams/log", {"messages": [{"data": n} for n in range(1, 4)]}, 202)
    async with feed(hub, "/v1/streams/log?from=2") as tail:
        assert [(await tail.event())["id"] for _ in range(2)] == ["2", "3"]
        await post(hub, "/v1/streams/log", {"messages": [{"data": 4}]}, 202)
        assert await tail.data() | {"timestamp": ""} == {
            "sequence": 4,
            "id": (await hub.http.get("/v1/streams/log/messages?from=4")).json()["items"][0]["id"],
            "channel": "log",
            "data": 4,
            "content_type": "application/json",
            "attributes": {},
            "timestamp": "",
            "principal": "local",
        }
    async with feed(hub, "/v1/streams/log?from=first", "last-event-id: 3") as tail:
        assert (await tail.event())["id"] == "4"


async def test_a_tail_of_a_pattern_resumes_by_its_cursor(hub):
    for channel in ("log.a", "log.b", "other"):
        await post(hub, f"/v1/streams/{channel}", {"messages": [{"data": channel}]}, 202)
    async with feed(hub, "/v1/streams/log.%3E?from=first") as tail:
        first = await tail.event()
        assert json.loads(first["data"])["channel"] == "log.a"
        assert (await tail.data())["channel"] == "log.b"
    async with feed(hub, "/v1/streams/log.*?from=first", f"last-event-id: {first['id']}") as tail:
        assert (await tail.data())["channel"] == "log.b"


async def test_a_tail_begins_at_its_readers_position(hub):
    await post(hub, "/v1/streams/log", {"messages": [{"data": n} for n in range(1, 4)]}, 202)
    made = await hub.http.put("/v1/streams/log/readers/r", json={"from": "first"})
    assert made.status_code in (200, 201), made.text
    await post(hub, "/v1/streams/log/readers/r/ack", {"sequence": 2}, 200)
    async with feed(hub, "/v1/streams/log?reader=r") as tail:
        assert (await tail.event())["id"] == "3"


# --- events ---


async def test_events_reach_every_subscriber_of_a_matching_pattern(hub):
    async with feed(hub, "/v1/events/news.%3E") as all_news, feed(hub, "/v1/events/news.*.eu") as eu:
        await post(hub, "/v1/events/news.sport", {"messages": [{"data": 1}]}, 202)
        await post(hub, "/v1/events/news.sport.eu", {"messages": [{"data": 2}, {"data": 3}]}, 202)
        assert [(await all_news.data())["data"] for _ in range(3)] == [1, 2, 3]
        assert [(await eu.data())["data"] for _ in range(2)] == [2, 3]


async def test_a_group_shares_its_events(hub):
    async with feed(hub, "/v1/events/jobs?group=g") as one, feed(hub, "/v1/events/jobs?group=g") as other:
        await post(hub, "/v1/events/jobs", {"messages": [{"data": n} for n in range(20)]}, 202)
        await post(hub, "/v1/events/jobs", {"messages": [{"data": "end"} for _ in range(20)]}, 202)
        seen = []
        for member in (one, other):
            while (value := (await member.data())["data"]) != "end":
                seen.append(value)
    assert sorted(seen) == list(range(20))


async def test_a_slow_subscriber_is_told_how_many_it_missed_and_holds_nobody_up(hub):
    pad = "x" * 20_000
    async with feed(hub, "/v1/events/busy") as slow, feed(hub, "/v1/events/busy") as quick:
        slow.reader._transport.pause_reading()  # the only way to keep asyncio from draining the socket
        sent = 3_000
        for start in range(0, sent, 100):
            batch = [{"data": n, "attributes": {"pad": pad[:16_000]}} for n in range(start, start + 100)]
            await post(hub, "/v1/events/busy", {"messages": batch}, 202)
            assert [(await quick.data())["data"] for _ in batch] == list(range(start, start + 100))
        slow.reader._transport.resume_reading()
        seen = missed = 0
        while seen + missed < sent:
            event = await slow.event()
            if event.get("event") == "missed":
                missed += json.loads(event["data"])["missed"]
            else:
                seen += 1
    assert missed > 0
    assert seen + missed == sent


async def test_a_subscriber_that_leaves_frees_its_place_at_once(hub):
    async with feed(hub, "/v1/events/a"):
        assert await gauge(hub, "meshway_channel_feeds") == 1
    async with asyncio.timeout(2):
        while await gauge(hub, "meshway_channel_feeds"):  # noqa: ASYNC110  a figure is all there is to see
            await asyncio.sleep(0.01)


async def gauge(hub, name):
    text = (await hub.http.get("/metrics")).text
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


# --- commands, queries ---


@pytest.mark.parametrize("kind", ["commands", "queries"])
async def test_a_request_is_answered_by_a_polling_responder(hub, kind):
    async def respond():
        requests = []
        while not requests:
            requests = (await post(hub, f"/v1/{kind}/lamp/lease", {"count": 5, "wait_ms": 5_000}, 200))["requests"]
        (request,) = requests
        assert MOMENT.fullmatch(request["deadline"])
        assert request["message"]["data"] == {"on": True}
        answer = {"request_id": request["request_id"], "executed": True, "data": {"state": "on"}}
        first = await post(hub, f"/v1/{kind}/lamp/reply", answer, 200)
        again = await post(hub, f"/v1/{kind}/lamp/reply", answer, 200)
        return first["outcome"], again["outcome"]

    async with asyncio.TaskGroup() as group:
        responding = group.create_task(respond())
        # Present from its first poll on.
        async with asyncio.timeout(5):
            while True:
                answer = await hub.http.post(f"/v1/{kind}/lamp", json={"data": {"on": True}, "timeout_ms": 5_000})
                if answer.status_code != 503:
                    break
                assert answer.json()["code"] == "no_responder"
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"executed": True, "data": {"state": "on"}, "cache": "off"}
    assert responding.result() == ("done", "stale")


async def test_a_request_without_a_responder_fails_at_once(hub):
    answer = await hub.http.post("/v1/commands/nobody", json={"data": 1})
    assert (answer.status_code, answer.json()["code"]) == (503, "no_responder")


async def test_the_callers_header_bounds_its_wait(hub):
    async with asyncio.TaskGroup() as group:
        group.create_task(post(hub, "/v1/commands/slow/lease", {"wait_ms": 5_000}, 200))
        async with asyncio.timeout(5):
            while True:
                answer = await hub.http.post(
                    "/v1/commands/slow", json={"data": 1}, headers={"Meshway-Timeout-Ms": "100"}
                )
                if answer.status_code != 503:
                    break
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


# --- blobs ---


async def test_a_blob_is_stored_in_a_stream_and_fetched_by_its_hash(hub):
    piece = bytes(range(256)) * 4_096

    async def content():
        for _ in range(40):
            yield piece

    digest = hashlib.sha256(piece * 40).hexdigest()
    stored = await hub.http.post("/v1/blobs", content=content(), headers={"Content-Type": "video/mp4"})
    assert (stored.status_code, stored.json()) == (201, {"sha256": digest, "size": 40 * len(piece)}), stored.text
    fetched = await hub.http.get(f"/v1/blobs/{digest}")
    assert fetched.status_code == 200
    assert fetched.headers["content-length"] == str(40 * len(piece))
    assert hashlib.sha256(fetched.content).hexdigest() == digest
    known = await hub.http.get(f"/v1/blobs/{digest}", headers={"If-None-Match": fetched.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    await post(hub, "/v1/queues/q/messages", {"messages": [{"data_ref": {"sha256": digest}}]}, 202)
    leased = await post(hub, "/v1/queues/q/lease", {"wait_ms": 5_000}, 200)
    assert leased["deliveries"][0]["message"]["data_ref"]["sha256"] == digest


async def test_a_blob_that_was_never_stored_is_404(hub):
    answer = await hub.http.get(f"/v1/blobs/{'0' * 64}")
    assert (answer.status_code, answer.json()["code"]) == (404, "blob_not_found")


# --- CloudEvents ---


async def test_cloudevents_of_every_mode_arrive_with_their_attributes(hub):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}, "team": "x"}
    for content_type, body in (
        ("application/cloudevents+json; charset=utf-8", event),
        ("application/cloudevents-batch+json", [event | {"source": "/s2"}]),
    ):
        answer = await hub.http.post("/v1/streams/ce", content=json.dumps(body), headers={"Content-Type": content_type})
        assert answer.status_code == 202, answer.text
    answer = await hub.http.post(
        "/v1/streams/ce",
        content=b"\x00\x01",
        headers={"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s3", "ce-type": "t", "ce-team": "%C3%A9"},
    )
    assert answer.status_code == 202, answer.text
    repeated = await hub.http.post(
        "/v1/streams/ce", content=json.dumps(event), headers={"Content-Type": "application/cloudevents+json"}
    )
    assert repeated.json()["receipts"][0] == {"id": "1", "sequence": 1, "duplicate": True}
    items = (await hub.http.get("/v1/streams/ce/messages?from=first")).json()["items"]
    assert [item["attributes"]["ce_source"] for item in items] == ["/s", "/s2", "/s3"]
    assert [item["attributes"]["ce_team"] for item in items] == ["x", "x", "é"]
    assert items[0]["data"] == {"a": 1}
    assert base64.b64decode(items[2]["data_base64"]) == b"\x00\x01"


# --- drain ---


async def test_a_hub_that_drains_ends_feeds_and_answers_long_polls_at_once(hub):
    async with feed(hub, "/v1/events/a") as events, feed(hub, "/v1/streams/a") as tail:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            lease = group.create_task(post(hub, "/v1/queues/q/lease", {"wait_ms": 50_000}, 200))
            page = group.create_task(hub.http.get("/v1/streams/a/messages?from=1&wait_ms=50000"))
            polled = group.create_task(post(hub, "/v1/commands/c/lease", {"wait_ms": 50_000}, 200))
            async with asyncio.timeout(5):
                while hub.waits < 5:  # noqa: ASYNC110  the hub has no event for tests
                    await asyncio.sleep(0.01)
            hub.drain()
            assert (await events.reader.read(-1)).endswith(b"0\r\n\r\n")
            assert (await tail.reader.read(-1)).endswith(b"0\r\n\r\n")
        assert lease.result() == {"deliveries": []}
        assert polled.result() == {"requests": []}
        assert page.result().json() == {"items": [], "next_cursor": None, "next_from": "1"}
        await hub.serving


async def test_requests_are_counted_by_operation_and_status(hub):
    await post(hub, "/v1/queues/q/messages", {"messages": [{"data": 1}]}, 202)
    await post(hub, "/v1/queues/q/messages", {"messages": []}, 400)
    metrics = (await hub.http.get("/metrics")).text
    for status in ("202", "400"):
        line = f'meshway_channel_requests_total{{operation="enqueue_messages",status="{status}"}} 1.0'
        assert line in metrics
    assert 'meshway_channel_request_seconds_count{operation="enqueue_messages"} 2.0' in metrics
