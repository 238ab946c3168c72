"""The benchmarks run to the end in their quick form, so that a measurement never begins with a repair."""

import importlib
import shutil

import pytest

from benchmarks import mesh, queues, relay, scale, tasks
from benchmarks.table import render


def test_the_relay_benchmark_measures_every_way_or_says_what_is_missing():
    rows = relay.run(quick=True)
    if not all(map(shutil.which, ("wrk", "nginx", "taskset"))):
        assert all("is not installed" in str(row["note"]) for row in rows)
        return
    unary = [row for row in rows if "requests/s" in row]
    assert {row["way"] for row in unary} == {"direct", "nginx", "hub"}
    assert {row["answer"] for row in unary} == {"message", "task"}
    assert not [row for row in unary if "FAILED" in str(row["remark"])]
    streaming = [row for row in rows if "events/s" in row]
    assert {row["way"] for row in streaming} == {"direct", "nginx", "hub"}
    assert all(row["events/s"] > 0 and "FAILED" not in str(row["remark"]) for row in streaming)
    idle = [row for row in rows if "KB a stream" in row]
    assert [row["remark"] for row in idle] == [""]
    assert {row["figure"] for row in rows if "figure" in row} >= {"ready after, s (median)", "idle memory, MB"}


def test_a_missing_tool_is_said_and_nothing_else_is_tried(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    notes = [str(row["note"]) for row in relay.run(quick=True)]
    assert any("apt-get install wrk" in note for note in notes)


def test_tables_are_aligned_and_notes_stand_below():
    rows = [
        {"table": "calls", "way": "hub", "requests/s": 12345.6, "p50 ms": 0.123456},
        {"table": "calls", "way": "nginx", "requests/s": 7, "p50 ms": None},
        {"table": "calls", "note": "something was not measured"},
    ]
    assert render(rows).splitlines() == [
        "",
        "calls",
        "way    requests/s  p50 ms",
        "hub        12,346   0.123",
        "nginx           7",
        "note: something was not measured",
    ]


def test_the_load_of_the_queue_benchmark_settles_every_message_it_sends(tmp_path):
    bench = queues.Bench(tmp_path, seconds=0.5)
    cycle = bench.measure("hub", "cycle", in_flight=8)
    assert cycle["per_s"] > 0
    latency = bench.measure("hub", "latency", messages=3)
    assert 0 < latency["p50_ms"] < 5_000
    asked = bench.measure("hub", "commands", in_flight=2)
    assert asked["per_s"] > 0


def test_the_task_benchmark_finishes_every_task_and_every_stream_it_counts():
    rows = tasks.run(quick=True)
    if not all(map(shutil.which, ("wrk", "taskset"))):
        assert all("is not installed" in str(row["note"]) for row in rows)
        return
    durable = {str(row["what"]): row for row in rows if "what" in row}
    assert list(durable) == ["SendMessage, idle", "SendMessage, 128 in flight", "POST /v1/tasks, nobody there"]
    assert all(row["p50 ms"] > 0 for row in durable.values())
    assert all(row["tasks/s"] > 0 for row in durable.values() if "tasks/s" in row)
    streams = {row["way"]: row for row in rows if "events/s" in row}
    assert set(streams) == {"plain", "recorded"}
    assert all(row["events/s"] > 0 for row in streams.values())
    kept = [row["tasks kept"] for row in rows if "tasks kept" in row]
    assert len(kept) == 2
    assert kept == sorted(kept)
    assert not [row for row in rows if "FAILED" in str(row.get("remark", ""))]


# Eight processes start one after another, on however many cores there are.
@pytest.mark.timeout(300)
def test_the_mesh_benchmark_measures_each_call_at_each_size_or_says_what_is_missing():
    rows = mesh.run(quick=True)
    if not all(map(shutil.which, ("wrk", "nginx"))):
        assert all("is not installed" in str(row["note"]) for row in rows)
        return
    calls = [row for row in rows if "x one hub" in row]
    assert {row["table"].partition(",")[0] for row in calls} == {call.name for call in mesh.CALLS}
    assert {row["hubs"] for row in calls} == {"embedded", "1 x NATS", "2 x NATS"}
    assert all(row["calls/s, all asked"] > 0 and "FAILED" not in str(row["remark"]) for row in calls)
    assert all(row["messages/s"] > 0 for row in rows if "messages/s" in row)
    assert len([row for row in rows if "x nats-py" in row]) == 2


@pytest.mark.timeout(240)
def test_the_scale_benchmark_measures_its_constants_and_calculates_every_step():
    rows = scale.run(quick=True)
    constants = {str(row["constant"]): row["now"] for row in rows if "constant" in row}
    if shutil.which("wrk") is not None:
        assert min(constants[name] for name in ("beat_us", "entry_us", "task_us", "task_entries", "hub_mb")) > 0
    fleets = [row for row in rows if "breaks first" in row]
    assert {row["hubs"] for row in fleets} == {3, 30, 300, 1_000}
    assert fleets[0]["breaks first"] == "holds"


_BENCHMARKS = ["relay", "engine", "queues", "tasks", "mesh", "scale"]


@pytest.mark.parametrize("module", [f"benchmarks.{name}" for name in _BENCHMARKS])
def test_every_benchmark_has_the_form_the_runner_expects(module):
    benchmark = importlib.import_module(module)
    assert module == f"benchmarks.{benchmark.NAME}"
    assert callable(benchmark.run)
