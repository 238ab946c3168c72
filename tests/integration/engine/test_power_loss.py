"""The power fails at any moment: what was answered is on the disk, although every write that was not synced is gone.

The disk under it (`power_disk.py`) drops, keeps or tears each unsynced write of the database and of its log by chance,
and knows of the syncs that SQLite makes itself when it folds the log, so these are tried as well.
"""

import asyncio
import random
import shutil
import sys
from pathlib import Path

import pytest
from crash_checker import Answered
from crash_writer import SETTINGS

from meshway.engine.embedded import open_embedded_engine
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import StoreCorrupt
from meshway.kernel.metrics import NullMetrics

WRITER = Path(__file__).with_name("power_writer.py")
# The log is folded about every 300 operations: some rounds see none, some several.
OPERATIONS = [5, 60, 300, 900, 2_500]


async def _write_until_the_power_fails(
    folder: Path, survived: Path, seed: int, answered: Answered, *, operations: int, bug: str
) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        str(WRITER),
        *(str(folder), str(survived), str(seed), str(operations), bug),
        stdout=asyncio.subprocess.PIPE,
        # The disk does not know by which path SQLite maps its index; that file comes to lie where the process runs.
        cwd=folder.parent,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await writer.communicate()
    finally:
        if writer.returncode is None:
            writer.kill()
    assert writer.returncode == 0
    for line in output.decode().splitlines(keepends=True):
        if line.endswith("\n"):
            answered.hear(line)


async def _lose_power_in_rounds(folder: Path, rounds: int, seed: int, *, bug: str = "none") -> Answered:
    """Each round goes on with what the one before left. Raises: AssertionError, StoreCorrupt when that is wrong."""
    chance = random.Random(seed)
    answered = Answered()
    data = folder / "data0"
    data.mkdir()
    for number in range(1, rounds + 1):
        operations = OPERATIONS[number % len(OPERATIONS)] + chance.randrange(200)
        survived = folder / f"data{number}"
        survived.mkdir()
        await _write_until_the_power_fails(data, survived, seed + number, answered, operations=operations, bug=bug)
        engine = await open_embedded_engine(survived, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
        try:
            await answered.check(engine)
        finally:
            await engine.close()
        shutil.rmtree(data)
        data = survived
    return answered


async def test_nothing_that_was_answered_is_lost_when_the_power_fails(tmp_path: Path) -> None:
    answered = await _lose_power_in_rounds(tmp_path, 5, seed=3)
    assert len(answered.entries) > 100
    assert answered.acked
    assert answered.values
    assert answered.mortal


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1_000, 5_000, 1_000))
async def test_nothing_that_was_answered_is_lost_in_a_hundred_power_failures(tmp_path: Path, seed: int) -> None:
    await _lose_power_in_rounds(tmp_path, 25, seed=seed)


@pytest.mark.parametrize("bug", ["no-sync", "no-database-sync"])
async def test_the_check_notices_a_sync_that_was_left_out(tmp_path: Path, bug: str) -> None:
    with pytest.raises((AssertionError, StoreCorrupt)):
        await _lose_power_in_rounds(tmp_path, 12, seed=7, bug=bug)
