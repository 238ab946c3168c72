"""Back-pressure of one connection's writing side."""

import asyncio

__all__ = ["WriteFlow"]


class WriteFlow:
    """Told by the transport when its buffer is above or below the high-water mark."""

    __slots__ = ("_loop", "_waiter", "paused", "paused_since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.paused = False
        self.paused_since = 0.0

    def now(self) -> float:
        return self._loop.time()

    def pause(self) -> None:
        self.paused = True
        self.paused_since = self._loop.time()

    def resume(self) -> None:
        """Also called when the connection is lost, so that nobody waits for a client that is gone."""
        self.paused = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None

    async def drained(self) -> None:
        if not self.paused:
            return
        if self._waiter is None:
            self._waiter = self._loop.create_future()
        await asyncio.shield(self._waiter)
