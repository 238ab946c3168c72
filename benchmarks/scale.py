"""What grows with hubs, agents, queues and tasks: constants measured here, and what fleets of any size come to."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.peers import nats_version
from benchmarks.processes import missing_tools
from benchmarks.scale_measures import measure
from benchmarks.scale_model import (
    LIMITS,
    MEASURED,
    STEPS,
    Constants,
    first_to_break,
    meshes_needed,
    need_of,
    relays_per_s,
    tasks_per_s,
)
from benchmarks.table import Row

__all__ = ["NAME", "run"]

NAME = "scale"
_CONSTANTS = "constants: measured now, and as in docs/internals/scale.md"
_HUBS = (1, 2, 4, 8, 16, 64, 256, 1_000)
_DAY_S = 86_400


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """All tables. `quick` proves that everything runs, in seconds; it calculates with the documented constants."""
    missing = missing_tools("wrk")
    if nats_version() is None:
        missing.append("nats-server is not installed; the constants are not measured")
    rows: list[Row] = [{"table": _CONSTANTS, "note": each} for each in missing]
    constants = MEASURED
    if not missing:
        with tempfile.TemporaryDirectory(prefix="meshway-bench-") as name:
            now = measure(Path(name), quick=quick)
        rows += _constant_rows(now)
        constants = MEASURED if quick else now
    return [*rows, *_fleet_rows(constants), *_growth_rows(constants)]


def _constant_rows(now: Constants) -> list[Row]:
    return [
        {
            "table": _CONSTANTS,
            "constant": field.name,
            "now": float(getattr(now, field.name)),
            "documented": float(getattr(MEASURED, field.name)),
        }
        for field in fields(Constants)
    ]


def _fleet_rows(constants: Constants) -> list[Row]:
    rows: list[Row] = []
    for fleet in STEPS:
        for days in (7.0, 1 / 24):
            need = need_of(replace(fleet, retention_s=days * _DAY_S), constants)
            broken = first_to_break(need)
            rows.append(
                {
                    "table": "one mesh over three servers, at the peak of the day",
                    "hubs": fleet.hubs,
                    "agents": fleet.agents,
                    "tasks a day": int(fleet.tasks_a_day),
                    "kept": "7 days" if days > 1 else "1 hour",
                    "tasks/s": need.tasks_s,
                    "hub cores": need.hub_cpu,
                    "of it beats": need.hub_beats,
                    "of it signs": need.hub_signs,
                    "of it feed": need.hub_feed,
                    "hub MB": need.hub_mb,
                    "start s": need.start_s,
                    "server cores": need.server_cores,
                    "server out/s": need.nats_out_s,
                    "writes/s": need.writes_s,
                    "server MB": need.server_mb,
                    "disk GB": need.disk_gb,
                    "meshes": meshes_needed(replace(fleet, retention_s=days * _DAY_S), constants),
                    "breaks first": ", ".join(f"{name} ({times:.1f} x)" for name, times in broken[:3]) or "holds",
                }
            )
    return rows


def _growth_rows(constants: Constants) -> list[Row]:
    rows: list[Row] = []
    for fsync_ms in (0.1, 1.0):
        limits = replace(LIMITS, fsync_ms=fsync_ms)
        one, _ = tasks_per_s(1, constants, limits)
        for hubs in _HUBS:
            rate, reason = tasks_per_s(hubs, constants, limits)
            rows.append(
                {
                    "table": "calls a second by hubs of one core, over three servers of eight cores",
                    "a sync takes ms": fsync_ms,
                    "hubs": hubs,
                    "relayed messages/s": relays_per_s(hubs, constants, limits),
                    "durable tasks/s": rate,
                    "x one hub": rate / one,
                    "limit": reason,
                }
            )
    return rows
