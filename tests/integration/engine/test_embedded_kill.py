"""kill -9 at any moment: what was answered is there, sequences are whole, and what was held is still held."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
from crash_checker import Answered
from crash_writer import SETTINGS

from meshway.engine.embedded import open_embedded_engine
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

WRITER = Path(__file__).with_name("crash_writer.py")


async def _write_until_killed(folder: Path, seed: int, answered: Answered, chance: random.Random) -> int:
    """How many answers were heard."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, str(WRITER), str(folder), str(seed), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    heard = 0
    kill_after = chance.choice([1, 20, 300, 1_500, 4_000])
    try:
        async with asyncio.timeout(30):
            while heard < kill_after:
                line = await writer.stdout.readline()
                assert line, "the writer ended by itself"
                answered.hear(line.decode())
                heard += 1
    finally:
        writer.send_signal(signal.SIGKILL)
    # What it said before it died counts, but for a line cut off by its death.
    for line in (await writer.stdout.read()).decode().splitlines(keepends=True):
        if line.endswith("\n"):
            answered.hear(line)
    await writer.wait()
    return heard


async def _kill_in_rounds(folder: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    answered = Answered()
    for number in range(rounds):
        await _write_until_killed(folder, number, answered, chance)
        engine = await open_embedded_engine(folder, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
        try:
            await answered.check(engine)
        finally:
            await engine.close()
    assert answered.entries
    assert answered.acked


async def test_nothing_that_was_answered_is_lost_when_the_hub_is_killed(tmp_path: Path) -> None:
    await _kill_in_rounds(tmp_path, 10, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_was_answered_is_lost_in_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    await _kill_in_rounds(tmp_path, 25, seed=100 + seed)


@pytest.mark.parametrize(
    "lie",
    [
        "log log.0 999999 1 never-written",
        "queued never-written",
        "kv kv.never never-written 1",
        "mortal never-written",
    ],
)
async def test_the_check_notices_an_answer_that_was_not_kept(tmp_path: Path, lie: str) -> None:
    answered = Answered()
    await _write_until_killed(tmp_path, 1, answered, random.Random(5))
    answered.hear(lie)
    engine = await open_embedded_engine(tmp_path, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
    try:
        with pytest.raises(AssertionError):
            await answered.check(engine)
    finally:
        await engine.close()
