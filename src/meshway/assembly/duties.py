"""The owner of the hub's background duties: each runs until the hub closes, and is started again when it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog

from meshway.kernel.errors import EngineError

__all__ = ["Duties"]

_log = structlog.get_logger()

# A duty that fails at once must not spin; one that failed by bad luck should be back soon.
_RESTART_PAUSE_S = 1.0


def _engine_errors(error: Exception) -> str | None:
    """What the engine said, where nothing else is wrong."""
    if isinstance(error, EngineError):
        return error.detail
    if isinstance(error, ExceptionGroup):
        found = [_engine_errors(each) for each in error.exceptions]
        if all(each is not None for each in found):
            return found[0]
    return None


class Duties:
    """Use as an async context manager around the hub's life."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Duties":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """Run `duty` until the hub closes; a duty that returns has nothing to do and is done."""
        self._tasks.append(self._group.create_task(self._keep_running(name, duty), name=f"duty-{name}"))

    async def _keep_running(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await duty()
            except Exception as error:  # noqa: BLE001  the boundary of a duty: one failure must not end the hub
                away = _engine_errors(error)
                if away is None:
                    _log.error("duty_failed", duty=name, exc_info=error)
                else:
                    # It goes on where it was as soon as the engine is back.
                    _log.warning("duty_waits_for_engine", duty=name, reason=away)
                await asyncio.sleep(_RESTART_PAUSE_S)
            else:
                return
