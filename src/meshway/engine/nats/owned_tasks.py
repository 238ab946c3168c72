"""Background work of the ports: started by calls, ended with the engine."""

import asyncio
import logging
from collections.abc import Coroutine

__all__ = ["OwnedTasks"]

_log = logging.getLogger(__name__)

# What is cancelled only gives back what it holds.
_CLOSE_TIMEOUT_S = 5.0


class OwnedTasks:
    """Whoever holds this owns the tasks: `close` cancels and awaits them. A defect is logged and ends only its task."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def start(self, work: Coroutine[object, object, None], *, name: str) -> None:
        """Once closed it does not begin."""
        if self._is_closed:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Idempotent."""
        self._is_closed = True
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CLOSE_TIMEOUT_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("nats_work_failed", extra={"work": task.get_name()}, exc_info=error)
