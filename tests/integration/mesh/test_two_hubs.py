"""Two hubs are one hub: whatever is begun at one is seen, gone on with and ended at the other, also after a kill -9."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from meshway.client import Agent, StreamEvent, TaskContext
from meshway.client.errors import HubError
from support.command import meshway
from support.hub_process import HubProcess
from support.message_doors import RestDoor
from support.polling_instance import PollingInstance, artifact, status
from support.ports import free_port
from support.pull_site import Site
from support.raw_agent import RawAgent, RawRequest, Wire, message_answer, raw_agent, registered_agent, task_answer
from support.task_children import child_agent, text_of
from support.task_clients import FollowedTask, until
from support.task_judge import faults_of
from support.two_hubs import TwoHubs, two_hubs

# Of one test: whatever is waited for comes in a moment, or never.
pytestmark = pytest.mark.timeout(90)
WITHIN_S = 15.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHubs]:
    with two_hubs(tmp_path_factory.mktemp("two")) as mesh:
        yield mesh


@pytest.fixture
def mesh(running: TwoHubs) -> TwoHubs:
    running.make_whole()
    return running


def agent_at(hub: HubProcess, agent_id: str) -> dict | None:
    code, _, agent = hub.request("GET", f"/v1/agents/{agent_id}")
    return agent if code == 200 else None


def state_at(hub: HubProcess, agent_id: str) -> str | None:
    """Of the one instance."""
    agent = agent_at(hub, agent_id)
    return agent and agent["instances"][0]["state"]


async def until_state_at(hub: HubProcess, agent_id: str, state: str | None) -> None:
    """None: it is unknown there. In a thread, for the agent may live in this loop and be asked for its card."""

    def wait() -> None:
        give_up = time.monotonic() + WITHIN_S
        while (found := state_at(hub, agent_id)) != state:
            assert time.monotonic() < give_up, found
            time.sleep(0.02)

    await asyncio.to_thread(wait)


async def posted(hub: HubProcess, path: str, body: object = None, *, method: str = "POST", code: int = 200) -> dict:
    found, _, answer = await asyncio.to_thread(hub.request, method, path, body)
    assert found == code, answer
    return answer


# --- who is there -----------------------------------------------------------------------------------------------------


async def test_an_agent_registered_at_one_is_seen_at_the_other_and_so_is_its_removal(mesh):
    async with registered_agent(mesh.a, raw_agent()) as agent:
        await until_state_at(mesh.b, agent.id, "online")
        async with mesh.client(mesh.b) as client:
            assert (await client.ask(agent.id, "hello")).text == "hi"
    await until_state_at(mesh.b, agent.id, None)


async def test_an_instance_that_beats_at_one_is_online_at_both_and_offline_at_both_when_it_stops(mesh):
    ttl_ms = 1_500
    agent = raw_agent()
    async with registered_agent(mesh.a, agent, settings={"probe": False}):
        instance = (await asyncio.to_thread(agent_at, mesh.a, agent.id))["instances"][0]["id"]
        await until_state_at(mesh.b, agent.id, "online")
        states = set()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + 3 * ttl_ms / 1000
        while loop.time() < ends_at:
            body = {"instance": instance, "ttl_ms": ttl_ms}
            await posted(mesh.a, f"/v1/agents/{agent.id}/heartbeat", body)
            states.add(await asyncio.to_thread(state_at, mesh.b, agent.id))
            await asyncio.sleep(0.2)
        assert states == {"online"}
        for hub in mesh.hubs:
            await until_state_at(hub, agent.id, "offline")


# --- tasks of agents that connect out ---------------------------------------------------------------------------------


class Gated:
    """An agent that says ten numbers, and waits for the test in the middle."""

    def __init__(self, agent_id: str) -> None:
        self.id = agent_id
        self.gate = asyncio.Event()
        self.attempts: list[int] = []

    def agent(self) -> Agent:
        agent = Agent(self.id, description="Says numbers.", drain_timeout_s=1.0)

        @agent.handler
        async def say(task: TaskContext) -> AsyncIterator[str]:
            self.attempts.append(task.attempt)
            for number in range(10):
                if number == 5:
                    await self.gate.wait()
                yield f"{number} "

        return agent

    @asynccontextmanager
    async def connected(self, urls: str, hub: HubProcess) -> AsyncIterator[None]:
        """Until the block ends; `hub` is one that must see it first."""
        agent = self.agent()
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.serve(urls))
            try:
                await until_state_at(hub, self.id, "online")
                yield
            finally:
                agent.stop()


async def first_chunks(stream: AsyncIterator[StreamEvent], count: int) -> FollowedTask:
    """A client that leaves after so many chunks."""
    seen = FollowedTask()
    async with asyncio.timeout(WITHIN_S), aclosing(stream):

        async def some() -> AsyncIterator[StreamEvent]:
            async for event in stream:
                yield event
                if seen.chunks >= count:
                    return

        await seen.read(some())
    return seen


async def the_rest(mesh: TwoHubs, hub: HubProcess, agent_id: str, seen: FollowedTask) -> None:
    """What a client sees that comes back at that hub with the number of its last event."""
    async with asyncio.timeout(60), mesh.client(hub) as client:
        last = str(seen.events[-1].number)
        await seen.read(client.follow_task(agent_id, seen.task_id, last_event_id=last))


async def test_work_submitted_at_one_is_done_by_an_instance_at_the_other(mesh):
    site = Site(mesh.a)
    async with site.working(), mesh.client(mesh.b) as client:
        await until_state_at(mesh.b, site.agent_id, "online")
        task = await client.tasks.submit("count 20", agent=site.agent_id)
        seen = FollowedTask()
        async with asyncio.timeout(WITHIN_S):
            await seen.read(client.tasks.events(task.id))
        assert faults_of(seen.events, expected_text=text_of(20)) == []
        answer = await client.ask(site.agent_id, "count 3")
    assert answer.text == text_of(3)


async def test_a_stream_of_an_agent_that_connects_out_is_resumed_at_the_other_hub(mesh):
    agent = Gated("gated-stream")
    async with agent.connected(mesh.a.url, mesh.b), mesh.client(mesh.a) as client:
        seen = await first_chunks(client.stream(agent.id, "go"), 3)
        agent.gate.set()
        await the_rest(mesh, mesh.b, agent.id, seen)
    assert faults_of(seen.events, expected_text=text_of(10)) == []


async def test_a_task_cancelled_at_one_ends_at_its_instance_at_the_other(mesh):
    site = Site(mesh.a)
    async with site.working(), mesh.client(mesh.b) as client:
        await until_state_at(mesh.b, site.agent_id, "online")
        task = await client.tasks.submit("sleep 60", agent=site.agent_id)
        await until(lambda: site.executions == ["sleep 60"])
        await client.tasks.cancel(task.id)
        await until(lambda: site.cancelled == ["sleep 60"])
        assert (await client.tasks.get(task.id)).status.state == "TASK_STATE_CANCELED"


async def test_a_stop_at_one_ends_what_runs_at_the_other_and_holds_up_what_comes(mesh):
    site = Site(mesh.a)
    async with site.working(), mesh.client(mesh.a) as client:
        task = await client.tasks.submit("sleep 60", agent=site.agent_id)
        await until(lambda: site.executions == ["sleep 60"])
        await posted(mesh.b, f"/v1/agents/{site.agent_id}/stop", {"reason": "enough"})
        try:
            await until(lambda: site.cancelled == ["sleep 60"])
            assert (await client.tasks.get(task.id)).status.state == "TASK_STATE_CANCELED"
            refused = await asyncio.to_thread(
                mesh.a.request, "POST", "/v1/tasks", {"agent": site.agent_id, "text": "count 1"}
            )
            assert refused[2]["code"] == "agent_stopped"
        finally:
            await posted(mesh.b, f"/v1/agents/{site.agent_id}/resume")
        assert (await client.ask(site.agent_id, "count 1")).text == text_of(1)


async def test_the_removal_of_an_agent_at_one_ends_what_runs_at_the_other(mesh):
    site = Site(mesh.a)

    async def removed_at_work() -> None:
        async with site.working(), mesh.client(mesh.a) as client:
            await client.tasks.submit("sleep 60", agent=site.agent_id)
            await until(lambda: site.executions == ["sleep 60"])
            await posted(mesh.b, f"/v1/agents/{site.agent_id}", method="DELETE", code=204)
            await until(lambda: site.cancelled == ["sleep 60"])

    # The agent is told too that it is none any more.
    with pytest.raises(ExceptionGroup) as told:
        await removed_at_work()
    (error,) = told.value.exceptions
    assert isinstance(error, HubError)
    assert error.code == "agent_not_found"


async def test_an_instance_may_take_tasks_at_one_and_report_at_the_other(mesh):
    async with mesh.http(mesh.a) as at_a, mesh.http(mesh.b) as at_b:
        here, there = PollingInstance(at_a, "poller"), PollingInstance(at_b, "poller")
        await here.join()
        await until_state_at(mesh.b, "poller", "online")
        task_id = (await posted(mesh.b, "/v1/tasks", {"agent": "poller", "text": "hi"}, code=202))["id"]
        task = await here.take()
        first = await there.report(task, artifact(task, "a", last=False))
        assert [each["outcome"] for each in first["outcomes"]] == ["done"]
        second = await here.report(task, artifact(task, "b", append=True), after=1)
        assert [each["outcome"] for each in second["outcomes"]] == ["done"]
        third = await there.report(task, status(task, "COMPLETED"), after=2)
        assert [each["outcome"] for each in third["outcomes"]] == ["done"]
        late = await here.report(task, artifact(task, "c"), after=3)
        assert [each["outcome"] for each in late["outcomes"]] == ["stale"]
        for hub in mesh.hubs:
            found = await posted(hub, f"/v1/tasks/{task_id}", method="GET")
            assert found["status"]["state"] == "TASK_STATE_COMPLETED"
            assert [part["text"] for part in found["artifacts"][0]["parts"]] == ["a", "b"]


# --- streams of agents with a URL -------------------------------------------------------------------------------------


def streaming_agent(gate: asyncio.Event) -> RawAgent:
    """Ten chunks of one task, with a wait for the test in the middle."""

    async def script(request: RawRequest, wire: Wire) -> None:
        ids = {"taskId": "t-push", "contextId": "c-push"}
        if request.json["method"] != "SendStreamingMessage":
            wire.answer(task_answer(request, task="t-push", context="c-push", state="TASK_STATE_WORKING", bare=True))
            return
        wire.start_stream()
        task = {"id": "t-push", "contextId": "c-push", "status": {"state": "TASK_STATE_WORKING"}}
        wire.event({"task": task}, request_id=request.json["id"])
        for number in range(10):
            if number == 5:
                await gate.wait()
            part = {"artifactId": "a", "parts": [{"text": f"{number} "}]}
            update = {**ids, "artifact": part, "append": number > 0, "lastChunk": number == 9}
            wire.event({"artifactUpdate": update}, request_id=request.json["id"])
        wire.event(
            {"statusUpdate": {**ids, "status": {"state": "TASK_STATE_COMPLETED"}}}, request_id=request.json["id"]
        )
        wire.end()

    return raw_agent(script)


async def test_a_stream_of_an_agent_with_a_url_is_resumed_at_the_other_hub(mesh):
    gate = asyncio.Event()
    agent = streaming_agent(gate)
    async with registered_agent(mesh.a, agent), mesh.client(mesh.a) as client:
        await until_state_at(mesh.b, agent.id, "online")
        seen = await first_chunks(client.stream(agent.id, "go"), 3)
        resumed = asyncio.TaskGroup()
        async with resumed:
            resumed.create_task(the_rest(mesh, mesh.b, agent.id, seen))
            await until(lambda: seen.chunks == 5)
            gate.set()
    assert faults_of(seen.events, expected_text=text_of(10)) == []
    assert [request.json["method"] for request in agent.seen] == ["SendStreamingMessage"]


async def test_the_capacity_of_an_instance_holds_over_both_hubs_but_for_a_slice(mesh):
    capacity, calls_each = 4, 24
    under_way: set[int] = set()
    most = 0

    async def script(request: RawRequest, wire: Wire) -> None:
        nonlocal most
        under_way.add(id(request))
        most = max(most, len(under_way))
        await asyncio.sleep(0.1)
        under_way.discard(id(request))
        wire.answer(message_answer(request))

    async def call(http, agent_id: str) -> int:
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}]}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
        refusals = 0
        while True:
            answer = (await http.post(f"/a2a/{agent_id}", json=body, headers={"a2a-version": "1.0"})).json()
            if "result" in answer:
                return refusals
            refusals += 1
            await asyncio.sleep(0.02)

    agent = raw_agent(script)
    async with registered_agent(mesh.a, agent, capacity=capacity), mesh.http(mesh.a) as at_a, mesh.http(mesh.b) as at_b:
        await until_state_at(mesh.b, agent.id, "online")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            calls = [group.create_task(call(http, agent.id)) for http in (at_a, at_b) for _ in range(calls_each)]
    assert sum(each.result() for each in calls) > 0
    assert len(agent.seen) == 2 * calls_each
    assert capacity - 1 <= most <= capacity + capacity // 2


# --- channels ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def doors(mesh: TwoHubs) -> AsyncIterator[tuple[RestDoor, RestDoor]]:
    async with mesh.http(mesh.a) as at_a, mesh.http(mesh.b) as at_b:
        yield RestDoor(at_a), RestDoor(at_b)


async def test_a_queue_message_leased_at_one_is_settled_once_at_the_other(mesh):
    async with doors(mesh) as (a, b):
        await a.send("queues", "settled", {"data": 1})
        (delivery,) = await a.lease("settled", wait_ms=5_000)
        assert await b.settle("settled", delivery) == ["done"]
        assert await a.settle("settled", delivery) == ["stale"]
        assert await b.lease("settled") == []


async def test_a_dead_letter_of_one_is_redriven_at_the_other(mesh):
    async with doors(mesh) as (a, b):
        await a.send("queues", "dead", {"data": "x"})
        (delivery,) = await a.lease("dead", wait_ms=5_000)
        assert await a.settle("dead", delivery, action="dead_letter", reason="no") == ["done"]
        (letter,) = await b.dead_letters("dead")
        assert letter["reason"] == "no"
        assert await b.redrive("dead") == 1
        (again,) = await a.lease("dead", wait_ms=5_000)
        assert again["message"]["data"] == "x"
        assert await a.dead_letters("dead") == []


async def test_the_position_of_a_stream_reader_goes_from_hub_to_hub(mesh):
    async with doors(mesh) as (a, b):
        await a.send("streams", "read", *({"data": number} for number in range(6)))
        reader = "/v1/streams/read/readers/r"
        await a.call("PUT", reader, {"from": "first"})
        for sequence, (acks, looks) in enumerate([(a, b), (b, a), (a, b)], 2):
            await acks.call("POST", f"{reader}/ack", {"sequence": sequence})
            assert (await looks.call("GET", reader))["position"] == sequence
        async with b.feed("streams", "read", reader="r") as feed:
            async with asyncio.timeout(WITHIN_S):
                assert (await feed.next())["data"] == 4


# --- the mesh itself --------------------------------------------------------------------------------------------------


def test_both_show_both_and_each_duty_has_one_owner(mesh):
    shown = []
    for hub in mesh.hubs:
        ran = meshway("mesh", "status", "--url", hub.url, "--json")
        assert ran.status == 0, ran.err
        assert {each["url"]: each["state"] for each in ran.json["hubs"]} == {each.url: "up" for each in mesh.hubs}
        assert [each["url"] for each in ran.json["hubs"] if each["is_this"]] == [hub.url]
        assert ran.json["engine"]["writable"]
        shown.append({duty["name"]: duty["hub"] for duty in ran.json["duties"]})
        ids = {each["id"] for each in ran.json["hubs"]}
    assert shown[0] == shown[1]
    assert "prober" in shown[0]
    assert set(shown[0].values()) <= ids
    table = meshway("mesh", "status", "--url", mesh.a.url)
    assert table.status == 0
    assert "prober" in table.out


def test_a_hub_with_another_secret_key_is_refused_and_told_what_to_do(mesh, tmp_path):
    stranger = HubProcess(tmp_path / "stranger", flags=["--engine", mesh.nats.url], env=mesh.env)
    stranger.spawn()
    assert stranger.wait(30) != 0
    text = stranger.log.read_text()
    assert "MESHWAY_SECRET_KEY" in text
    assert "secret.key" in text
    assert "Traceback" not in text


# --- when a hub dies --------------------------------------------------------------------------------------------------


async def test_the_duties_of_a_killed_hub_move_within_ten_seconds(mesh):
    owners = mesh.owners(mesh.a)
    victim = next(hub for hub in mesh.hubs if hub.url in owners.values())
    other = next(hub for hub in mesh.hubs if hub is not victim)
    await asyncio.to_thread(victim.kill)
    await until(lambda: set(mesh.owners(other).values()) == {other.url}, within_s=10)
    assert set(mesh.owners(other)) == set(owners)
    assert next(each["state"] for each in mesh.picture(other)["hubs"] if each["url"] == victim.url) == "lost"


async def test_an_instance_whose_hub_is_killed_goes_on_at_the_other_with_what_it_holds(mesh):
    agent = Gated("gated-move")
    async with agent.connected(mesh.urls, mesh.b), mesh.client(mesh.b) as client:
        task = await client.tasks.submit("go", agent=agent.id)
        seen = FollowedTask()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(seen.read(client.tasks.events(task.id)))
            await seen.until_chunks(5)
            await asyncio.to_thread(mesh.a.kill)
            agent.gate.set()
    assert agent.attempts == [1]
    assert faults_of(seen.events, expected_text=text_of(10)) == []


async def test_a_stream_whose_reader_hub_is_killed_is_taken_up_by_the_other(mesh):
    chunks, port = 30, free_port()
    with child_agent("push", str(port), environ={}):
        registration = {"id": "stock", "url": f"http://127.0.0.1:{port}/"}
        # It says that it is ready before it listens.
        await until(lambda: mesh.b.request("POST", "/v1/agents", registration)[0] in (200, 201))
        try:
            await until_state_at(mesh.a, "stock", "online")
            async with mesh.client(mesh.a) as client:
                seen = await first_chunks(client.stream("stock", f"{chunks} 0.15"), 5)
            await asyncio.to_thread(mesh.a.kill)
            await the_rest(mesh, mesh.b, "stock", seen)
        finally:
            await asyncio.to_thread(mesh.b.request, "DELETE", "/v1/agents/stock")
    assert faults_of(seen.events, expected_text=text_of(chunks)) == []


async def test_a_hub_says_why_it_is_not_ready_without_its_store_and_recovers_by_itself(mesh):
    def readiness(hub):
        code, _, answer = hub.request("GET", "/readyz")
        return code, answer

    await asyncio.to_thread(mesh.nats.stop)
    try:
        for hub in mesh.hubs:
            await until(lambda hub=hub: readiness(hub)[0] == 503)
            _, answer = readiness(hub)
            assert not answer["ready"]
            assert answer["reason"]
            assert hub.request("GET", "/healthz")[0] == 200
    finally:
        await asyncio.to_thread(mesh.nats.start)
    for hub in mesh.hubs:
        await until(lambda hub=hub: readiness(hub)[0] == 200, within_s=40)
    async with doors(mesh) as (a, b):
        await a.send("queues", "after", {"data": json.dumps("x")})
        (delivery,) = await b.lease("after", wait_ms=5_000)
        assert await b.settle("after", delivery) == ["done"]
    await until(lambda: set(mesh.owners(mesh.a).values()) <= {hub.url for hub in mesh.hubs})
