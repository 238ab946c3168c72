"""A mesh under load, round by round: all kinds of clients and workers, one fault, and the verdict on it."""

import contextlib
import random
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx

from meshway.client.calls import stream_event
from meshway.protocols.sse import SseParser
from support.crash_children import READER, STREAM
from support.crash_crew import Crew
from support.crash_journal import Entry, Journal, JournalReader
from support.crash_reads import figures, left_in, letters_of, pages, reader_position, stream_items
from support.crash_run import SETTINGS
from support.hub_process import HubProcess
from support.mesh_checker import MeshVerdict, ServedAgain, judge_mesh, served_again
from support.mesh_children import AGENTS, PROBE_QUEUE
from support.mesh_cluster import HUBS, MeshCluster
from support.ports import free_port
from support.queue_checker import QueueRules
from support.task_clients import seen_of

__all__ = ["MeshRound", "MeshRun", "Pace"]

_READY_WITHIN_S = 30.0
# Followers and tasks go on for as long as their programs are patient.
_ENDS_WITHIN_S = 110.0
_WHOLE_WITHIN_S = 60.0
_QUIET_S = 1.5
_TOLD_WITHIN_S = 20.0
_EVENT_BYTES_MAX = 1 << 20


class Pace:
    """How long one round loads the mesh, and how long what is frozen stays so."""

    def __init__(self, *, load_s: float, frozen_s: float) -> None:
        self.load_s = load_s
        self.frozen_s = frozen_s


