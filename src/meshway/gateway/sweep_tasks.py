"""The duty that drops events of tasks whose records are gone: their time is over."""

import asyncio
import logging

from meshway.engine.ports import FromLast, Log, LogTrim
from meshway.kernel.clock import Clock
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import AgentId
from meshway.tasks.owners import TaskOwners

__all__ = ["SweepTasks"]

_log = logging.getLogger(__name__)

_PATTERN = "task.>"
_PAGE = 200
# What is late costs disk space and nothing else.
_INTERVAL_S = 600.0
# A breath between two pages: the sweep has all the time there is.
_PAUSE_S = 0.05
# Younger events may belong to a task whose record is on its way.
_YOUNG_MS = 60_000


class SweepTasks:
    """`run` is a duty of the hub."""

    def __init__(self, log: Log, owners: TaskOwners, clock: Clock) -> None:
        self._log = log
        self._owners = owners
        self._clock = clock

    async def run(self) -> None:
        """Sweep now and then, for ever."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self.sweep()
            except MeshwayError as error:
                _log.warning("tasks_not_swept", extra={"reason": error.detail})

    async def sweep(self) -> int:
        """Look at every task once; how many were dropped. Raises: EngineUnavailable."""
        dropped = 0
        after: str | None = None
        while True:
            subjects = await self._log.subjects(_PATTERN, after=after, limit=_PAGE)
            if not subjects:
                return dropped
            gone = await self._owners.without_record([_key_of(subject) for subject in subjects])
            for subject in subjects:
                if _key_of(subject) in gone and await self._is_old(subject):
                    await self._log.trim([LogTrim(subject=subject, keep_count=0)])
                    dropped += 1
            after = subjects[-1]
            await asyncio.sleep(_PAUSE_S)

    async def _is_old(self, subject: str) -> bool:
        entries = await self._log.read(subject, FromLast(1), limit=1)
        return bool(entries) and entries[0].timestamp_ms < self._clock.now_ms() - _YOUNG_MS


def _key_of(subject: str) -> tuple[AgentId, str]:
    """Agent and token of the task."""
    _, agent_id, token = subject.split(".", 2)
    return AgentId(agent_id), token
