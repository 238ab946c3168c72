"""Streams of agents that connect out and of stock A2A servers: numbered, and picked up where they broke, by anybody."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from a2a.types import StreamResponse, SubscribeToTaskRequest

from meshway.client import Agent, TaskContext
from support.hub_process import HubProcess, running_hub
from support.keeping_agent import KeepingAgent
from support.ports import free_port
from support.pull_site import serving, texts
from support.raw_agent import RawRequest, Wire, raw_agent, registered_agent, task_answer
from support.sdk_agent import DIALECTS
from support.sdk_client import ask, stock_client
from support.task_children import child_agent, text_of
from support.task_clients import StockFollower, until
from support.task_judge import SeenEvent, faults_of, snapshot_faults_of
from support.wire_client import V03, V10, EventStream, open_stream, rpc, say, send_params

CHUNKS, PAUSE_S = 8, 0.06
SLOWLY = f"{CHUNKS} {PAUSE_S}"
TEXT = text_of(CHUNKS)

every_agent = pytest.mark.parametrize("agent", ["pull", "push"])


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """With an agent that connects out, and one that is a stock A2A server."""
    with running_hub() as hub:
        port = free_port()
        environ = {"MESHWAY_URL": hub.url}
        with child_agent("push", str(port), environ=environ), child_agent("pull", "pull", environ=environ):
            asyncio.run(until(lambda: hub.request("GET", "/v1/agents/pull")[0] == 200))
            # The child is ready a moment before its server is.
            asyncio.run(until(lambda: _register(hub, port) in (200, 201)))
            yield hub
        assert "Traceback" not in hub.log.read_text()


def _register(hub: HubProcess, port: int) -> int:
    return hub.request("POST", "/v1/agents", {"id": "push", "url": f"http://127.0.0.1:{port}/"})[0]


# --- what a client on bare sockets sees -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbered:
    """One event: the number it came under (None: without one), and its A2A 1.0 StreamResponse."""

    number: int | None
    body: Mapping[str, dict]

    @property
    def task_id(self) -> str:
        return self.body["task"]["id"] if "task" in self.body else next(iter(self.body.values()))["taskId"]

    @property
    def state(self) -> str | None:
        for kind in ("task", "statusUpdate"):
            if kind in self.body:
                return self.body[kind]["status"]["state"]
        return None

    @property
    def seen(self) -> SeenEvent:
        assert self.number is not None
        update = self.body.get("artifactUpdate")
        if update is None:
            return SeenEvent(self.number, "task" if "task" in self.body else "status", state=self.state)
        text = "".join(part["text"] for part in update["artifact"]["parts"])
        return SeenEvent(self.number, "artifact", text, append=update.get("append", False))


def numbered(frame: bytes) -> Numbered:
    fields = dict(line.split(b":", 1) for line in frame.split(b"\n") if line)
    body = json.loads(fields[b"data"])
    return Numbered(int(fields[b"id"]) if b"id" in fields else None, body.get("result", body))


async def next_event(stream: EventStream) -> Numbered | None:
    while (frame := await stream.frame()) is not None:
        if not frame.startswith(b":"):
            return numbered(frame)
    return None


async def all_events(stream: EventStream) -> list[Numbered]:
    found = []
    while (event := await next_event(stream)) is not None:
        found.append(event)
    return found


@dataclass(frozen=True)
class Door:
    """Where one dialect streams; `subscribe` is given the path of the agent and the id of the task."""

    binding: str
    headers: Mapping[str, str]
    method: str = "POST"

    async def stream(self, hub: HubProcess, agent: str, text: str, **headers: str) -> EventStream:
        if self.binding == "JSONRPC":
            call = rpc("SendStreamingMessage", send_params(text))
            return await open_stream(hub, "POST", f"/a2a/{agent}", call, headers={**self.headers, **headers})
        path = f"/a2a/{agent}/message:stream"
        return await open_stream(hub, "POST", path, send_params(text), headers={**self.headers, **headers})

    async def subscribe(self, hub: HubProcess, agent: str, task_id: str, **headers: str) -> EventStream:
        if self.binding == "JSONRPC":
            call = rpc("SubscribeToTask", {"id": task_id})
            return await open_stream(hub, "POST", f"/a2a/{agent}", call, headers={**self.headers, **headers})
        path = f"/a2a/{agent}/tasks/{task_id}:subscribe"
        body = {} if self.method == "POST" else None
        return await open_stream(hub, self.method, path, body, headers={**self.headers, **headers})


DOORS = {
    "jsonrpc": Door("JSONRPC", V10),
    "rest-post": Door("HTTP+JSON", V10),
    "rest-get": Door("HTTP+JSON", V10, "GET"),
}
every_door = pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
JSONRPC = DOORS["jsonrpc"]


@asynccontextmanager
async def broken_after(hub: HubProcess, agent: str, chunks: int, door: Door = JSONRPC) -> AsyncIterator[list[Numbered]]:
    """What a client saw of a slow task before it left; the task goes on."""
    seen: list[Numbered] = []
    async with await door.stream(hub, agent, SLOWLY) as stream:
        while sum("artifactUpdate" in event.body for event in seen) < chunks:
            event = await next_event(stream)
            assert event is not None
            seen.append(event)
    yield seen


async def kept(hub: HubProcess, task_id: str, **headers: str) -> list[Numbered]:
    """All that the hub has, to the end of the task."""
    async with await open_stream(hub, "GET", f"/v1/tasks/{task_id}/events", headers=headers) as stream:
        assert stream.status == 200
        return await all_events(stream)


def faults(events: list[Numbered]) -> list[str]:
    return faults_of([event.seen for event in events], expected_text=TEXT)


# --- the tests ------------------------------------------------------------------------------------------------------


@every_agent
@every_door
async def test_every_event_of_a_stream_comes_under_its_number_from_1_on(
    hub: HubProcess, agent: str, door: Door
) -> None:
    async with await door.stream(hub, agent, "3 0.01") as stream:
        events = await all_events(stream)
    assert faults_of([event.seen for event in events], expected_text=text_of(3)) == []
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert await kept(hub, events[0].task_id) == events


@every_agent
@pytest.mark.parametrize("dialect", list(DIALECTS))
async def test_a_stock_client_that_was_cut_off_gets_the_task_as_it_is_and_then_the_rest(
    hub: HubProcess, agent: str, dialect: str
) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(20):
        client = await stock_client(http, f"{hub.url}/a2a/{agent}", dialect, streaming=True)
        follower = StockFollower(client)
        await follower.follow(SLOWLY, leaves_after=3)
    assert snapshot_faults_of(follower.events, expected_text=TEXT) == []
    assert follower.subscriptions == 1


@every_agent
@every_door
async def test_who_says_the_last_number_it_saw_misses_nothing_and_sees_nothing_twice(
    hub: HubProcess, agent: str, door: Door
) -> None:
    async with broken_after(hub, agent, 3, door) as seen:
        last = {"last-event-id": str(seen[-1].number)}
        async with await door.subscribe(hub, agent, seen[0].task_id, **last) as stream:
            assert stream.status == 200
            events = seen + await all_events(stream)
    assert faults(events) == []
    assert events == await kept(hub, events[0].task_id)


@every_agent
async def test_who_subscribes_without_a_number_gets_a_snapshot_under_the_number_of_the_last_event_in_it(
    hub: HubProcess, agent: str
) -> None:
    async with broken_after(hub, agent, 3) as seen:
        async with await JSONRPC.subscribe(hub, agent, seen[0].task_id) as stream:
            snapshot, *rest = await all_events(stream)
        whole = await kept(hub, seen[0].task_id)
    assert snapshot.number is not None
    assert snapshot.number >= (seen[-1].number or 0)
    assert rest == whole[snapshot.number :]
    (artifact,) = snapshot.body["task"]["artifacts"]
    text = "".join(part["text"] for part in artifact["parts"])
    assert text == "".join(event.seen.text for event in whole[: snapshot.number] if "artifactUpdate" in event.body)


@every_agent
async def test_a_client_of_0_3_goes_on_by_its_last_number_too(hub: HubProcess, agent: str) -> None:
    async with broken_after(hub, agent, 3) as seen:
        call = rpc("tasks/resubscribe", {"id": seen[0].task_id})
        headers = V03 | {"last-event-id": str(seen[-1].number)}
        async with await open_stream(hub, "POST", f"/a2a/{agent}", call, headers=headers) as stream:
            rest = await all_events(stream)
        whole = await kept(hub, seen[0].task_id)
    assert [event.number for event in rest] == [event.number for event in whole[len(seen) :]]
    assert {event.body["kind"] for event in rest} == {"artifact-update", "status-update"}
    assert rest[-1].body["final"] is True


@every_agent
async def test_the_events_of_a_task_are_read_from_its_first_or_from_any_other_until_it_ends(
    hub: HubProcess, agent: str
) -> None:
    async with broken_after(hub, agent, 2) as seen:
        # While it runs; both end with the task.
        whole, rest = await asyncio.gather(
            kept(hub, seen[0].task_id), kept(hub, seen[0].task_id, **{"last-event-id": "4"})
        )
    assert faults(whole) == []
    assert rest == whole[4:]
    # And when it is over.
    assert await kept(hub, seen[0].task_id) == whole
    assert await kept(hub, seen[0].task_id, **{"last-event-id": "4"}) == rest
    assert await kept(hub, seen[0].task_id, **{"last-event-id": str(len(whole))}) == []


@every_agent
@every_door
async def test_a_finished_task_has_nothing_to_follow_but_for_who_says_what_it_has(
    hub: HubProcess, agent: str, door: Door
) -> None:
    async with await door.stream(hub, agent, "3 0.01") as stream:
        events = await all_events(stream)
    task_id = events[0].task_id
    if door.binding == "JSONRPC":
        refused = await say(hub, "POST", f"/a2a/{agent}", rpc("SubscribeToTask", {"id": task_id}), headers=V10)
        assert (refused.status, refused.json["error"]["code"]) == (200, -32004)
    else:
        path = f"/a2a/{agent}/tasks/{task_id}:subscribe"
        refused = await say(hub, door.method, path, {} if door.method == "POST" else None, headers=V10)
        assert refused.status == 400
        assert refused.json["error"]["details"][0]["reason"] == "UNSUPPORTED_OPERATION"
    for number in (0, 1, 4):
        async with await door.subscribe(hub, agent, task_id, **{"last-event-id": str(number)}) as again:
            assert await all_events(again) == events[number:]


@every_agent
async def test_two_who_follow_a_task_see_the_same_under_the_same_numbers(hub: HubProcess, agent: str) -> None:
    async with await JSONRPC.stream(hub, agent, SLOWLY) as first:
        begun = await next_event(first)
        assert begun is not None
        last = {"last-event-id": "1"}
        async with await JSONRPC.subscribe(hub, agent, begun.task_id, **last) as second:
            one, other = await asyncio.gather(all_events(first), all_events(second))
    assert faults([begun, *one]) == []
    assert one == other


# --- what is recorded -----------------------------------------------------------------------------------------------


async def test_a_unary_answer_with_a_task_is_one_recorded_event(hub: HubProcess) -> None:
    async with recorded_agent(hub, "all") as (agent, asked):
        task = await unary_task(hub, agent)
        assert await kept(hub, task["id"]) == [Numbered(1, {"task": task})]
        assert "GetTask" not in asked


async def test_an_agent_whose_streams_alone_are_recorded_is_asked_about_what_it_answered(hub: HubProcess) -> None:
    async with recorded_agent(hub, "streams") as (agent, asked):
        async with await JSONRPC.stream(hub, agent, "go") as stream:
            events = await all_events(stream)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert await kept(hub, events[0].task_id) == events
        assert "GetTask" not in asked
        task = await unary_task(hub, agent)
        assert await kept(hub, task["id"]) == [Numbered(1, {"task": task})]
        assert "GetTask" in asked


async def test_streams_of_an_agent_that_is_not_recorded_pass_without_numbers(hub: HubProcess) -> None:
    async with recorded_agent(hub, "off") as (agent, asked):
        async with await JSONRPC.stream(hub, agent, "go") as stream:
            events = await all_events(stream)
        assert {event.number for event in events} == {None}
        assert events[-1].state == "TASK_STATE_COMPLETED"
        # The hub has nothing to show but what the agent knows.
        (only,) = await kept(hub, events[0].task_id)
        assert only.state == "TASK_STATE_COMPLETED"
        assert "GetTask" in asked


async def unary_task(hub: HubProcess, agent: str) -> dict:
    reply = await say(hub, "POST", f"/a2a/{agent}", rpc("SendMessage", send_params()), headers=V10)
    return reply.json["result"]["task"]


@asynccontextmanager
async def recorded_agent(hub: HubProcess, record: str) -> AsyncIterator[tuple[str, list[str]]]:
    """It streams a few chunks; to unary calls it answers with a task that is done. With all that it was asked."""
    keeping = KeepingAgent(chunks=3, pause_s=0.01)
    asked: list[str] = []

    async def script(request: RawRequest, wire: Wire) -> None:
        call = request.json
        asked.append(call["method"])
        unary = f"unary-{record}"
        if call["method"] == "SendMessage":
            wire.answer(task_answer(request, task=unary))
        elif call["params"].get("id") != unary:
            await keeping.script(request, wire)
        elif call["method"] == "GetTask":
            wire.answer(task_answer(request, task=unary, bare=True))
        else:
            # It is done: nothing follows.
            error = {"code": -32004, "message": "It has ended."}
            wire.answer({"jsonrpc": "2.0", "id": call["id"], "error": error})

    async with registered_agent(hub, raw_agent(script), settings={"record": record}) as agent:
        yield agent.id, asked


# --- slow readers ---------------------------------------------------------------------------------------------------

# More than sockets and followers hold, in pieces that a stock agent might send.
PIECES, PIECE = 200, "x" * 40_000


@every_agent
async def test_who_does_not_read_for_a_while_gets_everything_and_holds_up_nobody(hub: HubProcess, agent: str) -> None:
    async with talkative(hub, agent) as talker, await JSONRPC.stream(hub, talker, "go") as slow:
        first = await next_event(slow)
        assert first is not None
        # It reads nothing until another one has seen the end.
        quick = await kept(hub, first.task_id)
        late = [first, *await all_events(slow)]
    assert faults_of([event.seen for event in quick], expected_text=PIECE * PIECES) == []
    assert late == quick


@asynccontextmanager
async def talkative(hub: HubProcess, kind: str) -> AsyncIterator[str]:
    if kind == "pull":
        agent = Agent("talker")

        @agent.handler
        async def talk(task: TaskContext) -> AsyncIterator[str]:
            for _ in range(PIECES):
                yield PIECE

        async with serving(hub, agent):
            yield "talker"
        return

    async def script(request: RawRequest, wire: Wire) -> None:
        ids = {"taskId": "t-long", "contextId": "c"}
        wire.start_stream()
        wire.event({"task": {"id": "t-long", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})
        for number in range(PIECES):
            artifact = {"artifactId": "a", "parts": [{"text": PIECE}]}
            wire.event({"artifactUpdate": {**ids, "artifact": artifact, "append": number > 0}})
            await wire.drain()
        wire.event({"statusUpdate": {**ids, "status": {"state": "TASK_STATE_COMPLETED"}}})
        wire.end()

    async with registered_agent(hub, raw_agent(script)) as raw:
        yield raw.id


async def test_a_stock_client_that_is_slow_gets_everything(hub: HubProcess) -> None:
    async with talkative(hub, "pull") as talker, httpx.AsyncClient() as http, asyncio.timeout(30):
        client = await stock_client(http, f"{hub.url}/a2a/{talker}", "j10", streaming=True)
        events: list[StreamResponse] = []
        async for event in ask(client, "go"):
            if not events:
                await kept(hub, event.task.id)
            events.append(event)
        # Long over: nothing to follow.
        with pytest.raises(Exception, match="ended"):
            _ = [each async for each in client.subscribe(SubscribeToTaskRequest(id=events[0].task.id))]
    assert texts(events) == PIECE * PIECES
