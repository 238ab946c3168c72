"""What a call costs with one, two and four hubs over one NATS node, beside the embedded store and beside bare nats-py.

Nothing is pinned to a core: hubs, server, load and agents share the machine, and the figure to look at is the processor
time of all hubs of a mesh for each call. It is taken while one of them is asked, each in turn, and instances wait at
all: four busy hubs on two cores would only show what too few cores cost. Rates are those of all hubs asked at once.
What idle hubs take (beats, sweeps) is taken off and has a table of its own. Rounds go around all meshes, so that a slow
minute meets them alike; medians are shown.
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

from benchmarks.hub import Hub, call_status
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
_ROUNDS, _SECONDS = 4, 3.0
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
    """One round of load on one mesh; times and messages a call, without what idle hubs take."""

    per_s: float
    p50_ms: float
    failed: int
    hub_us: float
    # The part of it at hubs that were not asked.
    others_us: float
    nats_us: float
    nats_in: float
    nats_out: float


@dataclass(frozen=True, slots=True)
class _Spent:
    """What the NATS server has done."""

    cpu_s: float
    received: float
    sent: float

    @classmethod
    def so_far(cls, nats: Nats) -> "_Spent":
        figures = nats.figures()
        return cls(nats.server.cpu_s, float(str(figures["in_msgs"])), float(str(figures["out_msgs"])))

    def since(self, before: "_Spent") -> "_Spent":
        return _Spent(self.cpu_s - before.cpu_s, self.received - before.received, self.sent - before.sent)

    def without(self, idle_a_second: "_Spent", seconds: float) -> "_Spent":
        return self.since(
            _Spent(idle_a_second.cpu_s * seconds, idle_a_second.received * seconds, idle_a_second.sent * seconds)
        )


@dataclass(frozen=True, slots=True)
class Site:
    """The server, and what it and each mesh take without calls, a second."""

    nats: Nats
    idle_nats: _Spent
    idle_cpu: Mapping[str, float]


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
        site = _idle(nats, meshes, seconds=1 if quick else 20)
        rows: list[Row] = []
        for call in CALLS:
            rows += _rows_of(call, site, meshes, rounds=rounds, seconds=seconds, folder=Path(name))
        rows += [_idle_row(mesh, site.idle_cpu[mesh.name]) for mesh in meshes]
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


def _rows_of(call: Call, site: Site, meshes: Sequence[Mesh], *, rounds: int, seconds: float, folder: Path) -> list[Row]:
    together: dict[str, list[Round]] = {mesh.name: [] for mesh in meshes}
    in_turn: dict[str, list[Round]] = {mesh.name: [] for mesh in meshes}
    with ExitStack() as stack:
        if call.name == _TASK:
            for mesh in meshes:
                place = folder / f"workers of {mesh.name}"
                place.mkdir()
                stack.enter_context(worker_at(mesh, place))
        for mesh in meshes:
            call.check(mesh)
            _load(call, site, mesh, mesh.hubs, seconds=1, folder=folder)
        for number in range(rounds):
            for mesh in meshes:
                asked = [mesh.hubs[number % len(mesh.hubs)]]
                in_turn[mesh.name].append(_load(call, site, mesh, asked, seconds=seconds, folder=folder))
                if len(mesh.hubs) == 1:
                    together[mesh.name].append(in_turn[mesh.name][-1])
                else:
                    together[mesh.name].append(_load(call, site, mesh, mesh.hubs, seconds=seconds, folder=folder))
    return _compare(call, meshes, in_turn=in_turn, together=together)


def _load(call: Call, site: Site, mesh: Mesh, asked: Sequence[Hub], *, seconds: float, folder: Path) -> Round:
    """One wrk at each hub that is asked; the processor time of all hubs of the mesh."""
    spent, others_s, began = _Spent.so_far(site.nats), mesh.cpu_s - _cpu_s(asked), time.perf_counter()
    asked_s = _cpu_s(asked)
    urls = [hub.url + call.path for hub in asked]
    loads = run_wrk_each(urls, call.body, connections=_CONNECTIONS, seconds=seconds, key=mesh.key, folder=folder)
    time.sleep(_AFTERMATH_S)
    elapsed = time.perf_counter() - began
    calls = max(sum(load.requests for load in loads), 1)
    idle_s = site.idle_cpu.get(mesh.name, 0.0) / len(mesh.hubs) * elapsed
    others_us = max(0.0, mesh.cpu_s - _cpu_s(asked) - others_s - idle_s * (len(mesh.hubs) - len(asked))) / calls * 1e6
    asked_us = max(0.0, _cpu_s(asked) - asked_s - idle_s * len(asked)) / calls * 1e6
    nats = _Spent.so_far(site.nats).since(spent).without(site.idle_nats, elapsed)
    return Round(
        per_s=sum(load.per_s for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        failed=sum(load.failed for load in loads),
        hub_us=asked_us + others_us,
        others_us=others_us,
        nats_us=nats.cpu_s / calls * 1e6,
        nats_in=nats.received / calls,
        nats_out=nats.sent / calls,
    )


def _cpu_s(hubs: Sequence[Hub]) -> float:
    return sum(hub.server.cpu_s for hub in hubs)


def _compare(
    call: Call, meshes: Sequence[Mesh], *, in_turn: Mapping[str, list[Round]], together: Mapping[str, list[Round]]
) -> list[Row]:
    hub_us = _median_us(in_turn)
    all_us = _median_us(together)
    one_us, embedded_us, one_all_us = hub_us[_name_of(1)], hub_us["embedded"], all_us[_name_of(1)]
    rows: list[Row] = []
    for mesh in meshes:
        rounds, all_asked = in_turn[mesh.name], together[mesh.name]
        is_mesh = mesh.name != "embedded"
        failed = sum(each.failed for each in (*rounds, *all_asked))
        rows.append(
            {
                "table": f"{call.name}, {_CONNECTIONS} in flight at each hub that is asked",
                "hubs": mesh.name,
                "calls/s, all asked": statistics.median(each.per_s for each in all_asked),
                "p50 ms": statistics.median(each.p50_ms for each in all_asked),
                "hub cpu us/call, one asked": hub_us[mesh.name],
                "spread %": _spread(rounds),
                "at the others": statistics.median(each.others_us for each in rounds) if len(mesh.hubs) > 1 else None,
                "x one hub": hub_us[mesh.name] / one_us if is_mesh and one_us else None,
                "hub cpu us/call, all asked": all_us[mesh.name],
                "x one hub, all asked": all_us[mesh.name] / one_all_us if is_mesh and one_all_us else None,
                "x embedded": hub_us[mesh.name] / embedded_us if is_mesh and embedded_us else None,
                "NATS cpu us": statistics.median(each.nats_us for each in rounds) if is_mesh else None,
                "NATS in": statistics.median(each.nats_in for each in rounds) if is_mesh else None,
                "NATS out": statistics.median(each.nats_out for each in rounds) if is_mesh else None,
                "aim": f"<= {_DEARER_MAX:.2f} x one hub" if is_mesh and mesh is meshes[-1] else "",
                "remark": f"{failed} FAILED" if failed else "",
            }
        )
    return rows


def _median_us(rounds: Mapping[str, list[Round]]) -> dict[str, float]:
    return {name: statistics.median(each.hub_us for each in of_mesh) for name, of_mesh in rounds.items()}


def _spread(rounds: Sequence[Round]) -> float | None:
    """How far the rounds lie apart, in percent of their median: less than that is noise."""
    costs = [each.hub_us for each in rounds]
    middle = statistics.median(costs)
    return (max(costs) - min(costs)) / middle * 100 if middle and len(costs) > 1 else None


# --- idle ---


def _idle(nats: Nats, meshes: Sequence[Mesh], *, seconds: float) -> Site:
    """Everybody at once, and nobody is asked anything."""
    cpu_s, spent, began = {mesh.name: mesh.cpu_s for mesh in meshes}, _Spent.so_far(nats), time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    taken = _Spent.so_far(nats).since(spent)
    return Site(
        nats,
        _Spent(taken.cpu_s / elapsed, taken.received / elapsed, taken.sent / elapsed),
        {mesh.name: (mesh.cpu_s - cpu_s[mesh.name]) / elapsed for mesh in meshes},
    )


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
