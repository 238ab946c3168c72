"""The promises of tasks in any order of events, on virtual time; planted faults show that a broken one is noticed."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from support.task_checker import Broken
from support.task_faults import FAULTS
from support.task_machine import TaskMachine
from support.task_rig import TaskParts

RUNS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# A planted fault only has to be found, not to be made small, and by the same calls each time: chance might miss it.
HUNTS = settings(
    RUNS, phases=[Phase.generate], max_examples=200, derandomize=True, database=None, report_multiple_bugs=False
)


def _run(parts: TaskParts, runs: settings) -> None:
    run_state_machine_as_test(type("Machine", (TaskMachine,), {"parts": parts}), settings=runs)


def test_tasks_keep_their_promises_in_any_order_of_events() -> None:
    _run(TaskParts(), RUNS)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_judge_notices_a_planted_fault(fault: str) -> None:
    with pytest.raises((Broken, ExceptionGroup)):
        _run(FAULTS[fault], HUNTS)
