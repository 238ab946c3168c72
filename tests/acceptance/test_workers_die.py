"""Instances of an agent that connects out die, freeze, lose their connection, leave: the work goes on, said once."""

import asyncio
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from meshway.client import MeshwayClient
from meshway.client.task_values import TaskReceipt
from support.crash_journal import read_journals
from support.hub_process import HubProcess, running_hub
from support.link_client import link_client
from support.polling_instance import PollingInstance, status
from support.raw_agent import RawRequest, Wire, raw_agent, registered_agent
from support.task_children import child_agent, text_of
from support.task_clients import FollowedTask, followed, until
from support.task_judge import faults_of
from support.tcp_proxy import tcp_proxy
from support.wire_client import V10, rpc, say, send_params

# Short: a lost instance is missed within a second and a half, and two attempts are all there are.
QUICK = "[tasks]\nlease_ms = 1500\nreconnect_grace_ms = 500\nattempts_max = 2\n"

_numbers = itertools.count(1)


class Worker:
    """One instance, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def is_meant_by(self, instance: str | None) -> bool:
        return instance is not None and f"-{self.process.pid}-" in instance

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Crew:
    """The instances of one agent, whose handlers keep journals in a folder."""

    def __init__(self, hub: HubProcess, folder: Path) -> None:
        self.hub = hub
        self.agent = f"crew-{next(_numbers)}"
        self._folder = folder

    @contextmanager
    def worker(self, url: str | None = None) -> Iterator[Worker]:
        journal = self._folder / f"{next(_numbers)}.journal"
        environ = {"MESHWAY_URL": url or self.hub.url, "TASK_JOURNAL": str(journal)}
        with child_agent("pull", self.agent, environ=environ) as process:
            yield Worker(process)

    def online(self) -> int:
        status, _, agent = self.hub.request("GET", f"/v1/agents/{self.agent}")
        assert isinstance(agent, dict)
        return 0 if status != 200 else sum(each["state"] == "online" for each in agent["instances"])

    def journal(self, event: str) -> list[int]:
        """The attempts at which handlers wrote that."""
        return [entry.facts["attempt"] for entry in read_journals(self._folder) if entry.event == event]

    def said(self, event: str) -> bool:
        """Whether an instance has logged that."""
        return any(entry.event == event for entry in read_journals(self._folder))

    def events(self, task_id: str) -> list[bytes]:
        """As the hub keeps them; of a task that has ended."""
        _, _, content = self.hub.request("GET", f"/v1/tasks/{task_id}/events")
        assert isinstance(content, bytes)
        return [line for line in content.splitlines() if line.startswith((b"id:", b"data:"))]


@pytest.fixture(scope="module")
def quick_hub() -> Iterator[HubProcess]:
    with running_hub(config=QUICK) as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


@pytest.fixture(scope="module")
def usual_hub() -> Iterator[HubProcess]:
    """With a lease of 30 s and a grace of 5 s: what happens before them did not wait for them."""
    with running_hub() as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


@pytest.fixture
def quick(quick_hub: HubProcess, tmp_path: Path) -> Crew:
    return Crew(quick_hub, tmp_path)


@pytest.fixture
def usual(usual_hub: HubProcess, tmp_path: Path) -> Crew:
    return Crew(usual_hub, tmp_path)


def claims(receipts: list[TaskReceipt]) -> list[tuple[int, str | None]]:
    return [(each.attempt, each.instance) for each in receipts if each.state == "claimed"]


async def assert_done_by_the_second(client: MeshwayClient, task: FollowedTask, first: Worker, second: Worker) -> None:
    """One numbered sequence with both attempts in it, and the receipts say the same."""
    assert faults_of(task.events, expected_text=text_of(8, attempt=2)) == []
    assert task.attempts == [1, 2]
    announced = next(place for place, event in enumerate(task.events) if event.attempt == 2)
    chunks = [event for event in task.events[announced:] if event.kind == "artifact"]
    assert [chunk.append for chunk in chunks] == [False] + [True] * (len(chunks) - 1)
    receipts = await client.tasks.receipts(task.task_id)
    (one, by_first), (two, by_second) = claims(receipts)
    assert (one, two) == (1, 2)
    assert first.is_meant_by(by_first)
    assert second.is_meant_by(by_second)
    assert receipts[0].state == "queued"
    assert (receipts[-1].state, receipts[-1].attempt) == ("replied", 2)


async def holder_first(client: MeshwayClient, task: FollowedTask, *workers: Worker) -> list[Worker]:
    """Who works on the task, then the others."""
    ((_, instance),) = claims(await client.tasks.receipts(task.task_id))
    return sorted(workers, key=lambda worker: not worker.is_meant_by(instance))


async def test_the_task_of_a_killed_instance_is_done_by_another_one(quick: Crew):
    async with MeshwayClient(quick.hub.url) as client:
        with quick.worker() as one, quick.worker() as other:
            await until(lambda: quick.online() == 2)
            async with followed(client.stream(quick.agent, "8 0.2 signed")) as task:
                await task.until_chunks(3)
                first, second = await holder_first(client, task, one, other)
                first.send(signal.SIGKILL)
            await assert_done_by_the_second(client, task, first, second)


async def test_an_instance_whose_connection_is_half_open_loses_its_task_at_the_end_of_the_lease(quick: Crew):
    port = quick.hub.port
    async with MeshwayClient(quick.hub.url) as client, tcp_proxy(port) as one_wire, tcp_proxy(port) as other_wire:
        with quick.worker(one_wire.url) as one, quick.worker(other_wire.url) as other:
            await until(lambda: quick.online() == 2)
            async with followed(client.stream(quick.agent, "8 0.2 signed")) as task:
                await task.until_chunks(3)
                first, second = await holder_first(client, task, one, other)
                wire = one_wire if first is one else other_wire
                wire.freeze()
            events = quick.events(task.task_id)
            await assert_done_by_the_second(client, task, first, second)
            # What the first one says of it now comes too late, and it hears so.
            wire.thaw()
            await until(lambda: len(quick.journal("ended") + quick.journal("cut off")) == 2)
            assert quick.events(task.task_id) == events


async def test_what_a_frozen_instance_says_after_its_lease_is_stale(quick: Crew):
    async with MeshwayClient(quick.hub.url) as client:
        with quick.worker() as one, quick.worker() as other:
            await until(lambda: quick.online() == 2)
            async with followed(client.stream(quick.agent, "8 0.2 signed")) as task:
                await task.until_chunks(3)
                first, second = await holder_first(client, task, one, other)
                first.send(signal.SIGSTOP)
            events = quick.events(task.task_id)
            await assert_done_by_the_second(client, task, first, second)
            first.send(signal.SIGCONT)
            await until(lambda: len(quick.journal("ended") + quick.journal("cut off")) == 2)
            # It is alive and well, and takes what comes next.
            second.send(signal.SIGKILL)
            assert (await client.ask(quick.agent, "2 0")).text == text_of(2)
            assert quick.events(task.task_id) == events


async def test_a_result_that_comes_after_the_lease_is_refused_and_the_other_one_stands(quick: Crew):
    async with MeshwayClient(quick.hub.url) as client, httpx.AsyncClient(base_url=quick.hub.url) as http:
        # It takes a task, and says nothing for the length of a lease.
        slow = PollingInstance(http, quick.agent)
        await slow.join()
        submitted = await client.tasks.submit("2 0 signed", agent=quick.agent)
        delivery = await slow.take()
        with quick.worker():
            async with followed(client.tasks.events(submitted.id)) as task:
                pass
        late = await slow.report(delivery, status(delivery, "COMPLETED"))
        assert [each["outcome"] for each in late["outcomes"]] == ["stale"]
        assert faults_of(task.events, expected_text=text_of(2, attempt=2)) == []


async def test_a_frozen_instance_is_not_given_its_own_lost_task_again(quick: Crew):
    async with MeshwayClient(quick.hub.url) as client, httpx.AsyncClient(base_url=quick.hub.url, timeout=10) as http:
        with quick.worker() as frozen:
            await until(lambda: quick.online() == 1)
            async with followed(client.stream(quick.agent, "8 0.2 signed")) as task:
                await task.until_chunks(3)
                frozen.send(signal.SIGSTOP)
                # It has room for more, and has waited for it for longer than this one.
                other = PollingInstance(http, quick.agent)
                await other.join()
                delivery = await other.take()
                await other.report(delivery, status(delivery, "COMPLETED"))
            # One that was not handed out may lie between.
            assert len(task.attempts) == 2
            assert task.events[-1].state == "TASK_STATE_COMPLETED"
            # Once it is heard it gets work again.
            frozen.send(signal.SIGCONT)
            assert (await client.ask(quick.agent, "2 0")).text == text_of(2)


async def test_an_instance_that_is_back_within_the_grace_goes_on_with_what_it_holds(usual: Crew):
    async with MeshwayClient(usual.hub.url) as client, tcp_proxy(usual.hub.port) as wire:
        with usual.worker(wire.url) as worker, usual.worker(wire.url) as other:
            await until(lambda: usual.online() == 2)
            async with followed(client.stream(usual.agent, "10 0.3 signed")) as task:
                await task.until_chunks(2)
                wire.cut()
            assert faults_of(task.events, expected_text=text_of(10, attempt=1)) == []
            assert len(claims(await client.tasks.receipts(task.task_id))) == 1
            assert worker.process.poll() is None
            assert other.process.poll() is None
        assert usual.journal("began") == usual.journal("ended") == [1]


async def test_an_instance_that_says_farewell_frees_its_work_at_once(usual: Crew):
    async with MeshwayClient(usual.hub.url) as client:
        with usual.worker() as one, usual.worker() as other:
            await until(lambda: usual.online() == 2)
            async with followed(client.stream(usual.agent, "8 0.4 signed")) as task:
                await task.until_chunks(2)
                first, second = await holder_first(client, task, one, other)
                # The first one lets handlers finish, the second one does not.
                first.send(signal.SIGTERM)
                await until(lambda: usual.said("agent_draining"))
                first.send(signal.SIGTERM)
                # Long before the grace and the lease are over.
                await until(lambda: task.attempts == [1, 2], within_s=3)
                await asyncio.to_thread(first.process.wait, 10)
            await assert_done_by_the_second(client, task, first, second)


async def test_what_an_instance_holds_when_it_says_bye_is_due_again_at_once_and_costs_no_attempt(usual: Crew):
    card = {"name": "Leaver", "description": "", "version": "1", "skills": []}
    # More than the attempts there are.
    names = [f"one-{number}" for number in range(7)]
    async with MeshwayClient(usual.hub.url) as client:
        task = None
        for name in names:
            async with link_client(usual.hub.port) as instance:
                await instance.send("serve", id="s", agent="leaver", card=card, instance=name, credit=1)
                await instance.expect("served")
                task = task or await client.tasks.submit("hi", agent="leaver")
                # At the next one long before the grace and the lease are over.
                (handed,) = (await asyncio.wait_for(instance.expect("tasks"), 3))["tasks"]
                assert handed["task_id"] == task.id
                # Without a word about the task.
                await instance.send("bye", id="s")
                await instance.expect("unsubscribed")
        assert task is not None
        receipts = await client.tasks.receipts(task.id)
    assert [instance for _, instance in claims(receipts)] == names
    assert receipts[-1].state != "failed"


async def test_sigterm_finishes_what_runs_and_leaves_the_rest_to_others(usual: Crew):
    async with MeshwayClient(usual.hub.url) as client:
        with usual.worker() as first:
            await until(lambda: usual.online() == 1)
            async with followed(client.stream(usual.agent, "8 0.3 signed")) as task:
                await task.until_chunks(2)
                first.send(signal.SIGTERM)
                await until(lambda: usual.said("agent_draining"))
                late = await client.tasks.submit("1 0", agent=usual.agent)
            assert await asyncio.to_thread(first.process.wait, 20) == 0
            assert faults_of(task.events, expected_text=text_of(8, attempt=1)) == []
            assert usual.journal("began") == [1]
        with usual.worker() as second:
            async with followed(client.tasks.events(late.id)) as task:
                pass
            assert second.is_meant_by(claims(await client.tasks.receipts(late.id))[-1][1])
        assert faults_of(task.events, expected_text=text_of(1)) == []


@pytest.mark.parametrize("end", [HubProcess.kill, HubProcess.stop])
async def test_an_instance_goes_on_when_the_hub_is_back_and_repeats_no_work(tmp_path: Path, end):
    with running_hub() as hub:
        took_s = await _goes_on_after(lambda: end(hub), Crew(hub, tmp_path))
        # Streams of what instances took along hold up nobody; the drain might have taken 20 s.
        assert took_s < 5


async def test_a_long_drain_frees_nothing_that_an_instance_took_along(tmp_path: Path):
    async def never_answer(_: RawRequest, wire: Wire) -> None:
        await wire.closed.wait()

    # Beyond the grace of 5 s.
    with running_hub(config="[http]\ndrain_timeout_ms = 7000\n") as hub:
        async with registered_agent(hub, raw_agent(never_answer)) as slow, asyncio.TaskGroup() as group:
            body = rpc("SendMessage", send_params("hi"))
            asking = group.create_task(say(hub, "POST", f"/a2a/{slow.id}", body, headers=V10))
            await slow.wait_seen()
            took_s = await _goes_on_after(hub.stop, Crew(hub, tmp_path))
            await asyncio.wait([asking])
        assert took_s > 6


async def _goes_on_after(end: Callable[[], object], crew: Crew) -> float:
    """An instance works on while the hub ends and starts again. How long the end took, in seconds."""
    loop = asyncio.get_running_loop()
    async with MeshwayClient(crew.hub.url) as client:
        with crew.worker() as worker:
            await until(lambda: crew.online() == 1)
            async with followed(client.stream(crew.agent, "12 0.3 signed")) as task:
                await task.until_chunks(3)
                began_s = loop.time()
                await asyncio.to_thread(end)
                took_s = loop.time() - began_s
                # Its handler works on without a hub.
                await asyncio.to_thread(crew.hub.start)
            assert faults_of(task.events, expected_text=text_of(12, attempt=1)) == []
            ((attempt, instance),) = claims(await client.tasks.receipts(task.task_id))
            assert attempt == 1
            assert worker.is_meant_by(instance)
    assert crew.journal("began") == crew.journal("ended") == [1]
    return took_s


async def test_a_task_whose_attempts_are_used_up_is_a_dead_letter_and_another_task_when_redriven(quick: Crew):
    async with MeshwayClient(quick.hub.url) as client:
        with quick.worker() as one, quick.worker() as two, quick.worker() as three:
            await until(lambda: quick.online() == 3)
            async with followed(client.stream(quick.agent, "8 0.4 signed")) as task:
                for attempt in (1, 2):
                    await until(lambda attempt=attempt: len(quick.journal("began")) == attempt)
                    _, instance = claims(await client.tasks.receipts(task.task_id))[-1]
                    next(each for each in (one, two, three) if each.is_meant_by(instance)).send(signal.SIGKILL)
        numbers = [event.number for event in task.events]
        assert numbers == list(range(1, len(numbers) + 1))
        assert task.attempts == [1, 2]
        receipts = await client.tasks.receipts(task.task_id)
        assert (receipts[-1].state, receipts[-1].attempt) == ("failed", 2)
        (letter,) = (await client.tasks.dead_letters(quick.agent)).items
        assert letter.task_id == task.task_id
        assert [each.attempt for each in letter.attempts] == [1, 2]
        with quick.worker():
            (again,) = await client.tasks.redrive(quick.agent, ids=[letter.id])
            async with followed(client.tasks.events(again)) as redriven:
                pass
        assert again != task.task_id
        assert faults_of(redriven.events, expected_text=text_of(8, attempt=1)) == []
        assert (await client.tasks.get(again)).metadata["redriveOf"] == task.task_id
        assert (await client.tasks.get(task.task_id)).status.state == "TASK_STATE_FAILED"
        assert not (await client.tasks.dead_letters(quick.agent)).items
