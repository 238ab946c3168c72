"""Streams of task events over connections that break: what the program sees has no gap and no repetition."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager

import pytest

from meshway.client import BlockingClient, CallError, ConnectionLost, HubError, HubUnreachable, MeshwayClient
from meshway.testing.tiny_http import HttpReply, serve_http


class ScriptedHub:
    """Answers the requests in order, each with the next reply; the last one again and again."""

    def __init__(self, *replies):
        self.requests = []
        self.replies = list(replies)

    async def __call__(self, request):
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply()

    def sent(self):
        """(JSON-RPC method or path, Last-Event-ID) of each request."""
        return [
            (json.loads(each.body)["method"] if each.body else each.path, each.headers.get("last-event-id"))
            for each in self.requests
        ]


@asynccontextmanager
async def scripted_hub(*replies, **options):
    hub = ScriptedHub(*replies)
    async with serve_http(hub) as url, MeshwayClient(url, **options) as client:
        yield hub, client


def task(state="WORKING"):
    return {"task": {"id": "t", "contextId": "c", "status": {"state": f"TASK_STATE_{state}"}}}


def chunk(text):
    return {"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": text}]}}}


def status(state):
    return {"statusUpdate": {"taskId": "t", "status": {"state": f"TASK_STATE_{state}"}}}


def stream(*events, is_cut=False, is_bare=False):
    """Events as (number, StreamResponse); cut in the middle, or ended in order."""

    async def body():
        yield b": connected\n\n"
        for number, event in events:
            content = event if is_bare else {"jsonrpc": "2.0", "id": 1, "result": event}
            head = b"" if number is None else b"id: %d\n" % number
            yield head + b"data: " + json.dumps(content).encode() + b"\n\n"
        if is_cut:
            raise ConnectionResetError

    return lambda: HttpReply(body(), content_type="text/event-stream")


def rpc_error(code, reason=""):
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    body = {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "no", "data": details}}
    return lambda: HttpReply(json.dumps(body).encode())


async def gathered(events):
    async with asyncio.timeout(5), aclosing(events):
        return [(event.event_id, event.text) async for event in events]


async def test_a_stream_that_breaks_goes_on_after_the_last_event_seen():
    async with scripted_hub(
        stream((1, task()), (2, chunk("a")), is_cut=True),
        # A hub that repeats what was seen, and one that breaks again at once.
        stream((2, chunk("a")), (3, chunk("b")), is_cut=True),
        stream(is_cut=True),
        stream((4, chunk("c")), (5, status("COMPLETED"))),
    ) as (hub, client):
        events = await gathered(client.stream("count", "hi"))
    assert events == [("1", ""), ("2", "a"), ("3", "b"), ("4", "c"), ("5", "")]
    assert hub.sent() == [
        ("SendStreamingMessage", None), ("SubscribeToTask", "2"), ("SubscribeToTask", "3"), ("SubscribeToTask", "3"),
    ]  # fmt: skip
    assert json.loads(hub.requests[1].body)["params"] == {"id": "t"}


async def test_a_hub_that_ends_a_stream_in_order_before_the_task_is_asked_again():
    async with scripted_hub(stream((1, task())), rpc_error(-32603, "DRAINING"), stream((2, status("FAILED")))) as (
        _,
        client,
    ):
        assert await gathered(client.stream("count", "hi")) == [("1", ""), ("2", "")]


@pytest.mark.parametrize("state", ["COMPLETED", "INPUT_REQUIRED"])
async def test_a_connection_that_breaks_after_the_end_of_the_turn_is_not_made_again(state):
    async with scripted_hub(stream((1, status(state)), is_cut=True)) as (hub, client):
        assert await gathered(client.stream("count", "hi")) == [("1", "")]
    assert len(hub.requests) == 1


async def test_a_task_that_ended_meanwhile_without_further_events_is_an_end():
    async with scripted_hub(stream((1, task()), is_cut=True), rpc_error(-32004)) as (_, client):
        assert await gathered(client.stream("count", "hi")) == [("1", "")]


async def test_refusals_while_resuming_are_told():
    async with scripted_hub(stream((1, task()), is_cut=True), rpc_error(-32001, "TASK_NOT_FOUND")) as (_, client):
        with pytest.raises(CallError) as caught:
            await gathered(client.stream("count", "hi"))
    assert caught.value.code == "task_not_found"


async def test_events_without_numbers_cannot_be_resumed():
    async with scripted_hub(stream((None, task()), is_cut=True)) as (hub, client):
        with pytest.raises(ConnectionLost) as caught:
            await gathered(client.stream("count", "hi"))
    assert (caught.value.task_id, caught.value.last_event_id) == ("t", None)
    assert len(hub.requests) == 1


async def test_a_message_is_sent_again_before_its_first_event_only_with_an_idempotency_key():
    replies = (stream(is_cut=True), stream((1, status("COMPLETED"))))
    async with scripted_hub(*replies) as (hub, client):
        with pytest.raises(ConnectionLost):
            await gathered(client.stream("count", "hi"))
    assert len(hub.requests) == 1
    async with scripted_hub(*replies) as (hub, client):
        assert await gathered(client.stream("count", "hi", idempotency_key="k", durable=True)) == [("1", "")]
    first, second = hub.requests
    assert first.body == second.body
    assert second.headers["idempotency-key"] == "k"
    assert second.headers["meshway-delivery"] == "durable"


async def test_a_stream_gives_up_after_a_time_without_an_event():
    async with scripted_hub(stream((7, task()), is_cut=True), stream(is_cut=True), reconnect_timeout_s=0.2) as (
        hub,
        client,
    ):
        with pytest.raises(ConnectionLost) as caught:
            await gathered(client.stream("count", "hi"))
    assert (caught.value.task_id, caught.value.last_event_id) == ("t", "7")
    assert len(hub.requests) > 1


async def test_following_shows_the_snapshot_once_and_goes_on_over_a_question():
    async with scripted_hub(
        stream((4, task()), (5, status("INPUT_REQUIRED")), is_cut=True),
        stream((5, status("INPUT_REQUIRED")), (6, task("SUBMITTED")), (7, status("COMPLETED"))),
    ) as (hub, client):
        events = await gathered(client.follow_task("count", "t"))
    assert [number for number, _ in events] == ["4", "5", "6", "7"]
    assert hub.sent() == [("SubscribeToTask", None), ("SubscribeToTask", "5")]


async def test_events_of_a_task_are_followed_from_the_first_and_resumed():
    async with scripted_hub(
        stream(is_cut=True, is_bare=True),
        stream((1, task("SUBMITTED")), (2, chunk("a")), is_cut=True, is_bare=True),
        stream((3, status("COMPLETED")), is_bare=True),
    ) as (hub, client):
        events = await gathered(client.tasks.events("t"))
    assert events == [("1", ""), ("2", "a"), ("3", "")]
    assert hub.sent() == [("/v1/tasks/t/events", None), ("/v1/tasks/t/events", None), ("/v1/tasks/t/events", "2")]


async def test_without_a_hub_the_first_connect_fails_at_once():
    async with serve_http(ScriptedHub(stream())) as url:
        pass
    async with MeshwayClient(url) as client:
        for events in (client.tasks.events("t"), client.follow_task("a", "t"), client.stream("a", "hi")):
            with pytest.raises(HubUnreachable):
                await gathered(events)


def reply(body, status=200):
    content_type = "application/json" if status < 400 else "application/problem+json"
    return lambda: HttpReply(json.dumps(body).encode(), status=status, content_type=content_type)


TASK = {"id": "t/1", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED"}}


async def test_a_task_is_submitted_to_an_agent_or_a_skill():
    receipts = [{"state": "queued", "at": "2026-11-22T07:00:00.000Z", "attempt": 0}]
    async with scripted_hub(reply({**TASK, "receipts": receipts}, 202)) as (hub, client):
        submitted = await client.tasks.submit("3", agent="counter", timeout_ms=1_000, idempotency_key="k")
        await client.tasks.submit("3", agent="counter", timeout_ms=1_000, idempotency_key="k")
        await client.tasks.submit({"parts": [{"data": 1}]}, skill="count")
    assert (submitted.id, submitted.status.state) == ("t/1", "TASK_STATE_SUBMITTED")
    assert submitted.receipts[0].state == "queued"
    first, again, second = (json.loads(each.body) for each in hub.requests)
    # The same under the same key, to the letter: the hub compares.
    assert first == again
    assert first["message"].pop("messageId")
    assert first == {
        "agent": "counter",
        "message": {"role": "ROLE_USER", "parts": [{"text": "3"}]},
        "timeout_ms": 1_000,
        "idempotency_key": "k",
    }
    assert second["skill"] == second["message"]["metadata"]["skill"] == "count"
    assert second["message"]["parts"] == [{"data": 1}]
    assert second["message"]["messageId"]


async def test_tasks_are_looked_at_and_stopped():
    async with scripted_hub(
        reply(TASK),
        reply({"items": [{"id": "t/1", "agent": "a", "state": "TASK_STATE_WORKING"}], "next_cursor": "n", "total": 9}),
        reply(TASK),
        reply({"items": [{"state": "claimed", "at": "2026-11-22T07:00:00.000Z", "instance": "i", "attempt": 1}]}),
        reply({"id": "t/1", "children": []}),
        reply({"agent": "a", "by": "ada", "reason": "nonsense", "cancelled": 2}),
        reply({"agent": None, "by": "ada", "cancelled": 0}),
        reply({"agent": "a", "was_stopped": True}),
        reply({"agent": None, "was_stopped": False}),
    ) as (hub, client):
        assert (await client.tasks.get("t/1")).context_id == "c"
        page = await client.tasks.list(agent="a", state="working", context_id="c", limit=5)
        assert (await client.tasks.cancel("t/1")).id == "t/1"
        assert [each.instance for each in await client.tasks.receipts("t/1")] == ["i"]
        assert (await client.tasks.tree("t/1"))["children"] == []
        assert (await client.tasks.stop("a", reason="nonsense")).cancelled == 2
        assert (await client.tasks.stop()).agent is None
        assert await client.tasks.resume("a") is True
        assert await client.tasks.resume() is False
    assert (page.items[0].id, page.items[0].agent, page.next_cursor, page.total) == ("t/1", "a", "n", 9)
    assert [(each.method, each.path) for each in hub.requests] == [
        ("GET", "/v1/tasks/t%2F1"),
        ("GET", "/v1/tasks"),
        ("POST", "/v1/tasks/t%2F1/cancel"),
        ("GET", "/v1/tasks/t%2F1/receipts"),
        ("GET", "/v1/tasks/t%2F1/tree"),
        ("POST", "/v1/agents/a/stop"),
        ("POST", "/v1/stop"),
        ("POST", "/v1/agents/a/resume"),
        ("POST", "/v1/resume"),
    ]


async def test_an_inbox_is_looked_at_and_its_dead_letters_are_tried_again():
    depth = {"waiting": 3, "held": 1, "delayed": 0, "dead": 1}
    letter = {"id": "d1", "task_id": "t", "reason": "r", "attempts": [{"attempt": 1}], "message": {"messageId": "m"}}
    async with scripted_hub(
        reply({"depth": depth, "items": [{"task_id": "t", "instance": "i"}], "next_cursor": None}),
        reply({"items": [letter], "next_cursor": None}),
        reply({"tasks": ["new"]}, 202),
    ) as (hub, client):
        inbox = await client.tasks.inbox("a", limit=1)
        lost = await client.tasks.dead_letters("a")
        assert await client.tasks.redrive("a", ids=["d1"]) == ["new"]
    assert (inbox.depth.waiting, inbox.items[0].instance) == (3, "i")
    assert (lost.items[0].id, lost.items[0].attempts[0].attempt) == ("d1", 1)
    assert [each.path for each in hub.requests] == [
        "/v1/agents/a/inbox",
        "/v1/agents/a/dead-letters",
        "/v1/agents/a/dead-letters/redrive",
    ]
    assert json.loads(hub.requests[2].body) == {"ids": ["d1"]}


async def test_lost_notifications_are_looked_at_and_sent_again():
    letter = {"id": "d1", "agent": "a", "task_id": "t", "event_number": 3, "attempts": [{"attempt": 1}]}
    async with scripted_hub(
        reply({"items": [letter | {"url": "http://hook"}], "next_cursor": "n"}),
        reply({"items": [letter], "next_cursor": None}),
        reply({"notifications": ["d1"]}, 202),
    ) as (hub, client):
        page = await client.push.dead_letters(limit=1)
        rest = await client.push.dead_letters(cursor=page.next_cursor)
        assert await client.push.redrive(ids=["d1"]) == ["d1"]
        assert await client.push.redrive() == ["d1"]
    assert (page.items[0].event_number, page.items[0].url, rest.items[0].url) == (3, "http://hook", None)
    assert [(each.method, each.path) for each in hub.requests] == [
        ("GET", "/v1/push/dead-letters"),
        ("GET", "/v1/push/dead-letters"),
        ("POST", "/v1/push/dead-letters/redrive"),
        ("POST", "/v1/push/dead-letters/redrive"),
    ]
    assert [json.loads(each.body) for each in hub.requests[2:]] == [{"ids": ["d1"]}, {}]


async def test_somebody_elses_task_is_not_found():
    problem = {"status": 404, "code": "task_not_found", "detail": "no such task"}
    async with scripted_hub(reply(problem, 404)) as (_, client):
        with pytest.raises(HubError, match="no such task"):
            await gathered(client.tasks.events("t"))
        with pytest.raises(HubError, match="no such task"):
            await client.tasks.get("t")


async def test_the_blocking_client_has_tasks_too():
    async with scripted_hub(reply(TASK), stream((1, status("COMPLETED")), is_bare=True)) as (_, client):

        def use():
            with BlockingClient(client.url) as blocking:
                task_id = blocking.tasks.get("t").id
                return task_id, [event.state for event in blocking.tasks.events("t")]

        assert await asyncio.to_thread(use) == ("t/1", ["TASK_STATE_COMPLETED"])


async def test_a_request_goes_to_the_next_hub_where_one_is_away():
    async with serve_http(ScriptedHub(reply(TASK))) as away:
        pass
    async with serve_http(ScriptedHub(reply(TASK))) as there, MeshwayClient(f"{away}, {there}") as client:
        assert (await client.tasks.get("t")).id == "t/1"
        assert client.url == there
    async with MeshwayClient(f"{away},{there}") as client:
        with pytest.raises(HubUnreachable, match=away):
            await client.tasks.get("t")
