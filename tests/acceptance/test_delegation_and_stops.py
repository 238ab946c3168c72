"""Agents that call agents: the chain goes along by itself, its limits hold, and stopping its head stops all of it."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from meshway.client import Agent, Answer, CallError, HubError, MeshwayClient, TaskContext
from support.command import meshway
from support.hub_process import HubProcess, running_hub
from support.pull_site import Site, serving
from support.raw_agent import RawAgent, RawRequest, Wire, raw_agent, registered_agent, task_answer
from support.task_clients import until
from support.wire_client import JSON, V10, Reply, rpc, say, send_params

COST_MAX = 5
CANCELED, COMPLETED, FAILED = "TASK_STATE_CANCELED", "TASK_STATE_COMPLETED", "TASK_STATE_FAILED"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub(config=f"[delegation]\ncost_max = {COST_MAX}\n") as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


@pytest.fixture
async def client(hub: HubProcess) -> AsyncIterator[MeshwayClient]:
    async with MeshwayClient(hub.url) as client, asyncio.timeout(25):
        yield client


@asynccontextmanager
async def sites(hub: HubProcess, count: int) -> AsyncIterator[list[Site]]:
    """So many agents, connected."""
    made = [Site(hub) for _ in range(count)]
    async with AsyncExitStack() as stack:
        for site in made:
            await stack.enter_async_context(site.working())
        yield made


async def only_task(client: MeshwayClient, site: Site) -> str:
    """Of an agent that has one."""
    (summary,) = (await client.tasks.list(agent=site.agent_id)).items
    return summary.id


async def states(client: MeshwayClient, *among: Site) -> list[str]:
    """Of the one task of each."""
    return [(await client.tasks.get(await only_task(client, site))).status.state for site in among]


async def set_limits(site: Site, **settings: object) -> None:
    changed = await site.rest("PATCH", f"/v1/agents/{site.agent_id}", {"settings": settings})
    assert changed.status == 200, changed.body


def agents_in(tree: dict) -> list[object]:
    """Nested as the calls were: an agent, and in a list after it what it called."""
    return [tree["agent"], *[agents_in(child) for child in tree["children"]]]


# --- the chain ------------------------------------------------------------------------------------------------------


async def test_a_chain_passes_through_agents_that_do_nothing_for_it(hub: HubProcess, client: MeshwayClient) -> None:
    async with sites(hub, 3) as (a, b, c):
        answer = await client.ask(a.agent_id, f"via {b.agent_id} via {c.agent_id} count 2")
        tree = await client.tasks.tree(answer.task_id or "")
        (innermost,) = (await client.tasks.list(agent=c.agent_id)).items
        between = await only_task(client, b)
    assert answer.text == "0 1 "
    assert agents_in(tree) == [a.agent_id, [b.agent_id, [c.agent_id]]]
    assert innermost.root is not None
    assert (innermost.root.agent, innermost.root.id) == (a.agent_id, answer.task_id)
    assert innermost.parent is not None
    assert (innermost.parent.agent, innermost.parent.id) == (b.agent_id, between)


async def test_cancelling_the_root_cancels_everything_below(hub: HubProcess, client: MeshwayClient) -> None:
    async with sites(hub, 3) as (a, b, c):
        root = await client.tasks.submit(f"via {b.agent_id} via {c.agent_id} sleep 20", agent=a.agent_id)
        await until(lambda: bool(c.executions))
        await client.tasks.cancel(root.id)
        await until(lambda: bool(c.cancelled))
        assert await states(client, a, b, c) == [CANCELED] * 3


async def test_cancelling_the_root_cancels_what_an_agent_with_a_url_does_for_it(
    hub: HubProcess, client: MeshwayClient
) -> None:
    worker, boss = Worker(), Agent("boss", drain_timeout_s=1.0)

    @boss.handler
    async def work(task: TaskContext) -> None:
        async with MeshwayClient(hub.url) as own:
            await own.ask(task.text, "go")
            await asyncio.sleep(20)

    async with serving(hub, boss), registered_agent(hub, raw_agent(worker.script)) as push:
        root = await client.tasks.submit(push.id, agent=boss.id)
        await push.wait_seen(1)
        tree = agents_in(await client.tasks.tree(root.id))
        while tree == [boss.id]:
            # The agent has been called, and its answer is on its way to the hub.
            tree = agents_in(await client.tasks.tree(root.id))
        assert tree == [boss.id, [push.id]]
        await client.tasks.cancel(root.id)
        await until(lambda: worker.cancelled == ["work-1"])


class Worker:
    """A stock agent with a URL: it is at work until somebody cancels that. A script for raw_agent."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self._tasks = 0

    async def script(self, request: RawRequest, wire: Wire) -> None:
        call = request.json
        if call["method"] == "SendMessage":
            self._tasks += 1
            wire.answer(task_answer(request, task=f"work-{self._tasks}", state="TASK_STATE_WORKING"))
            return
        task = call["params"]["id"]
        if call["method"] == "CancelTask":
            self.cancelled.append(task)
        state = CANCELED if task in self.cancelled else "TASK_STATE_WORKING"
        wire.answer(task_answer(request, task=task, state=state, bare=True))


