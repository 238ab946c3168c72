"""The constants of `scale_model`, each by a small load on a mesh of two hubs: one is asked, the other hears of it."""

import asyncio
import http.client
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from benchmarks.hub import Hub, call_status
from benchmarks.mesh_site import Mesh, Nats, cluster_started, mesh_started, monitored_nats, worker_at
from benchmarks.scale_model import MEASURED, Constants
from benchmarks.wrk import CALL, run_wrk_each

__all__ = ["measure"]

_PREFIX = "sc"
_BEAT = f"{_PREFIX}.bus._mesh.beat"
_POST = {"messages": [{"data": "x" * 1_024}]}
_BEATING_HUBS = 200
_BEATS_S = 1_000
_EXTRA_LISTENERS = 20
_SIGNS_A_MESSAGE, _SIGNS_S = 1_000, 20_000
_AFTERMATH_S = 1.0


class _Meter:
    """What two hubs and the server have used since it was made; idle hubs' part is taken off."""

    def __init__(self, mesh: Mesh, server: Nats, *, idle_cpu: float = 0.0) -> None:
        self._mesh, self._server, self._idle_cpu = mesh, server, idle_cpu
        self._began = time.perf_counter()
        self._hub_s = [hub.server.cpu_s for hub in mesh.hubs]
        self._hub_mb = [hub.server.resident_mb for hub in mesh.hubs]
        self._server_s, self._server_mb = server.server.cpu_s, server.server.resident_mb
        self._in, self._out = server.count("in_msgs"), server.count("out_msgs")
        self._streams = _streams_of(server)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def hub_us(self, number: int) -> float:
        spent_s = self._mesh.hubs[number].server.cpu_s - self._hub_s[number]
        return max(0.0, spent_s - self._idle_cpu * self.elapsed_s) * 1e6

    def hub_bytes(self, number: int) -> float:
        return max(0.0, self._mesh.hubs[number].server.resident_mb - self._hub_mb[number]) * 1e6

    @property
    def server_us(self) -> float:
        return (self._server.server.cpu_s - self._server_s) * 1e6

    @property
    def server_bytes(self) -> float:
        return max(0.0, self._server.server.resident_mb - self._server_mb) * 1e6

    @property
    def received(self) -> int:
        return self._server.count("in_msgs") - self._in

    @property
    def sent(self) -> int:
        return self._server.count("out_msgs") - self._out

    def stored(self, figure: str, *, stream: str = "") -> int:
        """How far a figure of the streams has moved: `last_seq` counts writes, `bytes`, `num_subjects`."""
        after = _streams_of(self._server)
        return sum(
            state.get(figure, 0) - self._streams.get(name, {}).get(figure, 0)
            for name, state in after.items()
            if name.endswith(stream)
        )


def measure(folder: Path, *, quick: bool) -> Constants:
    """Every constant once; `quick` for a look. Raises: RuntimeError, TimeoutError."""
    found: dict[str, float] = {}
    with (
        monitored_nats(folder / "nats") as server,
        mesh_started(folder / "mesh", engine=server.url, hubs=2, prefix=_PREFIX) as mesh,
    ):
        found["hub_mb"] = mesh.hubs[1].server.resident_mb
        found |= _idle(mesh, server, seconds=2 if quick else 20)
        found |= _beats(mesh, server, found["hub_idle_cpu"], seconds=1 if quick else 4)
        found |= _signs(mesh, server, found["hub_idle_cpu"], seconds=1 if quick else 4)
        found |= _entries(mesh, server, found["hub_idle_cpu"], seconds=1 if quick else 4, folder=folder)
        found |= _tasks(mesh, server, found["hub_idle_cpu"], seconds=1 if quick else 5, folder=folder)
        found |= _agents(mesh, server, found["hub_idle_cpu"], count=100 if quick else 2_000)
        found |= _queues(mesh, server, count=50 if quick else 1_000)
    found |= _start(folder / "start", count=500 if quick else 30_000)
    found |= _subjects(folder / "subjects", count=2_000 if quick else 400_000)
    if not quick:
        found |= _replicated(folder / "cluster", seconds=4)
    return _constants(found)


