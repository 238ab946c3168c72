"""Messages of 1 KiB through the hub process beside Redis and NATS: durable posts, cycles, fan-out, round trips.

Everybody syncs before answering: the hub as it comes, Redis with `appendfsync always`, NATS with `sync_interval:
always`. Servers run on one core and clients on the other; each scenario begins on a fresh server. The rows of wrk show
the hub's HTTP API without the cost of a Python client; the other rows have each broker's own Python client.
"""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.hub import Hub, hub_started
from benchmarks.peers import nats_started, nats_version, redis_started, redis_version
from benchmarks.processes import LOAD_CORE, CoreLoad, Server, missing_tools, pinned
from benchmarks.queue_load import BODY_BYTES
from benchmarks.table import Row
from benchmarks.wrk import run_wrk_post

__all__ = ["NAME", "Bench", "run"]

NAME = "queues"
_IN_FLIGHT = 128
_SECONDS, _SECONDS_QUICK = 4.0, 1.0
_DEPTHS, _DEPTHS_QUICK = (1_000, 100_000, 1_000_000), (1_000, 5_000)
_MANY, _MANY_QUICK = 10_000, 200
# Messages that each depth is measured with.
_SAMPLE = 5_000
_POST = {"messages": [{"data": "x" * BODY_BYTES}]}
Figures = dict[str, float]


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """One row per measurement; `quick` for a look, not for a claim."""
    if missing := missing_tools("wrk", "taskset"):
        return [{"table": "queues", "note": note} for note in missing]
    folder = Path(tempfile.mkdtemp(prefix="meshway-bench-"))
    try:
        return [*_rows(Bench(folder, _SECONDS_QUICK if quick else _SECONDS)), *_at_scale(folder, quick)]
    finally:
        shutil.rmtree(folder)