async def test_what_an_agent_with_a_url_calls_is_its_tasks_when_it_sends_the_chain_back(
    hub: HubProcess, client: MeshwayClient
) -> None:
    async with sites(hub, 1) as (site,), relaying_agent(hub, site.agent_id) as relaying:
        answer = await client.ask(relaying.id, "count 1")
        tree = await client.tasks.tree(answer.task_id or "")
        # And whoever it calls cannot call it again.
        circle = await client.ask(relaying.id, f"via {relaying.id} count 1")
    assert agents_in(tree) == [relaying.id, [site.agent_id]]
    assert circle.state == FAILED
    # The first call and the one that led to the refusal; the refused one never arrived.
    assert len(relaying.seen) == 2


@asynccontextmanager
async def relaying_agent(hub: HubProcess, called: str) -> AsyncIterator[RawAgent]:
    """An agent with a URL that passes each message on through the hub, with the chain it was given."""

    async def script(request: RawRequest, wire: Wire) -> None:
        chain = {"meshway-chain": request.headers["meshway-chain"]}
        inner = rpc("SendMessage", {"message": request.json["params"]["message"]})
        reply = await say(hub, "POST", f"/a2a/{called}", inner, headers=V10 | chain)
        state = reply.json["result"]["task"]["status"]["state"]
        wire.answer(task_answer(request, task=f"relayed-{request.json['id']}-{len(agent.seen)}", state=state))

    agent = raw_agent(script)
    async with registered_agent(hub, agent):
        yield agent


# --- its limits -----------------------------------------------------------------------------------------------------


async def test_agents_that_call_each_other_in_a_circle_are_refused_with_the_chain(
    hub: HubProcess, client: MeshwayClient
) -> None:
    async with sites(hub, 2) as (a, b):
        answer = await client.ask(a.agent_id, f"via {b.agent_id} via {a.agent_id} count 1")
        inner = await client.tasks.get(await only_task(client, b))
    # The call was refused, which failed the agent that made it; nobody was called a second time.
    assert len(a.executions) == len(b.executions) == 1
    assert inner.status.state == FAILED
    assert inner.status.message is not None
    said = inner.status.message.text
    assert "delegation_refused" in said
    assert f"client -> {a.agent_id} (task {answer.task_id}) -> {b.agent_id} (task {inner.id}) -> {a.agent_id}:" in said


async def test_a_circle_is_let_through_where_an_operator_allows_it(hub: HubProcess, client: MeshwayClient) -> None:
    async with sites(hub, 2) as (a, b):
        await set_limits(a, allow_cycles=True)
        answer = await client.ask(a.agent_id, f"via {b.agent_id} via {a.agent_id} count 1")
    assert answer.text == "0 "
    assert len(a.executions) == 2


async def test_no_more_agents_in_a_row_are_called_than_the_limit_says(hub: HubProcess, client: MeshwayClient) -> None:
    async with sites(hub, 4) as (a, b, c, d):
        await set_limits(a, depth_max=3)
        await client.ask(a.agent_id, f"via {b.agent_id} via {c.agent_id} via {d.agent_id} count 1")
        last = await client.tasks.get(await only_task(client, c))
    assert not d.executions
    assert last.status.message is not None
    assert "4 agents in a row, the limit is 3" in last.status.message.text


