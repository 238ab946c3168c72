"""Follows one task from a number on: what is past from the log, what comes from memory, and back when it is slow."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from meshway.engine.ports import FromLast, FromSequence, Log
from meshway.kernel.errors import EngineUnavailable
from meshway.tasks.event_writer import event_of_entry
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent

__all__ = ["Outlet", "TaskFollower"]

# What a follower may be behind in memory; one that is slower reads the log instead.
_BUFFER_EVENTS_MAX = 256
_BUFFER_BYTES_MAX = 1_048_576
_PAGE = 256
# Replicas are behind for as long as a write takes; one that stays so is cut off.
_LAGGING_READS_MAX = 50
_LAGGING_PAUSE_S = 0.1

# Takes an event straight away, or says no: then it comes the usual way. Called in the turn of the loop in which it is
# written, only while a reader waits, and never with an event that ends a turn. Raises nothing.
Outlet = Callable[[TaskEvent], bool]


class TaskFollower:
    """Events after `after`, each once, in order. One reader at a time; `close` it, or use it as `with`."""

    def __init__(self, track: Track, log: Log, *, after: int, outlet: Outlet | None = None) -> None:
        """`outlet` is given what it takes in place of the reader, who is not woken for it."""
        self._track = track
        self._log = log
        # The number of the last event that was given out.
        self.position = after
        self._buffer: deque[TaskEvent] = deque()
        self._buffer_bytes = 0
        # Whether everything from `position` on is in the buffer or still to come.
        self._is_live = False
        self._waiter: asyncio.Future[None] | None = None
        self._outlet = outlet
        self._lagging_reads = 0
        # Asked for once: it is a system call on Python 3.11 (getpid), and each event would make it.
        self._loop = asyncio.get_running_loop()
        track.listen(self._heard)
        self._begin_live()

    def __enter__(self) -> "TaskFollower":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Follow no more. Idempotent."""
        self._track.unlisten(self._heard)
        self._buffer.clear()

    @property
    def has_all(self) -> bool:
        """Whether everything that is written was given out."""
        return self.position >= self._track.written

    async def take(self) -> Sequence[TaskEvent]:
        """Wait for at least one event, then all that are at hand (bounded). Raises: EngineUnavailable.

        Nothing where the track was nudged while there was nothing, or what was to come is no longer kept.
        """
        while True:
            if self._buffer:
                taken = tuple(self._buffer)
                self._buffer.clear()
                self._buffer_bytes = 0
                self.position = taken[-1].number
                return taken
            if not self._is_live:
                return await self._read()
            self._waiter = self._loop.create_future()
            await self._waiter
            if not self._buffer and self._is_live:
                return ()

    def _begin_live(self) -> None:
        """Live is whoever lacks nothing that memory does not have."""
        track = self._track
        if track.written <= self.position:
            self._is_live = True
        elif track.recent and track.recent[0].number <= self.position + 1:
            self._is_live = True
            for event in track.recent:
                if event.number > self.position:
                    self._put(event)

    async def _read(self) -> Sequence[TaskEvent]:
        track = self._track
        entries = await self._log.read(track.subject, FromSequence(self.position + 1), limit=_PAGE)
        # What another call has written is only shown here once this hub knows that it is written.
        events = [event_of_entry(entry) for entry in entries if entry.sequence <= max(track.written, self.position)]
        if events:
            self.position = events[-1].number
            self._lagging_reads = 0
        self._begin_live()
        if not events and not self._is_live:
            await self._look_for_end()
        return events

    async def _look_for_end(self) -> None:
        """Nothing was found up to what is written now: it is trimmed away, or the store answered from a replica that
        has not heard of it yet; then the reader asks again. Raises: EngineUnavailable."""
        written = self._track.written
        if await self._log.read(self._track.subject, FromLast(1), limit=1):
            self._lagging_reads += 1
            if self._lagging_reads > _LAGGING_READS_MAX:
                raise EngineUnavailable("The store does not show the last events of the task yet; try again.")
            await asyncio.sleep(_LAGGING_PAUSE_S)
            return
        self.position = max(self.position, written)
        self._is_live = True

    def _heard(self, track: Track, events: Sequence[TaskEvent]) -> None:
        if not self._is_live or (events and self._passes_on(events)):
            return
        for event in events:
            if event.number > self.position:
                self._put(event)
        if len(self._buffer) > _BUFFER_EVENTS_MAX or self._buffer_bytes > _BUFFER_BYTES_MAX:
            self._buffer.clear()
            self._buffer_bytes = 0
            self._is_live = False
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _passes_on(self, events: Sequence[TaskEvent]) -> bool:
        """Whether the outlet took the only event there is. Who waits has given out all that came before."""
        event, waiter = events[0], self._waiter
        if self._outlet is None or waiter is None or waiter.done() or len(events) > 1 or self._buffer:
            return False
        if event.number <= self.position or event.state.ends_turn or not self._outlet(event):
            return False
        self.position = event.number
        return True

    def _put(self, event: TaskEvent) -> None:
        self._buffer.append(event)
        self._buffer_bytes += len(event.body)
