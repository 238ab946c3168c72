"""Brings records up to the events of the hub's own tasks, and takes turns that ended out of their inboxes.

In this order, for a crash between the two: a turn that is still in its inbox is looked at again, and what its record
lacks is made good. Many at once; what comes while one write is under way goes into the next.
"""

import asyncio
import logging

from meshway.engine.ports import Ack
from meshway.kernel.errors import MeshwayError
from meshway.tasks.inbox import Inbox
from meshway.tasks.owners import TaskOwners
from meshway.tasks.values import TaskOwner

__all__ = ["TurnCloser"]

_log = logging.getLogger(__name__)

# Turns of one settlement.
_BATCH_MAX = 1_000
# After a failure: the disk is full, or the engine away; nothing is lost meanwhile.
_RETRY_S = 0.5


class TurnCloser:
    """`run` is a duty of the hub."""

    def __init__(self, owners: TaskOwners, inbox: Inbox) -> None:
        self._owners = owners
        self._inbox = inbox
        self._ended: list[str] = []
        self._work = asyncio.Event()

    def keep(self, owner: TaskOwner) -> None:
        """Store this record soon."""
        self._owners.keep(owner)
        self._work.set()

    def close(self, engine_id: str) -> None:
        """The turn of this hand-out has ended, and its record was kept: out of the inbox with it."""
        self._ended.append(engine_id)
        self._work.set()

    async def run(self) -> None:
        """Write and settle for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self.flush()
            except MeshwayError as error:
                _log.warning("task_turns_not_closed", extra={"turns": len(self._ended), "reason": error.detail})
                await asyncio.sleep(_RETRY_S)
                self._work.set()

    async def flush(self) -> None:
        """Write and settle what there is. Raises: StorageFull, EngineUnavailable; then it is kept for the next time."""
        ended = self._ended[:_BATCH_MAX]
        await self._owners.write_kept()
        if ended:
            # Stale ones are handed out once more and found to have ended.
            await self._inbox.settle([Ack(delivery_id=engine_id) for engine_id in ended])
            del self._ended[: len(ended)]
        if self._ended:
            self._work.set()
