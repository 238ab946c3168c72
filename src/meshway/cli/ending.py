"""How commands that go on for ever end: Ctrl-C and SIGTERM leave the block they guard, as a return and no error."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["Ending"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """`with Ending() as ending:` inside the task that is to end. `is_asked` says afterwards how it ended."""

    def __init__(self) -> None:
        self.is_asked = False
        self._is_deferred = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> "Ending":
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        loop, task = asyncio.get_running_loop(), self._task
        # A signal that comes from here on finds nothing to end.
        self._task = None
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if not self.is_asked or not isinstance(error, asyncio.CancelledError) or task is None:
            return False
        # Our own, of the signal: it ends here.
        task.uncancel()
        return True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A step to finish first: a signal inside only sets `is_asked`, a second one does not wait."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _ask(self) -> None:
        waits = self._is_deferred and not self.is_asked
        self.is_asked = True
        if not waits and self._task is not None:
            self._task.cancel()