def _constants(found: dict[str, float]) -> Constants:
    return Constants(**{name: found.get(name, cast("float", getattr(MEASURED, name))) for name in Constants.__slots__})


def _idle(mesh: Mesh, server: Nats, *, seconds: float) -> dict[str, float]:
    meter = _Meter(mesh, server)
    time.sleep(seconds)
    return {"hub_idle_cpu": (meter.hub_us(0) + meter.hub_us(1)) / 2 / 1e6 / meter.elapsed_s}


# --- core NATS ---


def _beats(mesh: Mesh, server: Nats, idle_cpu: float, *, seconds: float) -> dict[str, float]:
    """Beats of hubs that are not there; and the same to more listeners, for what a message sent costs a server."""
    figures = []
    for listeners in (0, _EXTRA_LISTENERS):
        meter = _Meter(mesh, server, idle_cpu=idle_cpu)
        beats = asyncio.run(_beat(server.url, seconds, listeners))
        hub_us = (meter.hub_us(0) + meter.hub_us(1)) / 2 / beats
        figures.append((hub_us, meter.server_us / beats, meter.sent / beats))
    (hub_us, few_us, few), (_, many_us, many) = figures
    out_us = max(0.0, (many_us - few_us) / (many - few))
    return {"beat_us": hub_us, "server_out_us": out_us, "server_in_us": max(0.0, few_us - few * out_us)}


async def _beat(url: str, seconds: float, listeners: int) -> int:
    connection = await nats.connect(url)
    heard: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def first(message: Msg) -> None:
        if not heard.done():
            heard.set_result(message)

    async def nothing(message: Msg) -> None:
        del message

    real = await connection.subscribe(_BEAT, cb=first)
    async with asyncio.timeout(10):
        model = await heard
    await real.unsubscribe()
    others = [await connection.subscribe(_BEAT, cb=nothing) for _ in range(listeners)]
    record, sent, began = json.loads(model.data), 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * _BEATS_S:
            told = record | {"id": f"absent-{sent % _BEATING_HUBS}"}
            await connection.publish(_BEAT, json.dumps(told).encode(), headers=model.headers)
            sent += 1
        await asyncio.sleep(0.01)
    await connection.flush()
    await asyncio.sleep(_AFTERMATH_S)
    for each in others:
        await each.unsubscribe()
    await connection.close()
    return sent


def _signs(mesh: Mesh, server: Nats, idle_cpu: float, *, seconds: float) -> dict[str, float]:
    """Signs of life of instances that no hub knows: the least that one takes."""
    meter = _Meter(mesh, server, idle_cpu=idle_cpu)
    signs = asyncio.run(_sign(server.url, seconds))
    return {"sign_us": (meter.hub_us(0) + meter.hub_us(1)) / 2 / signs}


async def _sign(url: str, seconds: float) -> int:
    connection = await nats.connect(url)
    seen = [[f"agent-{number}", f"instance-{number}", 500, 20_000] for number in range(_SIGNS_A_MESSAGE)]
    message, sent, began = json.dumps([1, "absent", seen]).encode(), 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * _SIGNS_S:
            await connection.publish(f"{_PREFIX}.bus._mesh.presence", message)
            sent += _SIGNS_A_MESSAGE
        await asyncio.sleep(0.01)
    await connection.flush()
    await asyncio.sleep(_AFTERMATH_S)
    await connection.close()
    return sent


# --- what is stored ---


def _entries(mesh: Mesh, server: Nats, idle_cpu: float, *, seconds: float, folder: Path) -> dict[str, float]:
    """Messages of a stream at one hub: the other one only hears of them."""
    meter = _Meter(mesh, server, idle_cpu=idle_cpu)
    calls = _loaded(mesh.hubs[0], "/v1/streams/scale", _POST, seconds=seconds, folder=folder)
    written = max(meter.stored("last_seq", stream="_LOG"), 1)
    return {"entry_us": meter.hub_us(1) / written, "server_write_us": meter.server_us / max(calls, written)}


