"""The SDK against a fake hub on real sockets: what it sends, and how it reads every kind of answer."""

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager

import pytest

from meshway.client import (
    BlockingClient,
    CallError,
    ConnectionLost,
    EventKind,
    HubError,
    HubUnreachable,
    MeshwayClient,
    UnexpectedAnswer,
)
from meshway.testing.tiny_http import HttpReply, serve_http

TASK = {
    "id": "t-1",
    "contextId": "c-1",
    "status": {"state": "TASK_STATE_COMPLETED", "timestamp": "2026-11-22T07:00:00.000Z"},
    "artifacts": [
        {"artifactId": "a", "parts": [{"text": "one "}, {"data": {"n": 1}}, {"text": "two"}]},
        {"artifactId": "b", "parts": [{"text": "three"}]},
    ],
    "futureField": {"kept": True},
}
MESSAGE = {"messageId": "m-1", "role": "ROLE_AGENT", "contextId": "c-2", "parts": [{"text": "hel"}, {"text": "lo"}]}


class FakeHub:
    """Answers every request with `answer`, and keeps what came."""

    def __init__(self):
        self.requests = []
        self.answer = rpc({"message": MESSAGE})

    async def __call__(self, request):
        self.requests.append(request)
        answer = self.answer
        return answer(request) if callable(answer) else answer

    @property
    def rpc(self):
        return json.loads(self.requests[-1].body)


def rpc(result, **headers):
    return HttpReply(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode(), headers=headers)


def rpc_error(code, message, data=None, *, status=200, headers=None):
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message, "data": data}}
    return HttpReply(json.dumps(body).encode(), status=status, headers=headers or {})


def sse(*frames, then=None):
    async def body():
        for frame in frames:
            yield frame
        if then is not None:
            await then()

    return HttpReply(body(), content_type="text/event-stream")


def frame(result, event_id=None):
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return head + b"data: " + json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() + b"\n\n"


@asynccontextmanager
async def fake_hub(**options):
    hub = FakeHub()
    async with serve_http(hub) as url, MeshwayClient(url, **options) as client:
        yield hub, client


async def test_ask_sends_one_text_part_as_a2a_1_0_with_a_fresh_message_id():
    async with fake_hub() as (hub, client):
        await client.ask("echo", "hi")
        await client.ask("echo", "hi")
    first, second = (json.loads(request.body) for request in hub.requests)
    assert hub.requests[0].path == "/a2a/echo"
    assert hub.requests[0].headers["a2a-version"] == "1.0"
    assert first["method"] == "SendMessage"
    message = first["params"]["message"]
    assert message["parts"] == [{"text": "hi"}]
    assert message["role"] == "ROLE_USER"
    assert message["messageId"] != second["params"]["message"]["messageId"]


NOT_BEGUN = {"reason": "DRAINING", "domain": "meshway", "metadata": {"code": "draining", "begun": "false"}}
SHUTS_DOWN = {"Meshway-Draining": "1"}


def draining(**changes):
    return rpc_error(-32603, "shutting down", [{**NOT_BEGUN, **changes}], headers=SHUTS_DOWN)


@pytest.mark.parametrize("is_list", [True, False], ids=["another hub", "another one behind the same address"])
async def test_a_call_that_a_hub_refuses_because_it_shuts_down_goes_to_another(is_list):
    leaving, staying = FakeHub(), FakeHub()
    leaving.answer = draining() if is_list else lambda _: draining() if len(leaving.requests) == 1 else staying.answer
    async with (
        serve_http(leaving) as first,
        serve_http(staying) as second,
        MeshwayClient(f"{first},{second}" if is_list else first) as client,
    ):
        assert (await client.ask("echo", "hi")).text == "hello"
        assert (await client.ask("echo", "hi")).text == "hello"
    assert (len(leaving.requests), len(staying.requests)) == ((1, 2) if is_list else (3, 0))
    # It is the same message.
    sent = [json.loads(each.body)["params"]["message"]["messageId"] for each in (*leaving.requests, *staying.requests)]
    assert sent[0] == sent[1] != sent[2]