class MeshRun:
    """What is there in all rounds: the mesh, and two agents, one of which has two instances that connect out."""

    def __init__(self, cluster: MeshCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.crew = Crew(folder)
        self.rounds = 0
        self._instances = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["MeshRun"]:
        try:
            self._start()
            yield self
        finally:
            self.crew.close()

    def start_agent(self) -> None:
        self._instances += 1
        name = f"{AGENTS[1]}-{self._instances}"
        env = {"MESHWAY_URL": ",".join(self._urls_from(self._instances))}
        self.crew.spawn(name, "support.task_children", "pull", AGENTS[1], env=env)

    def kill_agent(self) -> None:
        self.crew.kill(self.crew.names(AGENTS[1])[0])

    def _start(self) -> None:
        port = free_port()
        self.crew.spawn(f"{AGENTS[0]}-1", "support.task_children", "push", str(port))
        for _ in range(2):
            self.start_agent()
        hub = self.cluster.hubs[HUBS[0]]
        self.crew.until(lambda: _listens(port), _READY_WITHIN_S, report=lambda: "the agent does not listen")
        hub.register(AGENTS[0], f"http://127.0.0.1:{port}/")
        self.crew.until(
            lambda: all(_knows_both(each) for each in self.cluster.hubs.values()),
            _READY_WITHIN_S,
            report=lambda: [each.request("GET", "/v1/agents") for each in self.cluster.hubs.values()],
        )

    def _urls_from(self, number: int) -> Sequence[str]:
        urls = self.cluster.urls
        first = number % len(urls)
        return [*urls[first:], *urls[:first]]


class MeshRound:
    """One round in a folder of its own; its channels have names of their own."""

    def __init__(self, run: MeshRun, seed: int, pace: Pace, *, has_bug: bool = False) -> None:
        """`has_bug`: of its clients and workers; the verdict is to find it."""
        run.rounds += 1
        self.run = run
        self.cluster = run.cluster
        self.random = random.Random(seed)
        self.load_s = pace.load_s
        self.frozen_s = pace.frozen_s
        self.folder = run.folder / f"round-{run.rounds}"
        self.folder.mkdir()
        self._space = f"r{run.rounds}."
        self._seed = seed
        self._bug = {"CRASH_BUG": "yes"} if has_bug else {}
        self._crew = Crew(self.folder)
        self._journal = Journal(self.folder / "run.journal")
        self._reader = JournalReader(self.folder)
        self._spawned = 0
        self._struck_ns = 0
        self._survivors: Sequence[str] = ()

    # What faults do

    def struck(self, survivors: Sequence[str]) -> None:
        """Now; the hubs whose service is to go on."""
        self._struck_ns = time.time_ns()
        self._survivors = [self.cluster.hubs[name].url for name in survivors]

    def wait(self, seconds: float) -> None:
        self.run.crew.check()
        self._crew.wait(seconds)

    def until_whole(self) -> None:
        self._crew.until(self.cluster.is_whole, _WHOLE_WITHIN_S, report=lambda: "NATS does not become whole")

    def kill_worker(self) -> None:
        self._crew.kill(self._crew.names("worker")[0])

    def start_worker(self) -> None:
        self._spawn("worker", "support.crash_children", "websocket")

    # The round

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """While the block runs, everybody is at work; afterwards all of it is finished."""
        try:
            self._begin()
            yield
            self._finish()
        finally:
            self._crew.close()

    def verdict(self, *, calls_may_fail: bool) -> MeshVerdict:
        entries = self.entries()
        hub = self._any_hub()
        queues = {self._space + name: QueueRules(**rules) for name, rules in SETTINGS.items()}
        return judge_mesh(
            entries,
            queues,
            downs=[(self._struck_ns // 1_000_000, time.time_ns() // 1_000_000)],
            letters={queue: letters_of(hub, queue) for queue in queues},
            items=stream_items(hub, self._space + STREAM),
            calls_may_fail=calls_may_fail,
        )

    def served_again(self) -> ServedAgain:
        return served_again(self.entries(), since_ns=self._struck_ns, hubs=self._survivors)

    def entries(self) -> list[Entry]:
        return self._reader.entries()

    def _begin(self) -> None:
        hub = self._any_hub()
        for queue, settings in (*SETTINGS.items(), (PROBE_QUEUE, {})):
            status, _, answer = hub.request("PUT", f"/v1/queues/{self._space}{queue}", settings)
            assert status == 201, answer
        path = f"/v1/streams/{self._space}{STREAM}/readers/{READER}"
        status, _, answer = hub.request("PUT", path, {"from": "first"})
        assert status == 201, answer
        for _ in range(2):
            self.start_worker()
        self._spawn("follower", "support.crash_children", "websocket")
        self._spawn("producer", "support.crash_children", "websocket")
        self._spawn("load", "support.mesh_children")
        self._spawn("probe", "support.mesh_children")
        self._crew.until(self._is_under_way, _READY_WITHIN_S, report=lambda: "the load does not begin")
        self.wait(_QUIET_S)

    def _is_under_way(self) -> bool:
        events = {entry.event for entry in self.entries()}
        return {"posted", "appended", "settled", "called", "event", "probed"} <= events

    def _finish(self) -> None:
        """Producers stop, everything is worked off, the others stop."""
        self._journal.write("made_good", since_ns=self._struck_ns)
        self._crew.until(self._serves_everywhere, _READY_WITHIN_S, report=self._last_probes)
        self.wait(_QUIET_S)
        self._crew.end("producer", within_s=_ENDS_WITHIN_S)
        self._crew.end("probe")
        self._crew.end("load", within_s=_ENDS_WITHIN_S)
        hub = self._any_hub()
        queues = [self._space + name for name in SETTINGS]
        self._crew.until(
            lambda: all(left_in(hub, queue) == 0 for queue in queues),
            _ENDS_WITHIN_S,
            report=lambda: {queue: figures(hub, "queues", queue) for queue in queues},
        )
        stream = self._space + STREAM
        last = figures(hub, "streams", stream)["last"]
        self._crew.until(
            lambda: reader_position(hub, stream, READER) == last,
            _ENDS_WITHIN_S,
            report=lambda: (reader_position(hub, stream, READER), last),
        )
        self._crew.end("worker")
        self._crew.end("follower")
        self._look_at_the_end()

    def _serves_everywhere(self) -> bool:
        return all(not error for error in self._last_probes().values())

    def _last_probes(self) -> Mapping[tuple[str, str], str]:
        last = {}
        for entry in self.entries():
            if entry.event == "probed":
                last[entry.facts["hub"], entry.facts["kind"]] = entry.facts["error"]
        return last

    def _look_at_the_end(self) -> None:
        """What the mesh has of every accepted task and of every message of the probes goes to the journal."""
        tasks = {entry.facts["task"]: None for entry in self.entries() if entry.event == "submitted"}
        with httpx.Client(timeout=30) as http:
            for task in tasks:
                hub, content = self._any_hub(), b""
                give_up = time.monotonic() + _TOLD_WITHIN_S
                with http.stream("GET", f"{hub.url}/v1/tasks/{task}/events") as answer:
                    for chunk in answer.iter_bytes():
                        content += chunk
                        # All of them have ended, so that it tells everything at once, and ends.
                        assert time.monotonic() < give_up, f"{hub.url} knows no end of task {task}: {content!r}"
                if answer.status_code == 200:
                    self._journal.write("logged", task=task, events=list(_events_of(content)))
        queue = f"/v1/queues/{self._space}{PROBE_QUEUE}/messages?limit=500"
        found = [each["data"]["probe"] for each in pages(self._any_hub(), queue, "cursor", "next_cursor")]
        self._journal.write("probes_found", names=found)

    def _any_hub(self) -> HubProcess:
        return self.cluster.hubs[self.random.choice(HUBS)]

    def _spawn(self, kind: str, module: str, *more: str) -> None:
        self._spawned += 1
        name = f"{kind}-{self._spawned}"
        urls = ",".join(self.run._urls_from(self._spawned))
        arguments = (kind, urls, f"{self._seed}-{self._spawned}", str(self.folder / f"{name}.journal"), *more)
        self._crew.spawn(name, module, *arguments, env={"CRASH_SPACE": self._space, "CRASH_PAUSE": "3", **self._bug})


def _events_of(body: bytes) -> Iterator[Mapping[str, object]]:
    for frame in SseParser(event_bytes_max=_EVENT_BYTES_MAX).feed(body):
        yield asdict(seen_of(stream_event(frame.data, event_id=frame.id)))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _knows_both(hub: HubProcess) -> bool:
    """Agents, and both instances of the one that connects out."""
    found = [hub.request("GET", f"/v1/agents/{agent}") for agent in AGENTS]
    return all(status == 200 for status, _, _ in found) and len(found[1][2]["instances"]) == 2