def _tasks(mesh: Mesh, server: Nats, idle_cpu: float, *, seconds: float, folder: Path) -> dict[str, float]:
    """Tasks through an instance at the hub that is asked."""
    alone = Mesh("asked", mesh.hubs[:1])
    with worker_at(alone, folder):
        _loaded(mesh.hubs[0], "/a2a/worker", CALL, seconds=1, folder=folder)
        meter = _Meter(mesh, server, idle_cpu=idle_cpu)
        tasks = _loaded(mesh.hubs[0], "/a2a/worker", CALL, seconds=seconds, folder=folder)
        written = meter.stored("last_seq")
        entries = meter.stored("last_seq", stream="_LOG")
        return {
            "task_us": meter.hub_us(0) / tasks,
            "task_entries": entries / tasks,
            "task_stored": written / tasks,
            "task_in": meter.received / tasks,
            # Without the two feeds.
            "task_out": (meter.sent - 2 * entries) / tasks,
            "task_subjects": meter.stored("num_subjects") / tasks,
            "task_disk_bytes": meter.stored("bytes") / tasks,
        }


def _agents(mesh: Mesh, server: Nats, idle_cpu: float, *, count: int) -> dict[str, float]:
    """Agents that are registered by card at one hub, and known at both."""
    meter = _Meter(mesh, server, idle_cpu=idle_cpu)
    with _session(mesh.hubs[0]) as session:
        for number in range(count):
            session.post("/v1/agents", {"id": f"scale-{number}", "card": _card(number)})
    mesh.wait_for_agent(f"scale-{count - 1}")
    time.sleep(_AFTERMATH_S)
    return {
        "agent_hub_bytes": meter.hub_bytes(1) / count,
        "agent_change_us": meter.hub_us(1) / count,
        "agent_stored_bytes": meter.stored("bytes", stream="_KV") / count,
    }


def _card(number: int) -> dict[str, object]:
    skill = {"id": "answer", "name": "Answer", "description": "Answers questions of one kind.", "tags": ["scale"]}
    return {
        "name": f"Agent {number}",
        "description": "One of many, with a card of the usual length.",
        "version": "1.0.0",
        "supportedInterfaces": [
            {"url": f"https://agent-{number}.example/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        ],
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill],
    }


def _queues(mesh: Mesh, server: Nats, *, count: int) -> dict[str, float]:
    """A message into each of so many queues, then a lease from each."""
    meter = _Meter(mesh, server)
    with _session(mesh.hubs[0]) as session:
        for number in range(count):
            session.post(f"/v1/queues/scale.{number}/messages", {"messages": [{"data": number}]})
        time.sleep(_AFTERMATH_S)
        queue_bytes = meter.hub_bytes(1) / count
        before, consumers = _Meter(mesh, server), server.count("consumers", "jsz")
        for number in range(count):
            session.post(f"/v1/queues/scale.{number}/lease", {"count": 1, "wait_ms": 0})
    made = max(server.count("consumers", "jsz") - consumers, 1)
    return {"queue_hub_bytes": queue_bytes, "consumer_bytes": before.server_bytes / made}


def _start(folder: Path, *, count: int) -> dict[str, float]:
    """A hub starts on a server that has so many agents: copies of one, put there as another hub would have."""

    async def fill(url: str, first: str) -> None:
        connection = await nats.connect(url, pending_size=64 * 1024 * 1024)
        stream = connection.jetstream(timeout=60)
        prefix = f"{_PREFIX}.kv.agents."
        model = bytes((await stream.get_last_msg(f"{_PREFIX.upper()}_KV", prefix + first)).data or b"")
        for start in range(0, count, 256):
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(start + 256, count)):
                    copy = model.replace(first.encode(), f"copy-{number}".encode())
                    group.create_task(_published(stream, f"{prefix}copy-{number}", copy))
        await connection.close()

    # Syncing would take minutes and says nothing about a start.
    with (
        monitored_nats(folder, sync="2m") as server,
        mesh_started(folder / "mesh", engine=server.url, hubs=1, prefix=_PREFIX) as mesh,
    ):
        without_s = mesh.hubs[0].server.cpu_s
        with _session(mesh.hubs[0]) as session:
            session.post("/v1/agents", {"id": "first", "card": _card(0)})
        asyncio.run(fill(server.url, "first"))
        with mesh_started(folder / "mesh", engine=server.url, hubs=1, prefix=_PREFIX, key=mesh.key) as again:
            again.wait_for_agent(f"copy-{count - 1}")
            return {"agent_start_us": max(0.0, again.cpu_s - without_s) / count * 1e6}


