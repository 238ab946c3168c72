"""Processes behind one name: they share its tasks within their capacity, and what comes while none is there waits."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from a2a.types import TaskState

from meshway.client import Agent, EventKind, HubError, MeshwayClient, Reject, TaskContext
from meshway.client.task_values import TaskReceipt
from support.hub_process import HubProcess, running_hub
from support.pull_site import NOBODY_WAITS, Site, sent, serving, text_of_task, until_state
from support.sdk_agent import DIALECTS
from support.task_clients import until
from support.wire_client import JSON, V10, rpc, say, send_params

EXAMPLE = Path(__file__).parents[2] / "examples" / "pull_agent.py"
# What the example has, for it says nothing of it.
CAPACITY = 10

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub() as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


# --- many processes -------------------------------------------------------------------------------------------------


@contextmanager
def example_process(hub: HubProcess) -> Iterator[int]:
    """As a user starts it; its process id."""
    env = {**os.environ, "MESHWAY_URL": hub.url}
    with subprocess.Popen([sys.executable, str(EXAMPLE)], env=env) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


async def test_processes_of_one_name_share_its_work_and_none_takes_more_than_its_capacity(hub: HubProcess) -> None:
    with ExitStack() as stack:
        pids = [stack.enter_context(example_process(hub)) for _ in range(3)]
        await until(lambda: len(_instances(hub, "counter")) == len(pids))
        async with MeshwayClient(hub.url) as client, asyncio.TaskGroup() as group:
            # More than two of them can have at once.
            asking = [group.create_task(client.ask("counter", "3")) for _ in range(CAPACITY * 3)]
        answers = [each.result() for each in asking]
        async with MeshwayClient(hub.url) as client:
            receipts = [await client.tasks.receipts(answer.task_id or "") for answer in answers]
    assert {answer.text for answer in answers} == {"1 2 3 "}
    workers = {_instance_of(each) for each in receipts}
    assert {pid for pid in pids for worker in workers if f"-{pid}-" in worker} == set(pids)
    for worker in workers:
        assert _at_once([each for each in receipts if _instance_of(each) == worker]) <= CAPACITY


async def test_work_above_the_capacity_waits_for_a_free_place(hub: HubProcess) -> None:
    running, most = Counter[str](), Counter[str]()
    agents = [Agent("narrow", capacity=2, description=f"Number {number}.") for number in range(2)]
    gate = asyncio.Event()

    def handle(agent: Agent, name: str) -> None:
        @agent.handler
        async def work(task: TaskContext) -> str:
            running[name] += 1
            most[name] = max(most[name], running[name])
            await gate.wait()
            running[name] -= 1
            return name

    for number, agent in enumerate(agents):
        handle(agent, str(number))
    async with serving(hub, *agents), MeshwayClient(hub.url) as client:
        tasks = [await client.tasks.submit("go", agent="narrow") for _ in range(7)]
        await until(lambda: running.total() == 4)
        inbox = await client.tasks.inbox("narrow")
        states = Counter([(await client.tasks.get(task.id)).status.state for task in tasks])
        gate.set()
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(_end_of(client, task.id))
    assert states == {"TASK_STATE_WORKING": 4, "TASK_STATE_SUBMITTED": 3}
    assert len(inbox.items) == 7
    assert most == {"0": 2, "1": 2}


async def _end_of(client: MeshwayClient, task_id: str) -> None:
    events = [event async for event in client.tasks.events(task_id)]
    assert events[-1].state == "TASK_STATE_COMPLETED"


def _instances(hub: HubProcess, agent: str) -> Sequence[dict]:
    status, _, found = hub.request("GET", f"/v1/agents/{agent}")
    return found["instances"] if status == 200 else ()


def _instance_of(receipts: Sequence[TaskReceipt]) -> str:
    (claimed,) = [each for each in receipts if each.state == "claimed"]
    return claimed.instance or ""


def _at_once(receipts: Sequence[Sequence[TaskReceipt]]) -> int:
    """Of so many tasks an instance had the hand-out and not yet given the reply, at most."""
    moments: list[tuple[datetime, int]] = []
    for each in receipts:
        by_state = {receipt.state: receipt.at for receipt in each}
        moments += [(by_state["claimed"], 1), (by_state["replied"], -1)]
    return max(itertools.accumulate(change for _, change in sorted(moments)))


# --- skills and keys ------------------------------------------------------------------------------------------------


async def test_each_skill_has_its_own_function_and_its_place_on_the_card(hub: HubProcess) -> None:
    agent = Agent("handy")

    @agent.skill("shout", tags=["text"])
    async def shout(task: TaskContext) -> str:
        """Says it louder."""
        return task.text.upper()

    @agent.skill("reverse", examples=["abc"])
    def reverse(task: TaskContext) -> str:
        """Says it backwards, and blocks a thread while it does."""
        return task.text[::-1]

    @agent.handler
    async def other(task: TaskContext) -> str:
        return f"nothing to do with {task.text}"

    async with serving(hub, agent), MeshwayClient(hub.url) as client:
        card = (await say(hub, "GET", "/a2a/handy/.well-known/agent-card.json")).json
        texts = []
        for metadata in ({"skill": "shout"}, {"skill": "reverse"}, {}):
            reply = await say(
                hub, "POST", "/a2a/handy", rpc("SendMessage", send_params("abc", metadata=metadata)), headers=V10
            )
            texts.append(reply.json["result"]["task"]["artifacts"][0]["parts"][0]["text"])
        by_skill = await client.tasks.submit("abc", skill="reverse")
        await _end_of(client, by_skill.id)
    assert texts == ["ABC", "cba", "nothing to do with abc"]
    assert [(skill["id"], skill["description"]) for skill in card["skills"]] == [
        ("shout", "Says it louder."),
        ("reverse", "Says it backwards, and blocks a thread while it does."),
    ]
    assert by_skill.agent == "handy"


async def test_a_key_serves_the_agents_of_its_pattern_and_no_others(keyed) -> None:
    key = keyed.server["authorization"].removeprefix("Bearer ")
    within, outside = Site(keyed.hub, "raw-puller"), Site(keyed.hub, "others-puller")
    async with serving(keyed.hub, within.agent(), api_key=key):
        reply = await say(
            keyed.hub, "POST", within.path, rpc("SendMessage", send_params("count 2")), headers=V10 | keyed.ann
        )
        assert reply.json["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    with pytest.raises(HubError) as refused:
        await outside.agent().serve(keyed.hub.url, key)
    assert refused.value.code == "forbidden"
    assert "others-puller" in str(refused.value)
    for who in (keyed.server, keyed.ann):
        polled = await say(
            keyed.hub, "POST", "/v1/agents/others-puller/lease", {"instance": "i", "count": 1}, headers=JSON | who
        )
        assert polled.status == 403, polled
    assert (await say(keyed.hub, "GET", "/v1/agents/others-puller", headers=keyed.ann)).status == 404


# --- what goes wrong ------------------------------------------------------------------------------------------------


async def test_a_handler_that_asks_for_it_is_given_another_attempt_and_its_first_words_are_replaced(
    hub: HubProcess,
) -> None:
    agent = Agent("stumbling", retry_on=[ConnectionError])

    @agent.handler
    async def work(task: TaskContext) -> AsyncIterator[str]:
        yield f"attempt {task.attempt} "
        yield "began "
        if task.attempt == 1:
            raise ConnectionError("the database is away")
        if task.text == "refused":
            raise Reject("no such number")
        if task.text == "broken":
            raise ValueError("a bug")
        yield "and ended"

    async with serving(hub, agent), MeshwayClient(hub.url) as client:
        ends = {}
        for text in ("fine", "refused", "broken"):
            events = [event async for event in client.stream(agent.id, text)]
            chunks = [(event.text, event.append) for event in events if event.kind is EventKind.ARTIFACT]
            assert chunks[:4] == [("attempt 1 ", False), ("began ", True), ("attempt 2 ", False), ("began ", True)]
            ends[text] = await client.tasks.get(events[0].task_id or "")
        lost = await client.tasks.dead_letters(agent.id)
    assert ends["fine"].artifacts[0].text == "attempt 2 began and ended"
    assert {text: end.status.state for text, end in ends.items()} == {
        "fine": "TASK_STATE_COMPLETED",
        "refused": "TASK_STATE_FAILED",
        "broken": "TASK_STATE_FAILED",
    }
    assert ends["broken"].status.message is not None
    assert "a bug" in ends["broken"].status.message.text
    # Only what somebody may want to try again is kept for that.
    assert [(each.task_id, each.reason) for each in lost.items] == [(ends["refused"].id, "no such number")]


# --- removed --------------------------------------------------------------------------------------------------------


async def test_the_processes_of_an_agent_that_is_removed_end_and_what_they_worked_on_is_cancelled(
    hub: HubProcess,
) -> None:
    agent = Agent("removed", capacity=1)
    at_work, ends = asyncio.Event(), []

    @agent.handler
    async def work(task: TaskContext) -> str:
        at_work.set()
        try:
            await asyncio.sleep(60)
        finally:
            ends.append(task.id)
        return "too late"

    serve = asyncio.create_task(agent.serve(hub.url))
    async with MeshwayClient(hub.url) as client:
        await until(lambda: len(_instances(hub, agent.id)) == 1)
        running = await client.tasks.submit("go", agent=agent.id)
        await at_work.wait()
        waiting = await client.tasks.submit("later", agent=agent.id)
        await client.agents.remove(agent.id)
        with pytest.raises(HubError) as removed:
            await asyncio.wait_for(serve, 5)
        # Its tasks are found again with it.
        async with serving(hub, _prompt(agent.id)):
            await _end_of(client, waiting.id)
            cancelled = await client.tasks.get(running.id)
    assert removed.value.code == "agent_not_found"
    assert ends == [running.id]
    assert cancelled.status.state == "TASK_STATE_CANCELED"
    assert cancelled.status.message is not None
    assert "removed" in cancelled.status.message.text


def _prompt(agent_id: str) -> Agent:
    agent = Agent(agent_id)

    @agent.handler
    async def work(task: TaskContext) -> str:
        return task.text

    return agent


async def test_what_a_removed_instance_works_on_is_done_by_another_one_and_costs_no_attempt(hub: HubProcess) -> None:
    # One attempt is all there is, and there is room for another task.
    slow, prompt = Agent("swapped", capacity=2), _prompt("swapped")
    at_work = asyncio.Event()

    @slow.handler
    async def work(task: TaskContext) -> str:
        at_work.set()
        await asyncio.sleep(60)
        return task.text

    serve = asyncio.create_task(slow.serve(hub.url))
    async with MeshwayClient(hub.url) as client:
        await until(lambda: len(_instances(hub, "swapped")) == 1)
        hub.request("PATCH", "/v1/agents/swapped", {"settings": {"attempts_max": 1}})
        task = await client.tasks.submit("go", agent="swapped")
        await at_work.wait()
        (instance,) = _instances(hub, "swapped")
        async with serving(hub, prompt):
            await until(lambda: len(_instances(hub, "swapped")) == 2)
            assert hub.request("DELETE", f"/v1/agents/swapped/instances/{instance['id']}")[0] == 204
            with pytest.raises(HubError, match=instance["id"]):
                await asyncio.wait_for(serve, 5)
            await asyncio.wait_for(_end_of(client, task.id), 5)


async def test_an_idle_process_hears_at_once_that_its_instance_was_removed_and_the_others_go_on(
    hub: HubProcess,
) -> None:
    one, two = _prompt("halved"), _prompt("halved")
    async with serving(hub, two):
        (kept,) = [each["id"] for each in _instances(hub, "halved")]
        serve = asyncio.create_task(one.serve(hub.url))
        await until(lambda: len(_instances(hub, "halved")) == 2)
        (gone,) = [each["id"] for each in _instances(hub, "halved") if each["id"] != kept]
        assert hub.request("DELETE", f"/v1/agents/halved/instances/{gone}")[0] == 204
        with pytest.raises(HubError, match=gone):
            await asyncio.wait_for(serve, 5)
        async with MeshwayClient(hub.url) as client:
            assert (await client.ask("halved", "still there")).text == "still there"
    assert [each["id"] for each in _instances(hub, "halved")] in ([], [kept])


# --- nobody there ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def absent(hub: HubProcess) -> Site:
    """Known to the hub, and gone."""
    site = Site(hub, f"absent-{next(_numbers)}")
    async with site.working():
        pass
    return site


@pytest.mark.parametrize("dialect", list(DIALECTS))
async def test_work_for_an_agent_that_is_away_waits_over_a_kill_of_the_hub(absent: Site, dialect: str) -> None:
    async with absent.client(dialect) as client:
        task = await sent(client, "count 2", **NOBODY_WAITS)
        assert task.status.state == TaskState.TASK_STATE_SUBMITTED
        assert task.metadata["inboxExpiresAtMs"] > 0
        await asyncio.to_thread(absent.hub.kill)
        await asyncio.to_thread(absent.hub.start)
        assert not absent.executions
        async with absent.working():
            done = await until_state(client, task.id, TaskState.TASK_STATE_COMPLETED)
    assert text_of_task(done) == "0 1 "
    assert absent.executions == ["count 2"]


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_caller_that_waits_for_an_absent_agent_gets_the_task_as_it_is_in_time(
    absent: Site, binding: str
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    headers = V10 | {"meshway-timeout-ms": "300"}
    if binding == "JSONRPC":
        reply = await say(absent.hub, "POST", absent.path, rpc("SendMessage", send_params("count 1")), headers=headers)
        task = reply.json["result"]["task"]
    else:
        reply = await say(absent.hub, "POST", f"{absent.path}/message:send", send_params("count 1"), headers=headers)
        task = reply.json["task"]
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert 0.3 <= loop.time() - began < 3
    # Only the wait was over, not the work.
    async with absent.working(), absent.client("j10") as client:
        await until_state(client, task["id"], TaskState.TASK_STATE_COMPLETED)


async def test_a_caller_that_waits_long_enough_is_answered_when_the_agent_has_come_back(absent: Site) -> None:
    async with MeshwayClient(absent.hub.url) as client, asyncio.TaskGroup() as group:
        asking = group.create_task(client.ask(absent.agent_id, "count 2", timeout_ms=15_000))
        await until(lambda: bool(_tasks(absent)))
        async with absent.working():
            answer = await asking
    assert answer.text == "0 1 "


async def test_receipts_say_who_had_a_task_when_and_what_became_of_it(absent: Site) -> None:
    async with MeshwayClient(absent.hub.url) as client:
        task = await client.tasks.submit("count 2", agent=absent.agent_id)
        assert [receipt.state for receipt in task.receipts] == ["queued"]
        async with absent.working():
            (instance,) = _instances(absent.hub, absent.agent_id)
            await _end_of(client, task.id)
            receipts = await client.tasks.receipts(task.id)
            bad = await client.tasks.submit("count many", agent=absent.agent_id)
            failed = [event async for event in client.tasks.events(bad.id)][-1]
            lost = await client.tasks.receipts(bad.id)
    assert [(each.state, each.attempt) for each in receipts] == [
        ("queued", 0),
        ("claimed", 1),
        ("running", 1),
        ("replied", 1),
    ]
    assert receipts[1].instance == instance["id"]
    moments = [each.at for each in receipts]
    assert moments == sorted(moments)
    assert failed.state == "TASK_STATE_FAILED"
    assert lost[-1].state == "failed"
    assert "many" in (lost[-1].reason or "")


def _tasks(site: Site) -> Sequence[dict]:
    return site.hub.request("GET", f"/v1/tasks?agent={site.agent_id}")[2]["items"]