async def test_where_every_hub_shuts_down_the_caller_is_told():
    hubs = [FakeHub(), FakeHub()]
    for hub in hubs:
        hub.answer = draining()
    async with (
        serve_http(hubs[0]) as first,
        serve_http(hubs[1]) as second,
        MeshwayClient(f"{first},{second}") as client,
    ):
        with pytest.raises(CallError) as refused:
            await client.ask("echo", "hi")
    assert refused.value.code == "draining"
    assert [len(hub.requests) for hub in hubs] == [1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        # Of an agent, not of a hub.
        draining(domain="agent.example"),
        # A call that was cut.
        draining(metadata={"code": "draining"}),
        # No hub that shuts down.
        rpc_error(-32603, "no", [NOT_BEGUN]),
    ],
)
async def test_what_an_agent_may_have_done_is_not_repeated(answer):
    async with fake_hub() as (hub, client):
        hub.answer = answer
        with pytest.raises(CallError):
            await client.ask("echo", "hi")
    assert len(hub.requests) == 1


async def test_ask_reads_a_message():
    async with fake_hub() as (_, client):
        answer = await client.ask("echo", "hi")
    assert (answer.text, answer.state, answer.task, answer.context_id) == ("hello", None, None, "c-2")
    assert answer.raw == {"message": MESSAGE}


async def test_ask_reads_a_task_and_keeps_what_it_does_not_know_in_raw():
    async with fake_hub() as (hub, client):
        hub.answer = rpc({"task": TASK})
        answer = await client.ask("count", "3")
    assert answer.text == "one two\nthree"
    assert (answer.state, answer.task_id, answer.context_id) == ("TASK_STATE_COMPLETED", "t-1", "c-1")
    assert not answer.is_failed
    assert answer.raw["task"]["futureField"] == {"kept": True}


async def test_a_failed_task_is_an_answer_whose_text_is_the_reason():
    status = {"state": "TASK_STATE_FAILED", "message": {**MESSAGE, "parts": [{"text": "no coal"}]}}
    async with fake_hub() as (hub, client):
        hub.answer = rpc({"task": {"id": "t", "status": status}})
        answer = await client.ask("stove", "burn")
    assert answer.is_failed
    assert answer.text == "no coal"


async def test_a_message_given_as_a_mapping_is_sent_as_it_is():
    async with fake_hub() as (hub, client):
        await client.ask("x", {"messageId": "mine", "parts": [{"url": "http://a"}]}, context_id="c", task_id="t")
    assert hub.rpc["params"]["message"] == {
        "messageId": "mine",
        "role": "ROLE_USER",
        "parts": [{"url": "http://a"}],
        "contextId": "c",
        "taskId": "t",
    }


async def test_timeout_ms_travels_as_the_hubs_header():
    async with fake_hub() as (hub, client):
        await client.ask("echo", "hi", timeout_ms=1500)
    assert hub.requests[0].headers["meshway-timeout-ms"] == "1500"


async def test_the_key_is_sent_as_bearer_token_and_found_in_the_environment(monkeypatch):
    monkeypatch.setenv("MESHWAY_API_KEY", "mw_env_key")
    async with fake_hub() as (hub, client):
        await client.ask("echo", "hi")
    async with fake_hub(api_key="mw_given") as (given, client):
        await client.ask("echo", "hi")
    assert hub.requests[0].headers["authorization"] == "Bearer mw_env_key"
    assert given.requests[0].headers["authorization"] == "Bearer mw_given"


async def test_the_hub_is_found_in_the_environment(monkeypatch):
    async with serve_http(FakeHub()) as url:
        monkeypatch.setenv("MESHWAY_URL", url + "/")
        async with MeshwayClient() as client:
            assert client.url == url
            assert (await client.ask("echo", "hi")).text == "hello"


async def test_an_agent_name_cannot_leave_its_path():
    async with fake_hub() as (hub, client):
        await client.ask("../v1/keys?x=", "hi")
    assert hub.requests[0].path == "/a2a/..%2Fv1%2Fkeys%3Fx%3D"


async def test_a_json_rpc_error_raises_with_its_reason_fields_and_retry():
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "UPSTREAM_UNREACHABLE", "domain": "meshway"},
        {"@type": "x", "fieldViolations": [{"field": "message.parts", "description": "is missing"}]},
    ]
    async with fake_hub() as (hub, client):
        hub.answer = rpc_error(-32603, "No instance took the call.", details, headers={"retry-after": "3"})
        with pytest.raises(CallError) as caught:
            await client.ask("echo", "hi")
    error = caught.value
    assert (error.code, error.rpc_code, error.agent, error.retry_after_ms) == (
        "upstream_unreachable", -32603, "echo", 3000,
    )  # fmt: skip
    assert error.fields[0].field == "message.parts"
    assert "No instance took the call." in str(error)