async def test_a_loop_of_calls_ends_at_the_number_that_its_root_may_make(
    hub: HubProcess, client: MeshwayClient
) -> None:
    async with sites(hub, 1) as (called,), caller_in_a_loop(hub, called.agent_id) as (name, refusals):
        await set_limits(Site(hub, name), calls_max=3)
        await client.ask(name, "go")
        # Each root has its own budget.
        await client.ask(name, "go")
    assert len(called.executions) == 6
    assert [refusal.code for refusal in refusals] == ["delegation_refused"] * 2
    assert f"client -> {name} " in refusals[0].detail
    assert "3 calls" in refusals[0].detail


async def test_a_loop_of_calls_ends_when_what_agents_reported_has_cost_enough(
    hub: HubProcess, client: MeshwayClient
) -> None:
    dear = Agent("dear")

    @dear.handler
    async def work(task: TaskContext) -> str:
        task.report_cost(1)
        return "done"

    async with serving(hub, dear), caller_in_a_loop(hub, "dear") as (name, refusals):
        await client.ask(name, "go")
    (refused,) = refusals
    assert (refused.code, refused.detail.count("cost of 5 units")) == ("delegation_refused", 1)


@asynccontextmanager
async def caller_in_a_loop(hub: HubProcess, called: str) -> AsyncIterator[tuple[str, list[HubError]]]:
    """An agent that calls another one again and again until somebody refuses it; with the refusals."""
    agent = Agent(f"loops-to-{called}")
    refusals: list[HubError] = []

    @agent.handler
    async def call(task: TaskContext) -> None:
        async with MeshwayClient(hub.url) as own:
            for _ in range(50):
                try:
                    await own.ask(called, "count 1")
                except CallError as refusal:
                    refusals.append(refusal)
                    return

    async with serving(hub, agent):
        yield agent.id, refusals


async def test_the_time_of_the_root_holds_for_everything_below(hub: HubProcess, client: MeshwayClient) -> None:
    async with sites(hub, 3) as (a, b, c):
        text = f"via {b.agent_id} via {c.agent_id} sleep 20"
        root = await client.tasks.submit(text, agent=a.agent_id, timeout_ms=1_500)
        await until(lambda: bool(c.deadlines))
        events = [event async for event in client.tasks.events(root.id)]
        await until(lambda: bool(c.cancelled))
        assert events[-1].state == FAILED
        assert set(await states(client, b, c)) <= {FAILED, CANCELED}
    deadlines = [site.deadlines[0] for site in (a, b, c)]
    accepted = root.receipts[0].at
    for deadline in deadlines:
        assert isinstance(deadline, datetime)
        assert deadline - accepted <= timedelta(milliseconds=1_500)


# --- who is believed ------------------------------------------------------------------------------------------------


async def refusals_of_chain(hub: HubProcess, agent: str, chain: str) -> list[Reply]:
    """At each door."""
    headers = {"meshway-chain": chain}
    return [
        await say(hub, "POST", f"/a2a/{agent}", rpc("SendMessage", send_params("count 1")), headers=V10 | headers),
        await say(hub, "POST", f"/a2a/{agent}/message:send", send_params("count 1"), headers=V10 | headers),
        await say(hub, "POST", "/v1/tasks", {"agent": agent, "text": "count 1"}, headers=JSON | headers),
    ]


async def test_a_chain_that_the_hub_did_not_write_is_refused_at_every_door(hub: HubProcess) -> None:
    async with sites(hub, 1) as (site,), relaying_agent(hub, site.agent_id) as agent:
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params("count 1")), headers=V10)
        given = agent.seen[0].headers["meshway-chain"]
        middle = len(given) // 2
        changed = given[:middle] + ("A" if given[middle] != "A" else "B") + given[middle + 1 :]
        for forged in (changed, "mine", f"{given}x"):
            by_rpc, by_rest, submitted = await refusals_of_chain(hub, site.agent_id, forged)
            assert (by_rpc.status, by_rpc.json["error"]["code"]) == (200, -32602)
            assert "Meshway-Chain" in by_rpc.json["error"]["message"]
            assert (by_rest.status, submitted.status) == (400, 400)
        assert site.executions == ["count 1"]


