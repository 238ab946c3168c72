"""A hub whose leases and limits are short; time is the test's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshway.testing.clock import ManualClock
from support.task_rig import SETTINGS, TaskRig, task_rig


@pytest.fixture
async def rig(tmp_path: Path, clock: ManualClock) -> AsyncIterator[TaskRig]:
    async with task_rig(tmp_path, clock, settings=SETTINGS) as rig:
        yield rig
