"""Ends of many waits behind one timer of the loop, in steps of 20 ms: ten thousand waiting calls are one timer."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

Waiting = TypeVar("Waiting")

# A wait of seconds that ends this much later is noticed by nobody.
_STEPS_PER_SECOND = 50


class Deadlines(Generic[Waiting]):
    """The loop's thread only. `expired` is told of each wait that ended, up to 20 ms late, never early."""

    def __init__(self, expired: Callable[[Waiting], None]) -> None:
        self._expired = expired
        self._by_step: dict[int, dict[Waiting, None]] = {}
        self._steps: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_step = 0

    def add(self, waiting: Waiting, until: float) -> int:
        """Tell when loop time `until` has come; the key to `discard` it by."""
        step = int(until * _STEPS_PER_SECOND) + 1
        members = self._by_step.get(step)
        if members is None:
            members = self._by_step[step] = {}
            heapq.heappush(self._steps, step)
            self._set_timer()
        members[waiting] = None
        return step

    def discard(self, waiting: Waiting, step: int) -> None:
        """It does not wait any more. The emptied step stays until its time: it is a few bytes."""
        members = self._by_step.get(step)
        if members is not None:
            members.pop(waiting, None)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._by_step.clear()
        self._steps.clear()

    def _set_timer(self) -> None:
        step = self._steps[0]
        if self._timer is not None:
            if self._timer_step <= step:
                return
            self._timer.cancel()
        self._timer_step = step
        self._timer = asyncio.get_running_loop().call_at(step / _STEPS_PER_SECOND, self._ring)

    def _ring(self) -> None:
        self._timer = None
        # uvloop's timers count whole milliseconds from a cached time and may ring a moment early.
        now = max(asyncio.get_running_loop().time() * _STEPS_PER_SECOND, self._timer_step)
        while self._steps and self._steps[0] <= now:
            for waiting in self._by_step.pop(heapq.heappop(self._steps)):
                self._expired(waiting)
        if self._steps and self._timer is None:
            self._set_timer()