async def test_an_agent_whose_url_is_its_own_place_at_the_hub_is_stopped_at_once(hub: HubProcess) -> None:
    path = "/a2a/narcissus"
    card = raw_agent().card
    assert isinstance(card, dict)
    interface = {"url": f"{hub.url}{path}", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    document = {"id": "narcissus", "card": card | {"supportedInterfaces": [interface]}}
    assert (await say(hub, "POST", "/v1/agents", document, headers=JSON)).status == 201
    loop = asyncio.get_running_loop()
    began = loop.time()
    unary = await say(hub, "POST", path, rpc("SendMessage", send_params()), headers=V10)
    streamed = await say(hub, "POST", path, rpc("SendStreamingMessage", send_params()), headers=V10)
    assert loop.time() - began < 2
    for reply in (unary, streamed):
        assert reply.status == 200
        assert b"narcissus" in reply.body
        assert b"is at work further up in this chain already" in reply.body, reply.body


OWN_LIMITS = "[delegation]\nown_calls_per_minute = 6\nown_running_max = 2\n"


async def test_calls_of_an_agents_own_key_outside_a_chain_are_few_and_narrow() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        scopes = ("--scope", "call", "--scope", "serve:own-*")
        key = meshway("keys", "create", "own", *scopes, "--data", str(data), "--json").json["key"]
        bearer = {"authorization": f"Bearer {key}"}
        with HubProcess(data, config=OWN_LIMITS) as hub:
            hub.key = key
            await narrow_and_few(hub, key, bearer)


async def narrow_and_few(hub: HubProcess, key: str, bearer: dict[str, str]) -> None:
    async def call(text: str, *, waits: bool = True) -> Reply:
        params = send_params(text) | {"configuration": {"returnImmediately": not waits}}
        return await say(hub, "POST", called.path, rpc("SendMessage", params), headers=V10 | bearer)

    called = Site(hub, "own-called")
    caller, made = chain_caller(hub, key, called.agent_id)
    async with serving(hub, called.agent(), caller, api_key=key):
        running = [(await call("sleep 20", waits=False)).json["result"]["task"]["id"] for _ in range(2)]
        # Two are under way: no third before one of them is over.
        third = await call("count 1")
        assert (third.status, third.json["error"]["data"][0]["reason"]) == (429, "OWN_LIMIT_REACHED")
        assert int(third.headers["retry-after"]) >= 1
        async with MeshwayClient(hub.url, key) as client:
            for task in running:
                await client.tasks.cancel(task)
            # What is called in the course of a task counts against its root instead.
            await client.ask(caller.id, "ten times")
        assert len(made) == 10
        # Three of the six of this minute are gone.
        statuses = [(await call("count 1")).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def chain_caller(hub: HubProcess, key: str, called: str) -> tuple[Agent, list[Answer]]:
    """It calls another one ten times for each task."""
    agent = Agent("own-caller")
    made: list[Answer] = []

    @agent.handler
    async def call(task: TaskContext) -> None:
        async with MeshwayClient(hub.url, key) as client:
            for _ in range(10):
                made.append(await client.ask(called, "count 1"))  # noqa: PERF401  an await is no comprehension here

    return agent, made


# --- stops ----------------------------------------------------------------------------------------------------------


async def actions(hub: HubProcess, count: int) -> list[tuple[str, object]]:
    """The newest of the audit log, oldest first."""
    audit = await say(hub, "GET", f"/v1/audit?order=newest&limit={count}")
    return [(each["action"], each.get("agent")) for each in audit.json["items"]][::-1]


async def test_a_stopped_agent_is_given_nothing_and_what_runs_and_was_caused_is_cancelled(
    hub: HubProcess, client: MeshwayClient
) -> None:
    a, b = Site(hub, "stopped", capacity=1), Site(hub)
    async with a.working(), b.working():
        running = await client.tasks.submit(f"via {b.agent_id} sleep 20", agent=a.agent_id)
        await until(lambda: bool(b.executions))
        queued = await client.tasks.submit("count 2", agent=a.agent_id)
        notice = await client.tasks.stop(a.agent_id, reason="nonsense")
        assert (notice.agent, notice.reason) == (a.agent_id, "nonsense")
        await until(lambda: bool(b.cancelled))
        assert await states(client, b) == [CANCELED]
        with pytest.raises(HubError, match="nonsense") as refused:
            await client.ask(a.agent_id, "count 1")
        assert refused.value.code == "agent_stopped"
        with pytest.raises(HubError, match="nonsense"):
            await client.tasks.submit("count 1", agent=a.agent_id)
        # Others go on.
        assert (await client.ask(b.agent_id, "count 1")).text == "0 "
        # A restart changes nothing.
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        assert (await client.tasks.get(queued.id)).status.state == "TASK_STATE_SUBMITTED"
        assert await client.tasks.resume(a.agent_id)
        events = [event async for event in client.tasks.events(queued.id)]
        assert events[-1].state == COMPLETED
        assert (await client.tasks.get(running.id)).status.state == CANCELED
    assert a.executions == [f"via {b.agent_id} sleep 20", "count 2"]
    assert await actions(hub, 2) == [("agent_stopped", "stopped"), ("agent_resumed", "stopped")]


async def test_an_agent_with_a_url_is_stopped_and_goes_on_as_well(hub: HubProcess, client: MeshwayClient) -> None:
    worker = Worker()
    async with registered_agent(hub, raw_agent(worker.script)) as push:
        running = await client.ask(push.id, "go")
        notice = await client.tasks.stop(push.id)
        assert (notice.cancelled, worker.cancelled) == (1, ["work-1"])
        assert (await client.get_task(push.id, running.task_id or "")).state == CANCELED
        sent = len(push.seen)
        with pytest.raises(HubError) as refused:
            await client.ask(push.id, "go")
        assert (refused.value.code, len(push.seen)) == ("agent_stopped", sent)
        await client.tasks.resume(push.id)
        assert (await client.ask(push.id, "go")).task_id == "work-2"


@pytest.mark.parametrize("whom", ["agent", "all"])
@pytest.mark.parametrize("says", ["nothing", "that it streams"])
async def test_a_call_that_has_shown_no_task_yet_is_cut_by_a_stop(
    hub: HubProcess, client: MeshwayClient, whom: str, says: str
) -> None:
    hung_up = asyncio.Event()
    call = "SendMessage" if says == "nothing" else "SendStreamingMessage"

    async def think(_: RawRequest, wire: Wire) -> None:
        if says != "nothing":
            wire.start_stream()
        await wire.closed.wait()
        hung_up.set()

    async with registered_agent(hub, raw_agent(think)) as push, asyncio.TaskGroup() as group:
        body = rpc(call, send_params("hi"))
        asking = group.create_task(say(hub, "POST", f"/a2a/{push.id}", body, headers=V10))
        await push.wait_seen()
        # A head that was sent has come by then.
        await asyncio.sleep(0.3)
        agent = push.id if whom == "agent" else None
        await client.tasks.stop(agent)
        reply = await asyncio.wait_for(asking, 5)
        await asyncio.wait_for(hung_up.wait(), 5)
        await client.tasks.resume(agent)
    answer = reply.json if says == "nothing" else json.loads(reply.body.partition(b"data:")[2])
    (info,) = answer["error"]["data"]
    assert info["reason"] == "UPSTREAM_BROKEN"
    assert "stopped by an operator" in answer["error"]["message"]


async def test_everything_is_stopped_at_once_and_goes_on_at_once(hub: HubProcess, client: MeshwayClient) -> None:
    worker = Worker()
    async with sites(hub, 2) as (a, b), registered_agent(hub, raw_agent(worker.script)) as push:
        for site in (a, b):
            await client.tasks.submit("sleep 20", agent=site.agent_id)
        await until(lambda: bool(a.executions and b.executions))
        await client.ask(push.id, "go")
        notice = await client.tasks.stop(reason="fire drill")
        try:
            assert (notice.agent, notice.cancelled) == (None, 3)
            await until(lambda: bool(a.cancelled and b.cancelled and worker.cancelled))
            for agent in (a.agent_id, b.agent_id, push.id):
                with pytest.raises(HubError, match="fire drill"):
                    await client.ask(agent, "count 1")
        finally:
            await client.tasks.resume()
        assert (await client.ask(a.agent_id, "count 1")).text == "0 "
        assert await states_of_all(client, a) == [COMPLETED, CANCELED]
    assert await actions(hub, 2) == [("all_stopped", None), ("all_resumed", None)]


async def states_of_all(client: MeshwayClient, site: Site) -> list[str]:
    return [each.state for each in (await client.tasks.list(agent=site.agent_id)).items]