@pytest.mark.parametrize("status", [401, 403, 404, 413, 429])
async def test_a_json_rpc_error_under_an_http_error_status_is_a_call_error_too(status):
    async with fake_hub() as (hub, client):
        hub.answer = rpc_error(-32000, "refused", status=status)
        with pytest.raises(CallError) as unary:
            await client.ask("echo", "hi")
        with pytest.raises(CallError) as streamed:
            async for _ in client.stream("echo", "hi"):
                pass
    assert unary.value.status == streamed.value.status == status
    assert unary.value.code == "rpc_-32000"


async def test_a_problem_document_raises_hub_error_with_code_and_fields():
    problem = {
        "type": "x", "title": "T", "status": 401, "detail": "Show a key.", "code": "unauthenticated",
        "errors": [{"field": "Authorization", "message": "is missing"}],
    }  # fmt: skip
    async with fake_hub() as (hub, client):
        hub.answer = HttpReply(json.dumps(problem).encode(), status=401, content_type="application/problem+json")
        with pytest.raises(HubError) as caught:
            await client.agents.get("echo")
    assert caught.value.code == "unauthenticated"
    assert str(caught.value) == "Show a key. (Authorization: is missing) [unauthenticated]"


@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(b"<html>nginx</html>", status=502, content_type="text/html"),
        HttpReply(b"<html>hello</html>", content_type="text/html"),
        HttpReply(b'{"jsonrpc":"2.0","id":1}'),
        HttpReply(b'{"jsonrpc":"2.0","id":1,"result":{}}'),
        HttpReply(b'{"jsonrpc":"2.0","id":1,"result":"x"}'),
        HttpReply(b""),
    ],
)
async def test_what_is_no_answer_of_a_hub_is_named_so(reply):
    async with fake_hub() as (hub, client):
        hub.answer = reply
        with pytest.raises(UnexpectedAnswer):
            await client.ask("echo", "hi")


async def test_no_hub_says_how_to_start_one():
    async with serve_http(FakeHub()) as url:
        pass
    async with MeshwayClient(url) as client:
        with pytest.raises(HubUnreachable, match=r"meshway up.*MESHWAY_URL"):
            await client.ask("echo", "hi")
        with pytest.raises(HubUnreachable):
            async for _ in client.stream("echo", "hi"):
                pass


@pytest.mark.parametrize("url", ["127.0.0.1:7070", "ftp://host", "http://", ""])
def test_an_address_that_is_none_is_refused_at_once(url, monkeypatch):
    monkeypatch.delenv("MESHWAY_URL", raising=False)
    if not url:
        assert MeshwayClient(url).url == "http://127.0.0.1:7070"
        return
    with pytest.raises(ValueError, match="write it as http://127"):
        MeshwayClient(url)


async def test_stream_yields_each_kind_of_event_as_it_comes():
    may_end = asyncio.Event()
    frames = [
        b": connected\n\n",
        frame({"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED"}}}, 1),
        b": keep-alive\n\n",
        frame({"statusUpdate": {"taskId": "t", "status": {"state": "TASK_STATE_WORKING", "message": MESSAGE}}}, 2),
        frame({"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": "x"}]}}}, 3),
        frame({"artifactUpdate": {"taskId": "t", "append": True, "lastChunk": True,
                                  "artifact": {"artifactId": "a", "parts": [{"text": "y"}]}}}, 4),
        frame({"statusUpdate": {"taskId": "t", "status": {"state": "TASK_STATE_COMPLETED"}}}, 5),
    ]  # fmt: skip
    async with fake_hub() as (hub, client):
        hub.answer = sse(*frames, then=may_end.wait)
        events = []
        async with asyncio.timeout(5):
            async for event in client.stream("count", "2", context_id="c"):
                events.append(event)
                if event.is_last_chunk:
                    may_end.set()
    assert hub.rpc["method"] == "SendStreamingMessage"
    assert [event.kind for event in events] == [
        EventKind.TASK, EventKind.STATUS, EventKind.ARTIFACT, EventKind.ARTIFACT, EventKind.STATUS,
    ]  # fmt: skip
    assert [event.text for event in events] == ["", "hello", "x", "y", ""]
    assert [event.event_id for event in events] == ["1", "2", "3", "4", "5"]
    assert [event.append for event in events] == [False, False, False, True, False]
    assert events[1].state == "TASK_STATE_WORKING"
    assert all(event.task_id == "t" for event in events)


