"""The calculation of fleets: each term grows with what it should, and a planted limit is named."""

from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.scale_model import (
    LIMITS,
    MEASURED,
    STEPS,
    Fleet,
    Limits,
    first_to_break,
    meshes_needed,
    need_of,
    relays_per_s,
    tasks_per_s,
)

_SMALL = Fleet(hubs=3, agents=1_000, tasks_a_day=100_000, worked_queues=100)


def test_one_more_hub_costs_every_hub_its_beats_and_nothing_else():
    few, many = (
        need_of(replace(_SMALL, tasks_a_day=0), MEASURED),
        need_of(replace(_SMALL, hubs=6, tasks_a_day=0), MEASURED),
    )
    assert many.hub_cpu - few.hub_cpu == pytest.approx(3 / MEASURED.beat_interval_s * MEASURED.beat_us / 1e6)
    assert many.hub_mb == few.hub_mb


def test_what_servers_send_for_beats_grows_with_the_square_of_the_hubs():
    quiet = replace(_SMALL, tasks_a_day=0, agents=0)
    hundred, thousand = (need_of(replace(quiet, hubs=hubs), MEASURED).nats_out_s for hubs in (100, 1_000))
    assert thousand == pytest.approx(100 * hundred)


def test_every_hub_hears_every_entry_of_the_log():
    once, twice = (need_of(replace(_SMALL, tasks_a_day=tasks), MEASURED) for tasks in (1e6, 2e6))
    assert twice.hub_feed == pytest.approx(2 * once.hub_feed)
    assert once.hub_feed == pytest.approx(1e6 / 86_400 * 3 * MEASURED.task_entries * MEASURED.entry_us / 1e6)


def test_a_shorter_retention_takes_subjects_and_disk_and_no_work():
    week, hour = need_of(_SMALL, MEASURED), need_of(replace(_SMALL, retention_s=3_600), MEASURED)
    assert hour.server_mb < week.server_mb
    assert hour.disk_gb < week.disk_gb
    assert hour.hub_cpu == week.hub_cpu


def test_a_small_fleet_holds_and_the_largest_one_does_not():
    assert not first_to_break(need_of(STEPS[0], MEASURED))
    broken = first_to_break(need_of(STEPS[-1], MEASURED))
    assert [share for _, share in broken] == sorted((share for _, share in broken), reverse=True)
    assert broken[0][0] == "queues worked on at once"


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(cluster_consumers=10), "queues worked on at once"),
        (Limits(server_mb=1), "memory of a server: subjects"),
        (Limits(server_disk_gb=0.1), "disk of a server"),
        (Limits(fsync_ms=1_000), "synced writes of one stream"),
        (Limits(server_cores=0.0001), "cores of a server: what it sends"),
        (Limits(hub_cpu=0.0001), "the core of a hub"),
        (Limits(pending_mb=1), "what a starting hub is told at once"),
        (Limits(hub_mb=1), "memory of a hub: its agents"),
    ],
)
def test_each_limit_is_named_when_it_is_the_one_that_breaks(limits, named):
    assert [name for name, _ in first_to_break(need_of(_SMALL, MEASURED), limits)] == [named]


def test_relayed_calls_grow_with_the_hubs_less_what_beats_take():
    one, hundred = (relays_per_s(hubs, MEASURED) for hubs in (1, 100))
    assert 0.97 * 100 * one < hundred < 100 * one


def test_a_fleet_that_is_split_enough_holds():
    assert meshes_needed(STEPS[0], MEASURED) == 1
    largest = STEPS[-1]
    meshes = meshes_needed(largest, MEASURED)
    assert meshes == 75
    assert meshes * LIMITS.cluster_consumers >= largest.worked_queues > (meshes - 1) * LIMITS.cluster_consumers


def test_hubs_that_hear_nothing_of_each_other_grow_in_proportion_until_the_disk_ends_it():
    deaf = replace(MEASURED, entry_us=0, beat_us=0, server_out_us=0)
    one, two = (tasks_per_s(hubs, deaf)[0] for hubs in (1, 2))
    assert two == pytest.approx(2 * one)
    assert tasks_per_s(1_000, deaf) == (LIMITS.stream_writes_s / deaf.task_entries, "synced writes of one stream")


def test_a_feed_of_everything_bends_the_curve():
    endless = replace(LIMITS, fsync_ms=1e-6, server_cores=1e9)
    rates = [tasks_per_s(hubs, MEASURED, endless)[0] for hubs in (1, 2, 4, 8, 16)]
    gains = [after / before for before, after in pairwise(rates)]
    assert gains == sorted(gains, reverse=True)
    assert max(rates) < LIMITS.hub_cpu / (MEASURED.task_entries * MEASURED.entry_us / 1e6)
