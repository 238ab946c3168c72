"""What a call costs with one, two and four hubs over one NATS node, beside the embedded store and beside bare nats-py.

Every hub has its own clients, and as many of them in each mesh, so a mesh of four is asked for four times as much at
once. Nothing is pinned to a core: hubs, server, load and agents share the machine, and the figure to look at is the
processor time of the hubs for each call. What idle hubs take (beats, sweeps) is taken off and has a table of its own.
Rounds go around all meshes, so that a slow minute meets them alike; medians are shown.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hub import call_status
from benchmarks.mesh_site import Mesh, Nats, embedded_started, mesh_started, monitored_nats, worker_at
from benchmarks.nginx import agent_configuration, nginx_command
from benchmarks.peers import nats_version
from benchmarks.processes import free_port, missing_tools, started, until
from benchmarks.queue_load import BODY_BYTES
from benchmarks.table import Row
from benchmarks.wrk import CALL, run_wrk_each

__all__ = ["NAME", "Round", "run"]

NAME = "mesh"
_SIZES, _SIZES_QUICK = (1, 2, 4), (1, 2)
_ROUNDS, _SECONDS = 5, 3.0
_CONNECTIONS = 32
_IN_FLIGHT_AGAINST_NATS = 128
_RELAY, _ENQUEUE, _TASK = "unary relay", "durable enqueue of 1 KiB", "durable task through an instance"
_IDLE = "hubs without calls"
_BARE = f"durable enqueue of 1 KiB against nats-py, {_IN_FLIGHT_AGAINST_NATS} in flight, one hub, one node"
_POST = {"messages": [{"data": "x" * BODY_BYTES}]}
_DEARER_MAX, _OF_BARE_MIN = 1.10, 0.5
_ATTEMPTS = 3
# Work that was under way when the load ended belongs to it.
_AFTERMATH_S = 0.5


@dataclass(frozen=True, slots=True)
class Call:
    """What is posted where at each hub, and a check that an answer is one, since wrk looks at statuses only."""

    name: str
    path: str
    body: object
    marker: bytes

    def check(self, mesh: Mesh) -> None:
        """Each hub answers within a few attempts: the first may meet one that has not heard of the agent's instances.

        Raises: RuntimeError.
        """
        for hub in mesh.hubs:
            seen = ""
            for _ in range(_ATTEMPTS):
                try:
                    status, body = call_status(hub.url, self.path, self.body, key=mesh.key)
                except TimeoutError as error:
                    status, body = 0, str(error).encode()
                if status in {200, 202} and self.marker in body:
                    break
                seen = f"{status} {body[:300]!r}"
            else:
                raise RuntimeError(f"{mesh.name} does not answer {self.path}: {seen}")


@dataclass(frozen=True, slots=True)
class Round:
    """One round of load on one mesh; processor time in microseconds a call, without what idle hubs take."""

    calls: int
    per_s: float
    p50_ms: float
    failed: int
    hub_us: float
    nats_us: float


CALLS = (
    Call(_RELAY, "/a2a/message", CALL, b"ROLE_AGENT"),
    Call(_ENQUEUE, "/v1/queues/bench/messages", _POST, b"receipts"),
    Call(_TASK, "/a2a/worker", CALL, b"TASK_STATE_COMPLETED"),
)


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """All tables. `quick` proves that everything runs, in seconds."""
    missing = missing_tools("wrk", "nginx")
    if nats_version() is None:
        missing.append("nats-server is not installed; what needs it is not measured")
    if missing:
        return [{"table": _RELAY, "note": each} for each in missing]
    sizes, rounds, seconds = (_SIZES_QUICK, 1, 1.0) if quick else (_SIZES, _ROUNDS, _SECONDS)
    with tempfile.TemporaryDirectory(prefix="meshway-bench-") as name, _site(Path(name), sizes) as (nats, meshes):
        idle = {mesh.name: _idle_cpu(mesh, seconds=seconds * (1 if quick else 3)) for mesh in meshes}
        rows: list[Row] = []
        for call in CALLS:
            rows += _rows_of(call, nats, meshes, idle=idle, rounds=rounds, seconds=seconds, folder=Path(name))
        rows += [_idle_row(mesh, idle[mesh.name]) for mesh in meshes]
        one = next(mesh for mesh in meshes if mesh.name == _name_of(1))
        rows += _rows_against_nats(nats, one, rounds=rounds, seconds=seconds, folder=Path(name))
    return rows


@contextmanager
def _site(folder: Path, sizes: Sequence[int]) -> Iterator[tuple[Nats, list[Mesh]]]:
    """The server, a hub with its own store, a mesh of each size under its own prefix, and the agent of all."""
    port, agent = free_port(), folder / "agent"
    agent.mkdir()
    with ExitStack() as stack:
        command = nginx_command(agent_configuration(agent, port), agent)
        stack.enter_context(started(command, core=None, log=folder / "agent.log"))
        until(lambda: _answers(f"http://127.0.0.1:{port}"))
        nats = stack.enter_context(monitored_nats(folder / "nats"))
        meshes = [stack.enter_context(embedded_started(folder / "embedded"))]
        for size in sizes:
            place = folder / f"mesh-{size}"
            meshes.append(stack.enter_context(mesh_started(place, engine=nats.url, hubs=size, prefix=f"m{size}")))
        for mesh in meshes:
            mesh.hubs[0].register({"message": f"http://127.0.0.1:{port}/message"})
            mesh.wait_for_agent("message")
        yield nats, meshes


def _answers(url: str) -> bool:
    try:
        return call_status(url, "/message", CALL)[0] == 200
    except OSError:
        return False


def _name_of(size: int) -> str:
    return f"{size} x NATS"


# --- a call at each mesh ---


def _rows_of(
    call: Call,
    nats: Nats,
    meshes: Sequence[Mesh],
    *,
    idle: Mapping[str, float],
    rounds: int,
    seconds: float,
    folder: Path,
) -> list[Row]:
    taken: dict[str, list[Round]] = {mesh.name: [] for mesh in meshes}
    with ExitStack() as stack:
        if call.name == _TASK:
            for mesh in meshes:
                place = folder / f"workers of {mesh.name}"
                place.mkdir()
                stack.enter_context(worker_at(mesh, place))
        for mesh in meshes:
            call.check(mesh)
            _load(call, nats, mesh, idle_cpu=0.0, seconds=1, folder=folder)
        for _ in range(rounds):
            for mesh in meshes:
                taken[mesh.name].append(
                    _load(call, nats, mesh, idle_cpu=idle[mesh.name], seconds=seconds, folder=folder)
                )
    return _compare(call, meshes, taken)


def _load(call: Call, nats: Nats, mesh: Mesh, *, idle_cpu: float, seconds: float, folder: Path) -> Round:
    urls = [hub.url + call.path for hub in mesh.hubs]
    hub_s, nats_s, began = mesh.cpu_s, nats.server.cpu_s, time.perf_counter()
    loads = run_wrk_each(urls, call.body, connections=_CONNECTIONS, seconds=seconds, key=mesh.key, folder=folder)
    time.sleep(_AFTERMATH_S)
    elapsed = time.perf_counter() - began
    calls = max(sum(load.requests for load in loads), 1)
    return Round(
        calls=calls,
        per_s=sum(load.per_s for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        failed=sum(load.failed for load in loads),
        hub_us=max(0.0, mesh.cpu_s - hub_s - idle_cpu * elapsed) / calls * 1e6,
        nats_us=(nats.server.cpu_s - nats_s) / calls * 1e6,
    )


def _compare(call: Call, meshes: Sequence[Mesh], taken: Mapping[str, list[Round]]) -> list[Row]:
    hub_us = {name: statistics.median(each.hub_us for each in rounds) for name, rounds in taken.items()}
    one_us, embedded_us = hub_us[_name_of(1)], hub_us["embedded"]
    rows: list[Row] = []
    for mesh in meshes:
        rounds = taken[mesh.name]
        is_mesh, failed = mesh.name != "embedded", sum(each.failed for each in rounds)
        rows.append(
            {
                "table": f"{call.name}, {_CONNECTIONS} in flight a hub",
                "hubs": mesh.name,
                "calls/s": statistics.median(each.per_s for each in rounds),
                "p50 ms": statistics.median(each.p50_ms for each in rounds),
                "hub cpu us/call": hub_us[mesh.name],
                "spread %": _spread(rounds),
                "x one hub": hub_us[mesh.name] / one_us if is_mesh and one_us else None,
                "x embedded": hub_us[mesh.name] / embedded_us if is_mesh and embedded_us else None,
                "NATS cpu us/call": statistics.median(each.nats_us for each in rounds) if is_mesh else None,
                "aim": f"<= {_DEARER_MAX:.2f} x one hub" if is_mesh and mesh is meshes[-1] else "",
                "remark": f"{failed} FAILED" if failed else "",
            }
        )
    return rows


def _spread(rounds: Sequence[Round]) -> float | None:
    """How far the rounds lie apart, in percent of their median: less than that is noise."""
    costs = [each.hub_us for each in rounds]
    middle = statistics.median(costs)
    return (max(costs) - min(costs)) / middle * 100 if middle and len(costs) > 1 else None


# --- idle ---


def _idle_cpu(mesh: Mesh, *, seconds: float) -> float:
    """Seconds of processor time a second, all its hubs together."""
    before, began = mesh.cpu_s, time.perf_counter()
    time.sleep(seconds)
    return (mesh.cpu_s - before) / (time.perf_counter() - began)


def _idle_row(mesh: Mesh, idle_cpu: float) -> Row:
    return {
        "table": _IDLE,
        "hubs": mesh.name,
        "cpu % of a core, a hub": idle_cpu / len(mesh.hubs) * 100,
        "MB a hub, after the calls above": statistics.mean(hub.server.resident_mb for hub in mesh.hubs),
    }


# --- against nats-py ---


def _rows_against_nats(nats: Nats, mesh: Mesh, *, rounds: int, seconds: float, folder: Path) -> list[Row]:
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "hub on NATS, HTTP by wrk": lambda: _through_hub(mesh, seconds, folder),
        "nats-py, publish and acknowledgement": lambda: _by_nats_py(nats, seconds),
    }
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    medians = {
        name: {figure: statistics.median(each[figure] for each in runs) for figure in runs[0]}
        for name, runs in taken.items()
    }
    bare = medians["nats-py, publish and acknowledgement"]["per_s"]
    return [
        {
            "table": _BARE,
            "way": name,
            "messages/s": figures["per_s"],
            "p50 ms": figures["p50_ms"],
            "p99 ms": figures["p99_ms"],
            "hub or client cpu us": figures["cpu_us"],
            "x nats-py": figures["per_s"] / bare if name.startswith("hub") else None,
            "aim": f">= {_OF_BARE_MIN} x nats-py" if name.startswith("hub") else "",
        }
        for name, figures in medians.items()
    ]


def _through_hub(mesh: Mesh, seconds: float, folder: Path) -> dict[str, float]:
    before = mesh.cpu_s
    (load,) = run_wrk_each(
        [mesh.hubs[0].url + "/v1/queues/bare/messages"],
        _POST,
        connections=_IN_FLIGHT_AGAINST_NATS,
        seconds=seconds,
        key=mesh.key,
        folder=folder,
    )
    if load.failed:
        raise RuntimeError(f"{load.failed} of {load.requests} posts failed")
    cpu_us = (mesh.cpu_s - before) / load.requests * 1e6
    return {"per_s": load.per_s, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, "cpu_us": cpu_us}


def _by_nats_py(nats: Nats, seconds: float) -> dict[str, float]:
    order = [nats.url, str(_IN_FLIGHT_AGAINST_NATS), str(seconds), str(BODY_BYTES)]
    command = [sys.executable, "-m", "benchmarks.nats_publisher", *order]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"nats-py failed: {done.stderr[-1_000:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