class Bench:
    """Starts a fresh broker for each scenario and runs the load beside it."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self._folder = folder
        self._runs = 0
        self.peers = [name for name, version in (("redis", redis_version()), ("nats", nats_version())) if version]

    def measure(self, target: str, scenario: str, **options: float) -> Figures:
        """What the load process saw, and the CPU the server took for each message. Raises: RuntimeError."""
        with self._broker(target) as (server, url):
            order = {"target": target, "url": url, "scenario": scenario, "seconds": self.seconds, **options}
            before = server.cpu_s
            with CoreLoad(LOAD_CORE) as load:
                done = subprocess.run(
                    pinned(LOAD_CORE, [sys.executable, "-m", "benchmarks.queue_load", json.dumps(order)]),
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{target} {scenario} failed: {done.stderr[-1_000:]}")
            figures: Figures = json.loads(done.stdout)
            return figures | {"server_cpu_s": server.cpu_s - before, "is_full": load.is_saturated}

    def wrk(self, path: str) -> Figures:
        """One message a post, 128 connections."""
        with self._hub() as hub:
            before = hub.server.cpu_s
            load = run_wrk_post(
                hub.url + path, _POST, connections=_IN_FLIGHT, seconds=self.seconds, key=hub.key, folder=self._folder
            )
            if load.failed:
                raise RuntimeError(f"{load.failed} posts to {path} failed")
            cpu_us = (hub.server.cpu_s - before) / load.requests * 1e6
            return {"per_s": load.per_s, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, "cpu_us": cpu_us}

    @contextmanager
    def _broker(self, target: str) -> Iterator[tuple[Server, str]]:
        self._runs += 1
        folder = self._folder / f"{target}-{self._runs}"
        if target == "redis":
            with redis_started(folder) as (server, port):
                yield server, f"redis://127.0.0.1:{port}"
        elif target == "nats":
            with nats_started(folder) as (server, port):
                yield server, f"nats://127.0.0.1:{port}"
        else:
            with hub_started(folder) as hub:
                yield hub.server, f"{hub.url}#{hub.key}"

    @contextmanager
    def _hub(self) -> Iterator[Hub]:
        self._runs += 1
        with hub_started(self._folder / f"wrk-{self._runs}") as hub:
            yield hub


def _rows(bench: Bench) -> Iterator[Row]:
    for peer, version in (("redis-server", redis_version()), ("nats-server", nats_version())):
        yield {"table": "brokers", "note": f"{peer} {version or 'is not installed: its rows are missing'}"}
    everybody = ["hub", *bench.peers]
    posts = {"durable enqueue": ("enqueue", "/v1/queues/bench/messages"), "append": ("append", "/v1/streams/bench")}
    for title, (scenario, path) in posts.items():
        table = f"{title}: one message a call, {_IN_FLIGHT} in flight"
        yield _rate(table, "hub, HTTP by wrk", bench.wrk(path))
        for target in everybody:
            figures = bench.measure(target, scenario, in_flight=_IN_FLIGHT)
            yield _rate(table, _client_of(target), figures)
    for target in everybody:
        figures = bench.measure(target, "cycle", in_flight=_IN_FLIGHT)
        yield _rate(
            "enqueue to ack, end to end: 128 producers, one worker, batches of 256", _client_of(target), figures
        )
    for target in everybody:
        yield _rate(
            "enqueue to worker, idle, one at a time", _client_of(target), bench.measure(target, "latency", messages=100)
        )
    fan_out = {"tail_fan_out": "tail fan-out: 100 readers", "events_fan_out": "events fan-out: 100 subscribers"}
    for scenario, table in fan_out.items():
        for target in everybody:
            figures = bench.measure(target, scenario, subscribers=100, messages=int(100 * bench.seconds))
            yield {**_rate(table, _client_of(target), figures), "missed": int(figures["missed"])}
    for in_flight in (1, 64):
        for target in everybody:
            if target != "redis":
                figures = bench.measure(target, "commands", in_flight=in_flight)
                yield _rate("command round trip", f"{_client_of(target)}, {in_flight} in flight", figures)


def _rate(table: str, way: str, figures: Figures) -> Row:
    row: Row = {"table": table, "way": way}
    if "per_s" in figures:
        row["messages/s"] = figures["per_s"]
    row |= {"p50 ms": figures.get("p50_ms"), "p99 ms": figures.get("p99_ms")}
    if "cpu_us" in figures:
        row["server us a message"] = figures["cpu_us"]
    row["remark"] = "the load core was full" if figures.get("is_full") else ""
    return row


def _client_of(target: str) -> str:
    return {"hub": "hub, our SDK", "redis": "Redis, redis-py", "nats": "NATS, nats-py"}[target]


# --- scale ---


def _at_scale(folder: Path, quick: bool) -> Iterator[Row]:  # noqa: FBT001
    depths = _DEPTHS_QUICK if quick else _DEPTHS
    with hub_started(folder / "depth") as hub:
        waiting = 0
        for depth in depths:
            _fill(hub, depth - waiting)
            waiting = depth
            enqueue_s, posts = _timed(lambda: _fill(hub, _SAMPLE))
            cycle_s, taken = _timed(lambda: _take(hub, _SAMPLE))
            waiting += posts - taken
            yield {
                "table": "cost per message by messages waiting (posts of 1,000, leases and settlements of 256, HTTP)",
                "waiting": depth,
                "enqueue us": enqueue_s / posts * 1e6,
                "lease and ack us": cycle_s / taken * 1e6,
                "hub memory MB": hub.server.resident_mb,
            }
    yield _many_queues(folder, _MANY_QUICK if quick else _MANY)


def _fill(hub: Hub, count: int) -> int:
    body = json.dumps({"messages": _POST["messages"] * 1_000}).encode()
    with _Session(hub) as session:
        for _ in range(0, count, 1_000):
            session.post("/v1/queues/deep/messages", body, 202)
    return count


def _take(hub: Hub, count: int) -> int:
    taken = 0
    with _Session(hub) as session:
        while taken < count:
            leased = json.loads(session.post("/v1/queues/deep/lease", b'{"count":256,"wait_ms":1000}', 200))
            settlements = [{"delivery_id": each["delivery_id"], "action": "ack"} for each in leased["deliveries"]]
            session.post("/v1/queues/deep/settle", json.dumps({"settlements": settlements}).encode(), 200)
            taken += len(settlements)
    return taken


def _many_queues(folder: Path, count: int) -> Row:
    """As many queues, and as many WebSocket subscriptions, as a large fleet has; then one message into each."""
    with hub_started(folder / "many") as hub:
        order = {"url": hub.url, "key": hub.key, "queues": count}
        code = pinned(LOAD_CORE, [sys.executable, "-m", "benchmarks.many_queues", json.dumps(order)])
        done = subprocess.run(code, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"many queues failed: {done.stderr[-1_000:]}")
        figures = json.loads(done.stdout)
        return {
            "table": "many queues, one worker each (WebSocket), then one message into each",
            "queues": count,
            "subscribed in s": figures["subscribe_s"],
            "all delivered in s": figures["deliver_s"],
            "KB a queue and subscriber": (hub.server.resident_mb - hub.idle_mb) * 1_000 / count,
        }


class _Session:
    """One kept-alive connection."""

    def __init__(self, hub: Hub) -> None:
        self._connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=60)
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {hub.key}"}

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes, expected: int) -> bytes:
        """Raises: RuntimeError with the hub's words."""
        self._connection.request("POST", path, body=body, headers=self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != expected:
            raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")
        return content


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done
