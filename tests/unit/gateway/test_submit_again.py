"""A submission that is repeated before the store has said what became of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from meshway.engine.ports import LogAppend, LogOutcome
from meshway.testing.clock import ManualClock
from support.task_rig import task_rig

# Enough turns of the loop for everything that does not wait for the store.
_A_WHILE_S = 0.1


async def test_it_is_answered_once_the_first_event_is_written(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client gave up, or was told that nobody knows: the task is there under its id, or it is made."""
    async with task_rig(tmp_path, clock) as rig:
        answers = asyncio.Event()
        really = rig.writer._append

        async def append(entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
            await answers.wait()
            return await really(entries)

        monkeypatch.setattr(rig.writer, "_append", append)
        first = asyncio.ensure_future(rig.submitted("5", idempotency_key="k"))
        await asyncio.sleep(_A_WHILE_S)
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.ensure_future(rig.submitted("5", idempotency_key="k"))
        await asyncio.sleep(_A_WHILE_S)
        assert not again.done()
        answers.set()
        shown = (await again).shown
        task = msgspec.json.decode(shown.task)
        assert (task["id"], task["status"]["state"]) == (shown.owner.task_id, "TASK_STATE_SUBMITTED")
        assert await rig.states_of(task["id"]) == ["SUBMITTED"]
