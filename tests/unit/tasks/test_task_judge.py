"""The judge of streams bites: each planted fault is found."""

from dataclasses import replace

import pytest

from support.task_judge import SeenEvent, SnapshotEvent, faults_of, snapshot_faults_of

GOOD = [
    SeenEvent(1, "task", state="TASK_STATE_SUBMITTED"),
    SeenEvent(2, "status", state="TASK_STATE_WORKING"),
    SeenEvent(3, "artifact", "0 "),
    SeenEvent(4, "artifact", "1 ", append=True),
    SeenEvent(5, "status", state="TASK_STATE_COMPLETED"),
]


def test_a_whole_stream_has_no_fault():
    assert faults_of(GOOD, expected_text="0 1 ") == []


def test_a_new_attempt_replaces_what_the_lost_one_said():
    again = [replace(event, number=event.number + 2) for event in GOOD[2:]]
    lost = [GOOD[0], GOOD[1], SeenEvent(3, "artifact", "0 "), replace(GOOD[1], number=4)]
    assert faults_of([*lost, *again], expected_text="0 1 ") == []


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(GOOD[:2] + GOOD[3:], id="gap"),
        pytest.param(GOOD[:3] + GOOD[2:], id="duplicate"),
        pytest.param([GOOD[0], GOOD[2], GOOD[1], *GOOD[3:]], id="swapped"),
        pytest.param(GOOD[1:], id="beginning lost"),
        pytest.param(GOOD[:-1], id="end lost"),
        pytest.param([*GOOD, replace(GOOD[-1], number=6)], id="two ends"),
        pytest.param([*GOOD, SeenEvent(6, "artifact", "2 ", append=True)], id="something after the end"),
        pytest.param([*GOOD[:2], replace(GOOD[2], text="x "), *GOOD[3:]], id="wrong text"),
        pytest.param([*GOOD[:4], replace(GOOD[4], state="TASK_STATE_FAILED")], id="failed"),
        pytest.param([*GOOD[:3], replace(GOOD[3], append=False), GOOD[4]], id="replaced"),
        pytest.param([*GOOD[:3], replace(GOOD[4], number=4)], id="missing text"),
        pytest.param([], id="nothing"),
    ],
)
def test_planted_faults_are_found(planted):
    assert faults_of(planted, expected_text="0 1 ")


STOCK = [
    SnapshotEvent("task", state="TASK_STATE_SUBMITTED"),
    SnapshotEvent("artifact", "0 "),
    # The connection broke, and it subscribed again.
    SnapshotEvent("task", "0 1 ", state="TASK_STATE_WORKING"),
    SnapshotEvent("artifact", "2 ", append=True),
    SnapshotEvent("status", state="TASK_STATE_COMPLETED"),
]


def test_a_stream_that_was_subscribed_again_has_no_fault():
    assert snapshot_faults_of(STOCK, expected_text="0 1 2 ") == []


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(STOCK[1:], id="beginning lost"),
        pytest.param(STOCK[:-1], id="end lost"),
        pytest.param([*STOCK, STOCK[-1]], id="two ends"),
        pytest.param([*STOCK[:3], STOCK[3], *STOCK[3:]], id="duplicate"),
        pytest.param([*STOCK[:3], STOCK[4]], id="missing text"),
        pytest.param([*STOCK[:3], replace(STOCK[3], text="x "), STOCK[4]], id="wrong text"),
        pytest.param([STOCK[0], STOCK[3], STOCK[2], *STOCK[3:]], id="taken back"),
        pytest.param([*STOCK[:4], replace(STOCK[4], state="TASK_STATE_FAILED")], id="failed"),
        pytest.param([], id="nothing"),
    ],
)
def test_faults_planted_between_snapshots_are_found(planted):
    assert snapshot_faults_of(planted, expected_text="0 1 2 ")
