"""What a starting hub finds in its directory: work goes on with who has it."""

from contextlib import asynccontextmanager

import pytest

from meshway.assembly.engines import open_engine
from meshway.kernel.metrics import NullMetrics
from meshway.settings.model import Settings
from meshway.tasks.settings import TaskSettings
from support.task_rig import COMPLETED, TaskRig

LEASE_MS = 10_000
# One attempt: whoever took the task from its instance would also have to give it up.
ONE_ATTEMPT = TaskSettings(lease_ms=LEASE_MS, attempts_max=1)


@asynccontextmanager
async def hub(folder, clock):
    engine = await open_engine(Settings(data=str(folder)), clock=clock, metrics=NullMetrics())
    rig = TaskRig(engine, clock, settings=ONE_ATTEMPT)
    try:
        await rig.start()
        yield rig
        await rig.stop()
    finally:
        await engine.close()


@pytest.mark.parametrize("away_ms", [0, 10 * LEASE_MS])
async def test_a_lease_that_a_starting_hub_finds_lasts_one_full_lease_time(tmp_path, clock, away_ms):
    async with hub(tmp_path, clock) as rig:
        task_id = await rig.submit()
        handed = await rig.take_one()
        clock.advance(LEASE_MS - 1)
    clock.advance(away_ms)
    async with hub(tmp_path, clock) as rig:
        clock.advance(LEASE_MS - 1)
        assert await rig.take(instance="two") == []
        assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING"]
        assert (await rig.show_hold(handed.claim.delivery_id)).is_held
        assert (await rig.say(handed, COMPLETED)).outcome == "done"


async def test_a_lease_that_a_starting_hub_finds_ends_if_nobody_comes_back(tmp_path, clock):
    async with hub(tmp_path, clock) as rig:
        task_id = await rig.submit()
        handed = await rig.take_one()
    async with hub(tmp_path, clock) as rig:
        clock.advance(LEASE_MS)
        assert await rig.take(instance="two") == []
        assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "FAILED"]
        assert not (await rig.show_hold(handed.claim.delivery_id)).is_held
