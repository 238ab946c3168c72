"""Tasks that the hub keeps: durable ones through an instance that connects out, and what recording a stream costs.

The hub has core 0 for itself; load, instance and agent share core 1, so the rates are those of two cores together.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.hub import Hub, call_status, hub_started
from benchmarks.processes import LOAD_CORE, missing_tools, started, until
from benchmarks.streaming import Step, Way, measure_streams, stream_agent
from benchmarks.table import Row
from benchmarks.wrk import CALL, run_wrk, run_wrk_post

__all__ = ["NAME", "run"]

NAME = "tasks"
_DURABLE = "durable unary tasks through an instance that connects out"
_RECORDED = "streams: 100 events of ~250 B, 20 ms apart; recorded against unrecorded"
_KEPT = "finished tasks kept"
_CAPACITY = 256
_IN_FLIGHT = 128
_PATH = "/a2a/worker"
# The hub reads recorded streams to their end (2 s) when their reader has gone; the next round must not pay for them.
_LEFT_STREAMS_S = 2.5
# The caches for tasks fill up to the second mark: what the hub's memory grows by from there on is what tasks cost.
_MARKS, _MARKS_QUICK = (10_000, 110_000, 210_000), (500, 1_000)
_LIST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "ListTasks",
    "params": {"status": "TASK_STATE_COMPLETED", "pageSize": 1},
}


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """All tables. `quick` proves that everything runs, in seconds."""
    if missing := missing_tools("wrk", "taskset"):
        return [{"table": _DURABLE, "note": each} for each in missing]
    with tempfile.TemporaryDirectory(prefix="meshway-bench-") as name:
        folder = Path(name)
        with hub_started(folder / "hub") as hub:
            rows = _run_durable(hub, folder, quick=quick)
            rows += _run_recorded(hub, folder, quick=quick)
        with hub_started(folder / "kept") as hub:
            rows += _run_kept(hub, folder, marks=_MARKS_QUICK if quick else _MARKS)
    return rows


def _run_durable(hub: Hub, folder: Path, *, quick: bool) -> list[Row]:
    with _worker(hub, folder):
        delays = sorted(_delay_ms(hub) for _ in range(20 if quick else 300))
        before_s = hub.server.cpu_s
        rounds = [
            run_wrk(hub.url + _PATH, connections=_IN_FLIGHT, seconds=1 if quick else 5, key=hub.key, folder=folder)
            for _ in range(1 if quick else 3)
        ]
        answered = sum(each.requests for each in rounds)
        spent_us = (hub.server.cpu_s - before_s) / max(answered, 1) * 1e6
        _check_completed(hub, len(delays) + answered)
    load = sorted(rounds, key=lambda each: each.per_s)[len(rounds) // 2]
    submit = {"agent": "worker", "text": "When was the invoice paid?"}
    # Its answer is 202, or wrk counts it as failed.
    submits = run_wrk_post(
        f"{hub.url}/v1/tasks", submit, connections=32, seconds=1 if quick else 2, key=hub.key, folder=folder
    )
    remarks = ["load core full"] if load.is_load_core_full else []
    remarks += [f"{each.failed} FAILED" for each in (load, submits) if each.failed]
    idle: Row = {
        "table": _DURABLE,
        "what": "SendMessage, idle",
        "p50 ms": statistics.median(delays),
        "p99 ms": delays[int(len(delays) * 0.99)],
        "aim": "p50 <= 10 ms",
    }
    busy: Row = {
        "table": _DURABLE,
        "what": f"SendMessage, {_IN_FLIGHT} in flight",
        "tasks/s": load.per_s,
        "p50 ms": load.p50_ms,
        "p99 ms": load.p99_ms,
        "hub cpu us/task": spent_us,
        "aim": ">= 2,000/s",
        "remark": ", ".join(remarks),
    }
    waiting: Row = {
        "table": _DURABLE,
        "what": "POST /v1/tasks, nobody there",
        "tasks/s": submits.per_s,
        "p50 ms": submits.p50_ms,
        "p99 ms": submits.p99_ms,
    }
    return [idle, busy, waiting]


def _run_recorded(hub: Hub, folder: Path, *, quick: bool) -> list[Row]:
    """Rounds of both are interleaved; the ratio is that of the medians."""
    with stream_agent(folder) as url:
        hub.register({"recorded": f"{url}/stream"})
        plain = {"id": "plain", "url": f"{url}/stream", "settings": {"record": "off"}}
        status, body = call_status(hub.url, "/v1/agents", plain, key=hub.key)
        if status != 201:
            raise RuntimeError(f"the hub refused the unrecorded agent: {status} {body[:300]!r}")
        rows: list[Row] = []
        for streams in (10,) if quick else (50, 100):
            rows += _compare(hub, streams, rounds=1 if quick else 5, seconds=1 if quick else 4)
    return rows


def _compare(hub: Hub, streams: int, *, rounds: int, seconds: float) -> list[Row]:
    ways = [Way(name, f"{hub.url}/a2a/{name}", hub.server, hub.key) for name in ("plain", "recorded")]
    steps: dict[str, list[Step]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            steps[way.name].append(measure_streams(way, streams, seconds=seconds))
            time.sleep(_LEFT_STREAMS_S)
    cpu_us = {name: statistics.median(step.cpu_us for step in taken) for name, taken in steps.items()}
    rows: list[Row] = []
    for name, taken in steps.items():
        middle = sorted(taken, key=lambda step: step.cpu_us)[len(taken) // 2]
        failed = sum(step.failed for step in taken)
        rows.append(
            {
                "table": _RECORDED,
                "way": name,
                "streams": streams,
                "events/s": middle.events_per_s,
                "p50 ms": middle.p50_ms,
                "p99 ms": middle.p99_ms,
                "cpu us/event": cpu_us[name],
                "x plain": cpu_us[name] / cpu_us["plain"] if name == "recorded" and cpu_us["plain"] else None,
                "aim": "<= 1.6 x" if name == "recorded" else "",
                "remark": f"{failed} streams FAILED" if failed else "",
            }
        )
    return rows


def _run_kept(hub: Hub, folder: Path, *, marks: tuple[int, ...]) -> list[Row]:
    """Memory at each mark, and what the tasks since the mark before have added."""
    rows: list[Row] = []
    kept, before, before_mb = 0, 0, hub.server.resident_mb
    with _worker(hub, folder):
        for mark in marks:
            kept += _finish(hub, folder, mark - kept)
            hub_mb = hub.server.resident_mb
            rows.append(
                {
                    "table": _KEPT,
                    "tasks kept": kept,
                    "hub MB": hub_mb,
                    "bytes a task since the row above": (hub_mb - before_mb) * 1e6 / (kept - before),
                    "aim": "no memory" if mark == marks[-1] else "",
                }
            )
            before, before_mb = kept, hub_mb
        # After the last look at the memory: counting reads every record, and that has a price of its own.
        _check_completed(hub, kept)
    return rows


def _finish(hub: Hub, folder: Path, count: int) -> int:
    """At least so many more, and at least one round of load."""
    done = 0
    while done < max(count, 1):
        load = run_wrk(hub.url + _PATH, connections=_IN_FLIGHT, seconds=3, key=hub.key, folder=folder)
        if load.failed or not load.requests:
            raise RuntimeError(f"{load.failed} of {load.requests} tasks failed")
        done += load.requests
    return done


@contextmanager
def _worker(hub: Hub, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.task_worker", hub.url, hub.key, str(_CAPACITY)]
    with started(command, core=LOAD_CORE, log=folder / "worker.log"):
        until(lambda: call_status(hub.url, "/v1/agents/worker", key=hub.key)[0] == 200)
        _check(hub)
        yield


def _check_completed(hub: Hub, answered: int) -> None:
    """wrk counts HTTP statuses only, and errors of JSON-RPC have 200, like tasks in mid-work. Raises: RuntimeError."""
    _, body = call_status(hub.url, _PATH, _LIST, key=hub.key)
    completed = json.loads(body)["result"]["totalSize"]
    if completed < answered:
        raise RuntimeError(f"of {answered} tasks that were answered only {completed} are completed")


def _check(hub: Hub) -> None:
    """Raises: RuntimeError."""
    status, body = call_status(hub.url, _PATH, CALL, key=hub.key)
    if status != 200 or b"TASK_STATE_COMPLETED" not in body:
        raise RuntimeError(f"the worker does not answer: {status} {body[:300]!r}")


def _delay_ms(hub: Hub) -> float:
    began = time.perf_counter()
    _check(hub)
    return (time.perf_counter() - began) * 1_000
