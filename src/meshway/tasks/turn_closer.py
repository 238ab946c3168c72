"""Brings records up to the events of tasks, and takes away what says that a turn or a stream is under way.

In this order, for a crash between the two: a turn that is still in its inbox, or a stream that still has its mark, is
looked at again, and what its record lacks is made good. Nobody waits for any of it, so what comes within a tenth of a
second is written together; but the first record of a task, without which nobody finds it after a crash, at once.
"""

import asyncio
import logging

from meshway.engine.ports import Ack, Durability, KvDelete
from meshway.kernel.errors import MeshwayError
from meshway.tasks.inbox import Inbox
from meshway.tasks.owners import TaskOwners
from meshway.tasks.values import TaskOwner, TaskSeen

__all__ = ["TurnCloser"]

_log = logging.getLogger(__name__)

# Turns of one settlement.
_BATCH_MAX = 1_000
# A write of the store costs as much as thirty records in it, and a short task is stored once, as it ended. After a
# crash the events and the inbox say what is lacking.
_GATHER_S = 0.100
# First records gather too, but no longer than their tasks' first events take.
_GATHER_NEW_S = 0.003
# After a failure: the disk is full, or the engine away; nothing is lost meanwhile.
_RETRY_S = 0.5


class TurnCloser:
    """`run` and `run_new` are duties of the hub."""

    def __init__(self, owners: TaskOwners, inbox: Inbox) -> None:
        self._owners = owners
        self._inbox = inbox
        self._ended: list[str] = []
        # Marks of streams that are over.
        self._marks: dict[str, None] = {}
        self._work = asyncio.Event()
        self._new: list[TaskOwner] = []
        self._new_work = asyncio.Event()

    def keep_new(self, owner: TaskOwner) -> None:
        """Store the first record of a task now."""
        self._owners.keep(owner)
        self._new.append(owner)
        self._new_work.set()

    def keep(self, owner: TaskOwner) -> None:
        """Store this record soon."""
        self._owners.keep(owner)
        self._work.set()

    def keep_status(self, owner: TaskOwner, seen: TaskSeen, now_ms: int) -> TaskOwner:
        """See TaskOwners.keep_status; stored soon."""
        followed = self._owners.keep_status(owner, seen, now_ms)
        if followed is not owner:
            self._work.set()
        return followed

    def close(self, engine_id: str) -> None:
        """The turn of this hand-out has ended, and its record was kept: out of the inbox with it."""
        self._ended.append(engine_id)
        self._work.set()

    def unmark(self, key: str) -> None:
        """The stream whose mark is under this key of the KeyValue is over, and its record was kept."""
        self._marks[key] = None
        self._work.set()

    def leave_mark(self, key: str) -> None:
        """It is put there anew: leave it."""
        self._marks.pop(key, None)

    async def run(self) -> None:
        """Write and settle for ever."""
        while True:
            await self._work.wait()
            await asyncio.sleep(_GATHER_S)
            self._work.clear()
            try:
                await self.flush()
            except MeshwayError as error:
                _log.warning("task_turns_not_closed", extra={"turns": len(self._ended), "reason": error.detail})
                await asyncio.sleep(_RETRY_S)
                self._work.set()

    async def run_new(self) -> None:
        """Write first records for ever; what fails is left to `run`."""
        while True:
            await self._new_work.wait()
            await asyncio.sleep(_GATHER_NEW_S)
            self._new_work.clear()
            new, self._new = self._new, []
            try:
                await self._owners.write_kept_of(new, are_new=True)
            except MeshwayError as error:
                _log.warning("task_records_not_stored", extra={"tasks": len(new), "reason": error.detail})
                self._work.set()

    async def flush(self) -> None:
        """Write and settle what there is. Raises: StorageFull, EngineUnavailable; then it is kept for the next time."""
        ended = self._ended[:_BATCH_MAX]
        # Forgotten before they are deleted: one that is put anew meanwhile is put behind that. What a failure leaves is
        # found at the next start to be over.
        marks, self._marks = self._marks, {}
        await self._owners.write_kept([KvDelete(key=key, durability=Durability.LAZY) for key in marks])
        if ended:
            # Stale ones are handed out once more and found to have ended.
            await self._inbox.settle([Ack(delivery_id=engine_id) for engine_id in ended])
            del self._ended[: len(ended)]
        if self._ended:
            self._work.set()
