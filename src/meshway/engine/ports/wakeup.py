"""One reader that waits for its buffer to fill: a single future, made only when it really waits."""

import asyncio

__all__ = ["Wakeup"]


class Wakeup:
    """The loop's thread only; one waiter at a time. Calls of `set` while nobody waits cost next to nothing."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the reader if it waits; it looks at its buffer itself, so nothing is remembered."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until the next `set`. Whoever calls this has found its buffer empty since it last gave way to the loop."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("one reader at a time: another call already waits on this subscription")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
