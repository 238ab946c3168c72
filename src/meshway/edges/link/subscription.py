"""One subscription of a connection: its credit, and how much it takes at a time."""

import asyncio
from typing import Generic, TypeVar

from meshway.edges.http.sockets import Socket
from meshway.edges.link.limits import BATCH_BYTES_TARGET, BATCH_MAX, CREDIT_MAX
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.protocols.link.frames import Serve, Subscribe

__all__ = ["Subscription"]

Asked = TypeVar("Asked", bound=Subscribe | Serve)

# Nothing is known of the sizes yet.
_FIRST_BATCH = 32


class Subscription(Generic[Asked]):
    """`frame` is how it was asked for. Credit not granted is never used: what is taken is sent, so nothing is taken."""

    __slots__ = ("_batch", "_credit", "_waiter", "frame", "has_begun", "is_leaving", "task")

    def __init__(self, frame: Asked) -> None:
        """Raises: InvalidRequest naming `credit`."""
        self.frame = frame
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.is_leaving = False
        self._credit = 0
        self._batch = _FIRST_BATCH
        self._waiter: asyncio.Future[None] | None = None
        if frame.credit:
            self.grant(frame.credit, field="credit")

    def grant(self, messages: int, *, field: str = "messages") -> None:
        """Raises: InvalidRequest naming `field`; the credit stays as it was."""
        if messages < 1 or self._credit + messages > CREDIT_MAX:
            text = f"must be at least 1, and at most {CREDIT_MAX} with the {self._credit} that are open"
            raise InvalidRequest(f"{field}: {text}", fields=[FieldError(field, text)])
        self._credit += messages
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def demand(self, socket: Socket) -> int:
        """How many to take now, once there is credit and the client takes what was sent before."""
        while True:
            if socket.must_drain:
                await socket.drain()
            elif self._credit:
                return min(self._credit, self._batch)
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def spend(self, messages: int, *, documents_bytes: int) -> None:
        """So many were sent. The next batch is as large as fits the target, growing at most twofold."""
        self._credit -= messages
        if messages:
            fitting = BATCH_BYTES_TARGET * messages // (documents_bytes + 1)
            self._batch = max(1, min(fitting, 2 * self._batch, BATCH_MAX))
