"""Streams: how many events a second pass before they come late, what one costs, and what an idle stream holds.

The agent writes each event by itself and paces a stream's events 20 ms apart, so that none coalesce; streams are added
until the 99th percentile of the delay (agent's write to client's read, one clock) passes 20 ms.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hub import Hub
from benchmarks.nginx import nginx_command, proxy_configuration
from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    CoreLoad,
    Server,
    free_port,
    pinned,
    started,
    until,
)
from benchmarks.table import Row

__all__ = ["Step", "Way", "measure_streams", "run_idle_streams", "run_streams", "stream_agent"]

_TABLE = "streaming: 100 events of ~250 B, 20 ms apart, one write each"
_IDLE_TABLE = "idle streams"
_P99_MS_MAX = 20.0
_CPU_AIM = 4.0
_IDLE_KB_AIM = 40
_LADDER = (10, 25, 50, 75, 100, 150, 200, 300, 400, 500, 600, 800, 1_000)
_PEER = [sys.executable, "-m", "benchmarks.stream_peer"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rung: so many streams at once."""

    streams: int
    events_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int
    is_load_core_full: bool


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    url: str
    server: Server | None
    key: str = ""


def run_streams(hub: Hub, folder: Path, *, quick: bool) -> list[Row]:
    """Direct, nginx and hub, each up its own ladder."""
    rows: list[Row] = []
    with stream_agent(folder) as agent_url, _proxy(agent_url) as (proxy_url, proxy):
        hub.register({"stream": f"{agent_url}/stream"})
        ways = [
            Way("direct", f"{agent_url}/stream", None),
            Way("nginx", f"{proxy_url}/stream", proxy),
            Way("hub", f"{hub.url}/a2a/stream", hub.server, hub.key),
        ]
        nginx_cpu_us = 0.0
        for way in ways:
            best = _climb(way, seconds=1.0 if quick else 4.0, ladder=_LADDER[:1] if quick else _LADDER)
            if way.name == "nginx":
                nginx_cpu_us = best.cpu_us
            rows.append(_stream_row(way.name, best, nginx_cpu_us))
    return rows


def _climb(way: Way, *, seconds: float, ladder: tuple[int, ...]) -> Step:
    """The highest rung whose events still came in time; the first one, if none did."""
    best: Step | None = None
    for streams in ladder:
        step = measure_streams(way, streams, seconds=seconds)
        if best is not None and (step.p99_ms > _P99_MS_MAX or step.failed):
            break
        best = step
        if step.p99_ms > _P99_MS_MAX:
            break
    if best is None:
        raise ValueError("an empty ladder")
    return best


def measure_streams(way: Way, streams: int, *, seconds: float) -> Step:
    """The peer warms up, says `measuring`, measures for so many seconds, and prints what it saw."""
    command = [*_PEER, "read", way.url, str(streams), str(seconds), way.key]
    with subprocess.Popen(pinned(LOAD_CORE, command), stdout=subprocess.PIPE, text=True) as reader:
        if reader.stdout is None or reader.stdout.readline().strip() != "measuring":
            raise RuntimeError(f"{way.name}: the reader did not begin")
        before_s = way.server.cpu_s if way.server else 0.0
        with CoreLoad(LOAD_CORE) as load:
            line = reader.stdout.readline()
        spent_s = (way.server.cpu_s if way.server else 0.0) - before_s
        seen = json.loads(line)
    return Step(
        streams=streams,
        events_per_s=seen["events"] / seen["seconds"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        cpu_us=spent_s / max(seen["events"], 1) * 1e6,
        failed=seen["failed"],
        is_load_core_full=load.is_saturated,
    )


def _stream_row(name: str, best: Step, nginx_cpu_us: float) -> Row:
    remarks = ["load core full"] if best.is_load_core_full else []
    if best.p99_ms > _P99_MS_MAX:
        remarks.append("late even at the fewest streams")
    if best.failed:
        remarks.append(f"{best.failed} streams FAILED")
    return {
        "table": _TABLE,
        "way": name,
        "streams": best.streams,
        "events/s": best.events_per_s,
        "p50 ms": best.p50_ms,
        "p99 ms": best.p99_ms,
        "cpu us/event": best.cpu_us if best.cpu_us else None,
        "x nginx": best.cpu_us / nginx_cpu_us if name == "hub" and nginx_cpu_us else None,
        "aim": f"<= {_CPU_AIM} x nginx" if name == "hub" else "",
        "remark": ", ".join(remarks),
    }


def run_idle_streams(hub: Hub, folder: Path, *, streams: int) -> list[Row]:
    """Open streams that say nothing after their first event, and see what each adds to the hub's memory."""
    with stream_agent(folder) as agent_url:
        hub.register({"idle": f"{agent_url}/idle"})
        before_mb = hub.server.resident_mb
        command = [*_PEER, "hold", f"{hub.url}/a2a/idle", str(streams), "8", hub.key]
        with subprocess.Popen(pinned(LOAD_CORE, command), stdout=subprocess.PIPE, text=True) as holder:
            held = int((holder.stdout.readline() if holder.stdout else "").strip() or 0)
            after_mb = hub.server.resident_mb
    return [
        {
            "table": _IDLE_TABLE,
            "streams": held,
            "hub MB before": before_mb,
            "hub MB with them": after_mb,
            "KB a stream": (after_mb - before_mb) * 1000 / max(held, 1),
            "aim": f"<= {_IDLE_KB_AIM} KB",
            "remark": "" if held == streams else f"only {held} of {streams} opened",
        }
    ]


@contextmanager
def stream_agent(folder: Path) -> Iterator[str]:
    port = free_port()
    with started([*_PEER, "agent", str(port)], core=LOAD_CORE, log=folder / "stream-agent.log"):
        until(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _proxy(agent_url: str) -> Iterator[tuple[str, Server]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="meshway-bench-") as name:
        folder = Path(name)
        configuration = proxy_configuration(folder, port, int(agent_url.rpartition(":")[2]))
        with started(nginx_command(configuration, folder), core=SERVER_CORE, log=folder / "nginx.log") as server:
            until(lambda: _listens(port))
            yield f"http://127.0.0.1:{port}", server


def _listens(port: int) -> bool:
    listening = Path("/proc/net/tcp").read_text()
    return f"0100007F:{port:04X} 00000000:0000 0A" in listening
