"""What a mesh of so many hubs, agents and tasks takes, and what it runs out of first. Pure: figures in, figures out.

The constants are measured (`benchmarks/scale_measures.py`); `docs/internals/scale.md` explains each term.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

__all__ = [
    "LIMITS",
    "MEASURED",
    "STEPS",
    "Constants",
    "Fleet",
    "Limits",
    "Need",
    "first_to_break",
    "meshes_needed",
    "need_of",
    "relays_per_s",
    "tasks_per_s",
]

_DAY_S = 86_400
_MB, _GB = 1e6, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Processor times are of one core of the machine they were measured on."""

    hub_idle_cpu: float
    beat_interval_s: float
    # What hearing one beat of another hub takes.
    beat_us: float
    # What hearing of a lease that another hub has seen renewed takes.
    sign_us: float
    # What hearing one entry of the log takes a hub that has nothing to do with it.
    entry_us: float
    # What a change of an agent takes each hub, and what each takes a hub that starts.
    agent_change_us: float
    agent_start_us: float
    # All hubs together, for a task through an instance; and what a relayed call takes its hub.
    task_us: float
    relay_us: float
    hub_mb: float
    agent_hub_bytes: float
    queue_hub_bytes: float
    # Of a task: entries of the log, messages stored, messages that a server receives and sends besides the feeds.
    task_entries: float
    task_stored: float
    task_in: float
    task_out: float
    task_subjects: float
    task_disk_bytes: float
    # Of a server: a message stored and synced (of three copies: the mean of the three), one received, one sent.
    server_write_us: float
    server_in_us: float
    server_out_us: float
    subject_bytes: float
    consumer_bytes: float
    agent_stored_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is asked. Peaks are so many times the mean of the day."""

    hubs: int
    agents: int
    tasks_a_day: float
    peak: float = 3.0
    # Relayed calls to agents with a URL, for each task.
    relays_a_task: float = 5.0
    # State changes of an agent: it comes, it goes.
    agent_changes_a_day: float = 4.0
    # Agents that connect out, and how often each shows that it is there.
    connected: int = 0
    sign_interval_s: float = 10.0
    queues: int = 0
    # Queues and inboxes somebody waits at, in one priority each: an inbox for each agent that is connected.
    worked_queues: int = 0
    retention_s: float = 7 * _DAY_S

    @property
    def peak_tasks_s(self) -> float:
        return self.tasks_a_day / _DAY_S * self.peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one hub and one cluster of three servers may take; reasons in `docs/internals/scale.md`."""

    # Of its one core, so that a pause does not become a queue.
    hub_cpu: float = 0.7
    hub_mb: float = 4_000
    server_cores: float = 8 * 0.7
    server_mb: float = 32_000
    # A stream is one line of writes, and each is synced twice on every server: its raft log and its store.
    fsync_ms: float = 0.1
    cluster_consumers: int = 2_000
    server_disk_gb: float = 2_000
    # What nats-server lets wait for one connection (max_pending) before it cuts it: a hub that starts is told all
    # agents at once. deploy/nats.conf raises it.
    pending_mb: float = 64

    @property
    def stream_writes_s(self) -> float:
        return 1_000 / (2 * self.fsync_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Of each hub, and of each server (all three hold everything; feeds and beats are spread over them)."""

    tasks_s: float
    hub_cpu: float
    # Parts of `hub_cpu` that grow with the others.
    hub_beats: float
    hub_signs: float
    hub_feed: float
    hub_mb: float
    nats_in_s: float
    nats_out_s: float
    server_cores: float
    server_mb: float
    writes_s: float
    # Of them, into the busiest stream, that of the log.
    log_writes_s: float
    consumers: int
    disk_gb: float
    # What a hub is told at its start, and how long it takes to learn it.
    start_mb: float
    start_s: float


LIMITS = Limits()


def need_of(fleet: Fleet, one: Constants, *, servers: int = 3) -> Need:
    """At the peak of the day, with everything kept that retention says."""
    tasks_s = fleet.peak_tasks_s
    beats_s = fleet.hubs / one.beat_interval_s
    changes_s = fleet.agents * fleet.agent_changes_a_day / _DAY_S * fleet.peak
    beats, feed = beats_s * one.beat_us / 1e6, tasks_s * one.task_entries * one.entry_us / 1e6
    signs = fleet.connected / fleet.sign_interval_s * one.sign_us / 1e6
    own = tasks_s / fleet.hubs * (one.task_us + fleet.relays_a_task * one.relay_us) / 1e6
    received = beats_s + tasks_s * one.task_in + changes_s
    sent = fleet.hubs * (beats_s + tasks_s * one.task_entries + changes_s) + tasks_s * one.task_out
    kept = fleet.tasks_a_day / _DAY_S * fleet.retention_s
    subjects = kept * one.task_subjects + fleet.agents + fleet.queues
    # Each server stores every message and gives a third of them out.
    writes = tasks_s * one.task_stored + changes_s
    cores = (writes * one.server_write_us + received * one.server_in_us + sent / servers * one.server_out_us) / 1e6
    memory = subjects * one.subject_bytes + fleet.worked_queues * one.consumer_bytes
    return Need(
        tasks_s=tasks_s,
        hub_cpu=one.hub_idle_cpu + beats + signs + feed + changes_s * one.agent_change_us / 1e6 + own,
        hub_beats=beats,
        hub_signs=signs,
        hub_feed=feed,
        hub_mb=one.hub_mb + (fleet.agents * one.agent_hub_bytes + fleet.queues * one.queue_hub_bytes) / _MB,
        nats_in_s=received,
        nats_out_s=sent,
        server_cores=cores,
        server_mb=memory / _MB,
        writes_s=writes,
        log_writes_s=tasks_s * one.task_entries,
        consumers=fleet.worked_queues,
        start_mb=fleet.agents * one.agent_stored_bytes / _MB,
        start_s=fleet.agents * one.agent_start_us / 1e6,
        disk_gb=(kept * one.task_disk_bytes + fleet.agents * one.agent_stored_bytes) / _GB,
    )


def first_to_break(need: Need, limits: Limits = LIMITS) -> Sequence[tuple[str, float]]:
    """What is beyond its limit, and how many times; the worst first. Empty: it holds."""
    shares = {
        "queues worked on at once": need.consumers / limits.cluster_consumers,
        "memory of a server: subjects": need.server_mb / limits.server_mb,
        "disk of a server": need.disk_gb / limits.server_disk_gb,
        "synced writes of one stream": need.log_writes_s / limits.stream_writes_s,
        "cores of a server: what it sends": need.server_cores / limits.server_cores,
        "the core of a hub": need.hub_cpu / limits.hub_cpu,
        "what a starting hub is told at once": need.start_mb / limits.pending_mb,
        "memory of a hub: its agents": need.hub_mb / limits.hub_mb,
    }
    return sorted(((name, share) for name, share in shares.items() if share > 1), key=lambda each: -each[1])


def meshes_needed(fleet: Fleet, one: Constants, limits: Limits = LIMITS) -> int:
    """Into how many meshes of their own clusters the fleet must be split, evenly, for each to hold."""
    for meshes in range(1, fleet.hubs + 1):
        part = replace(
            fleet,
            hubs=ceil(fleet.hubs / meshes),
            agents=ceil(fleet.agents / meshes),
            connected=ceil(fleet.connected / meshes),
            queues=ceil(fleet.queues / meshes),
            worked_queues=ceil(fleet.worked_queues / meshes),
            tasks_a_day=fleet.tasks_a_day / meshes,
        )
        if not first_to_break(need_of(part, one), limits):
            return meshes
    return fleet.hubs


def relays_per_s(hubs: int, one: Constants, limits: Limits = LIMITS) -> float:
    """Relayed calls of messages a second: they pass no server, so only beats are in the way."""
    room = limits.hub_cpu - one.hub_idle_cpu - hubs / one.beat_interval_s * one.beat_us / 1e6
    return hubs * max(0.0, room) / (one.relay_us / 1e6)


def tasks_per_s(hubs: int, one: Constants, limits: Limits = LIMITS) -> tuple[float, str]:
    """How many tasks a second so many hubs of one core do over one cluster, and what stops them there."""
    beats_s = hubs / one.beat_interval_s
    room = limits.hub_cpu - one.hub_idle_cpu - beats_s * one.beat_us / 1e6
    per_task = (one.task_us / hubs + one.task_entries * one.entry_us) / 1e6
    server_room = limits.server_cores - beats_s * (one.server_in_us + hubs / 3 * one.server_out_us) / 1e6
    out = (hubs * one.task_entries + one.task_out) / 3
    per_server = one.task_stored * one.server_write_us + one.task_in * one.server_in_us + out * one.server_out_us
    by = {
        "the core of a hub": room / per_task,
        "synced writes of one stream": limits.stream_writes_s / one.task_entries,
        "cores of a server": server_room / (per_server / 1e6),
    }
    reason = min(by, key=lambda each: by[each])
    return max(0.0, by[reason]), reason


# Two busy cores (AMD EPYC) for everything; `make bench-scale` measures all of it but `relay_us` (`make bench-mesh`).
MEASURED = Constants(
    hub_idle_cpu=0.006,
    beat_interval_s=0.5,
    beat_us=30,
    sign_us=0.6,
    entry_us=33,
    agent_change_us=240,
    agent_start_us=60,
    task_us=1_500,
    relay_us=100,
    hub_mb=62,
    agent_hub_bytes=4_000,
    queue_hub_bytes=500,
    task_entries=4.1,
    task_stored=8,
    task_in=12.7,
    task_out=14,
    task_subjects=2,
    task_disk_bytes=2_700,
    server_write_us=400,
    server_in_us=25,
    server_out_us=0.7,
    subject_bytes=290,
    consumer_bytes=48_000,
    agent_stored_bytes=1_900,
)

# Agents that connect out wait at their inboxes: one in ten is connected.
STEPS = (
    Fleet(hubs=3, agents=1_000, tasks_a_day=100_000, connected=100, queues=100, worked_queues=150),
    Fleet(hubs=30, agents=10_000, tasks_a_day=1_000_000, connected=1_000, queues=1_000, worked_queues=1_500),
    Fleet(hubs=300, agents=100_000, tasks_a_day=10_000_000, connected=10_000, queues=10_000, worked_queues=15_000),
    Fleet(
        hubs=1_000, agents=1_000_000, tasks_a_day=100_000_000, connected=100_000, queues=100_000, worked_queues=150_000
    ),
)
