"""Background work of a client: started by calls, ended with the client.

A TaskGroup would have to be left by the task that entered it; a client may be closed by any task of its loop.
"""

import asyncio
from collections.abc import Coroutine

__all__ = ["OwnedTasks"]

# Background work only closes connections when it is cancelled.
_CLOSE_TIMEOUT_S = 5.0


class OwnedTasks:
    """Whoever holds this owns the tasks: `aclose` cancels and awaits them. They report failures by their own means."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def start(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Raises: RuntimeError once closed."""
        if self._is_closed:
            work.close()
            raise RuntimeError("this client is closed")
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def aclose(self) -> None:
        """Idempotent."""
        self._is_closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=_CLOSE_TIMEOUT_S)