def _subjects(folder: Path, *, count: int) -> dict[str, float]:
    """Small messages under a subject each; memory is what the second half of them adds."""
    # Syncing says nothing about memory and would take minutes.
    with monitored_nats(folder, sync="2m") as server:

        async def fill(numbers: range) -> None:
            connection = await nats.connect(server.url, pending_size=64 * 1024 * 1024)
            stream = connection.jetstream(timeout=60)
            await stream.add_stream(name="SCALE", subjects=["scale.>"], max_msgs_per_subject=1)
            for start in range(numbers.start, numbers.stop, 256):
                async with asyncio.TaskGroup() as group:
                    for number in range(start, min(start + 256, numbers.stop)):
                        group.create_task(_published(stream, f"scale.task.worker.{number:036d}", b"x" * 300))
            await connection.close()

        asyncio.run(fill(range(count // 2)))
        before = server.server.resident_mb
        asyncio.run(fill(range(count // 2, count)))
        return {"subject_bytes": max(0.0, server.server.resident_mb - before) * 1e6 / (count - count // 2)}


async def _published(stream: JetStreamContext, subject: str, body: bytes) -> None:
    await stream.publish(subject, body)


def _replicated(folder: Path, *, seconds: float) -> dict[str, float]:
    """A synced write on three servers, of each: its share of processor time."""
    with cluster_started(folder) as nodes:
        engine = ",".join(node.url for node in nodes)
        with mesh_started(folder / "mesh", engine=engine, hubs=1, prefix=_PREFIX) as mesh:
            before = sum(node.server.cpu_s for node in nodes)
            calls = _loaded(mesh.hubs[0], "/v1/queues/scale/messages", _POST, seconds=seconds, folder=folder)
            return {"server_write_us": (sum(node.server.cpu_s for node in nodes) - before) / 3 / calls * 1e6}


# --- how ---


def _loaded(hub: Hub, path: str, body: object, *, seconds: float, folder: Path) -> int:
    """Calls that were answered. Raises: RuntimeError."""
    status, answer = call_status(hub.url, path, body, key=hub.key)
    if status >= 300:
        raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
    (load,) = run_wrk_each([hub.url + path], body, connections=32, seconds=seconds, key=hub.key, folder=folder)
    time.sleep(_AFTERMATH_S)
    if load.failed or not load.requests:
        raise RuntimeError(f"{path}: {load.failed} of {load.requests} failed")
    return load.requests


class _Session:
    """One kept-alive connection to a hub."""

    def __init__(self, hub: Hub) -> None:
        self.connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=60)
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {hub.key}"}

    def post(self, path: str, body: object) -> None:
        """Raises: RuntimeError with the hub's words."""
        self.connection.request("POST", path, body=json.dumps(body), headers=self._headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")


@contextmanager
def _session(hub: Hub) -> Iterator[_Session]:
    session = _Session(hub)
    try:
        yield session
    finally:
        session.connection.close()


def _streams_of(server: Nats) -> dict[str, dict[str, int]]:
    accounts = cast("Sequence[dict[str, object]]", server.figures("jsz?streams=true").get("account_details") or [])
    streams = [each for account in accounts for each in cast("list[dict[str, object]]", account["stream_detail"])]
    return {str(each["name"]): cast("dict[str, int]", each["state"]) for each in streams}