async def test_an_agent_that_answers_a_stream_with_one_message_gives_one_event():
    async with fake_hub() as (hub, client):
        hub.answer = rpc({"message": MESSAGE})
        events = [event async for event in client.stream("echo", "hi")]
    assert [(event.kind, event.text) for event in events] == [(EventKind.MESSAGE, "hello")]


async def test_an_error_in_the_middle_of_a_stream_raises_after_the_events_before_it():
    broken = b'event: error\ndata: {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"gone"}}\n\n'
    async with fake_hub() as (hub, client):
        hub.answer = sse(frame({"message": MESSAGE}), broken)
        events = client.stream("echo", "hi")
        assert (await anext(events)).text == "hello"
        with pytest.raises(CallError, match="gone"):
            await anext(events)


async def test_a_stream_that_breaks_says_how_far_it_came():
    async def cut():
        raise ConnectionResetError

    async with fake_hub(reconnect_timeout_s=0) as (hub, client):
        hub.answer = sse(frame({"task": {"id": "t", "status": {"state": "TASK_STATE_WORKING"}}}, 7), then=cut)
        with pytest.raises(ConnectionLost) as caught:
            async for _ in client.stream("echo", "hi"):
                pass
    assert (caught.value.task_id, caught.value.last_event_id, caught.value.may_have_acted) == ("t", "7", True)


async def test_following_a_task_resumes_after_an_event():
    async with fake_hub() as (hub, client):
        hub.answer = sse(frame({"task": TASK}, 9))
        events = [event async for event in client.follow_task("count", "t-1", last_event_id="7")]
    assert hub.requests[0].headers["last-event-id"] == "7"
    assert (hub.rpc["method"], hub.rpc["params"]) == ("SubscribeToTask", {"id": "t-1"})
    assert events[0].state == "TASK_STATE_COMPLETED"


async def test_leaving_a_stream_closes_it_at_the_hub():
    left = asyncio.Event()

    async def body():
        try:
            while True:
                yield frame({"message": MESSAGE})
                await asyncio.sleep(0.001)
        finally:
            left.set()

    async with fake_hub() as (hub, client):
        hub.answer = HttpReply(body(), content_type="text/event-stream")
        async with aclosing(client.stream("echo", "hi")) as events:
            await anext(events)
        async with asyncio.timeout(5):
            await left.wait()


async def test_get_and_cancel_task_return_the_task():
    async with fake_hub() as (hub, client):
        hub.answer = rpc(TASK)
        assert (await client.get_task("count", "t-1")).text == "one two\nthree"
        assert hub.rpc["method"] == "GetTask"
        assert (await client.cancel_task("count", "t-1")).task_id == "t-1"
        assert (hub.rpc["method"], hub.rpc["params"]) == ("CancelTask", {"id": "t-1"})


async def test_the_blocking_client_asks_streams_and_reports_errors_without_a_loop():
    def program(url):
        with BlockingClient(url, "k") as client:
            asked = client.ask("echo", "hi", timeout_ms=900).text
            hub.answer = sse(frame({"message": MESSAGE}), frame({"message": MESSAGE}))
            streamed = [event.text for event in client.stream("echo", "hi")]
            hub.answer = rpc_error(-32001, "no such task", [{"reason": "TASK_NOT_FOUND"}])
            with pytest.raises(CallError) as caught:
                client.get_task("echo", "t")
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.ask("echo", "hi")
        return asked, streamed, caught.value.code

    hub = FakeHub()
    async with serve_http(hub) as url:
        outcome = await asyncio.to_thread(program, url)
    assert outcome == ("hello", ["hello", "hello"], "task_not_found")
    assert hub.requests[0].headers["meshway-timeout-ms"] == "900"


async def test_leaving_a_blocking_stream_closes_it_at_the_hub():
    left = asyncio.Event()

    async def body():
        try:
            while True:
                yield frame({"message": MESSAGE})
                await asyncio.sleep(0.001)
        finally:
            left.set()

    def program(url):
        with BlockingClient(url) as client:
            for _ in client.stream("echo", "hi"):
                break

    hub = FakeHub()
    hub.answer = HttpReply(body(), content_type="text/event-stream")
    async with serve_http(hub) as url:
        await asyncio.to_thread(program, url)
        async with asyncio.timeout(5):
            await left.wait()


def test_importing_the_sdk_imports_nothing_of_the_server():
    program = "import sys, meshway.client; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    unwanted = ("starlette", "uvicorn", "sqlite3", "nats", "prometheus_client", "meshway.edges", "meshway.assembly")
    assert not [name for name in modules if name.startswith(unwanted)]
