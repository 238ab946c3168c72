"""The engine's background duties on the loop: what is due becomes due, what has expired goes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from meshway.kernel.errors import EngineUnavailable, LimitError

__all__ = ["Duties"]

_log = structlog.get_logger()


class Duties:
    """Owns one task with a group of them inside; `close` ends and awaits it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, duties: Mapping[str, tuple[Callable[[], Awaitable[None]], int]]) -> None:
        """Begin each duty: by name, what to do, and how many milliseconds to wait before each time."""
        self._task = asyncio.create_task(self._run(duties), name="meshway-engine-duties")

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, duties: Mapping[str, tuple[Callable[[], Awaitable[None]], int]]) -> None:
        async with asyncio.TaskGroup() as group:
            for name, (duty, pause_ms) in duties.items():
                group.create_task(self._repeat(name, duty, pause_ms), name=f"meshway-engine-{name}")

    async def _repeat(self, name: str, duty: Callable[[], Awaitable[None]], pause_ms: int) -> None:
        while True:
            await asyncio.sleep(pause_ms / 1000)
            try:
                await duty()
            except (EngineUnavailable, LimitError) as error:
                # The writer has said why; the next round tries again.
                _log.debug("engine_duty_postponed", duty=name, reason=error.detail)
            except Exception as error:  # noqa: BLE001 - boundary: a defect in one round must not end the duty for ever
                _log.error("engine_duty_failed", duty=name, error=repr(error), exc_info=error)
