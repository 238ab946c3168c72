"""The beginning of the hub's shutdown, as waiting handlers hear of it: feeds and long polls end at once.

What runs goes on to the bound of the drain; only what waits for something that may never come is ended here.
"""

import asyncio
from types import TracebackType

__all__ = ["DrainSignal", "UntilDrain"]


class DrainSignal:
    """Given once in the life of a server."""

    def __init__(self) -> None:
        self.is_given = False
        self._waits: set[UntilDrain] = set()

    @property
    def waits(self) -> int:
        """Blocks under way."""
        return len(self._waits)

    def give(self) -> None:
        """From now on nothing should begin to wait. Only sets a flag: a signal's handler may call it."""
        self.is_given = True

    def end_waits(self) -> None:
        """End every block under way."""
        self.is_given = True
        for wait in tuple(self._waits):
            wait.end()

    def join(self, wait: "UntilDrain") -> None:
        self._waits.add(wait)

    def leave(self, wait: "UntilDrain") -> None:
        self._waits.discard(wait)


class UntilDrain:
    """`with until_drain() as wait:` runs its block until the hub drains; `wait.ended` says then that it did not finish.

    Works as asyncio.timeout does: the task is cancelled and the cancellation stays in here, while one from outside (the
    client left) goes on. Entered once drain has begun, the block runs until it first waits.
    """

    __slots__ = ("_cancelling", "_signal", "_task", "ended")

    def __init__(self, signal: DrainSignal) -> None:
        self._signal = signal
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.ended = False

    def __enter__(self) -> "UntilDrain":
        task = asyncio.current_task()
        assert task is not None, "handlers run in the task of their connection"
        self._task = task
        self._cancelling = task.cancelling()
        self._signal.join(self)
        if self._signal.is_given:
            self.end()
        return self

    def end(self) -> None:
        if not self.ended and self._task is not None:
            self.ended = True
            self._task.cancel("the hub is shutting down")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._signal.leave(self)
        if not self.ended or self._task is None:
            return False
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
