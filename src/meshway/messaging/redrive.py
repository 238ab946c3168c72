"""Redrives that go on after their request was answered: one owner for all of them."""

from meshway.engine.ports import QueueAdmin
from meshway.kernel.clock import Clock

__all__ = ["Redrives"]


class Redrives:
    """A hub that stops leaves the rest among the dead letters. Used from the event loop only."""

    def __init__(self, queue_admin: QueueAdmin, *, clock: Clock) -> None:
        self._queue_admin = queue_admin
        self._clock = clock

    async def run(self) -> None:
        """The duty; until cancelled."""
