"""Follows one task from a number on: what is past from the log, what comes from memory, and back when it is slow."""

import asyncio
from collections import deque
from collections.abc import Sequence

from meshway.engine.ports import FromSequence, Log
from meshway.tasks.event_writer import event_of_entry
from meshway.tasks.tokens import events_subject
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent

__all__ = ["TaskFollower"]

# What a follower may be behind in memory; one that is slower reads the log instead.
_BUFFER_EVENTS_MAX = 256
_BUFFER_BYTES_MAX = 1_048_576
_PAGE = 256


class TaskFollower:
    """Events after `after`, each once, in order. One reader at a time; `close` it, or use it as `with`."""

    def __init__(self, track: Track, log: Log, *, after: int) -> None:
        self._track = track
        self._log = log
        # The number of the last event that was given out.
        self.position = after
        self._buffer: deque[TaskEvent] = deque()
        self._buffer_bytes = 0
        # Whether everything from `position` on is in the buffer or still to come.
        self._is_live = False
        self._waiter: asyncio.Future[None] | None = None
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

    async def take(self) -> Sequence[TaskEvent]:
        """Wait for at least one event, then all that are at hand (bounded). Raises: EngineUnavailable."""
        while not (taken := await self.take_or_nudge()):
            pass
        return taken

    async def take_or_nudge(self) -> Sequence[TaskEvent]:
        """The same; nothing where the track was nudged while there was nothing. Raises: EngineUnavailable."""
        while True:
            if self._buffer:
                taken = tuple(self._buffer)
                self._buffer.clear()
                self._buffer_bytes = 0
                self.position = taken[-1].number
                return taken
            if not self._is_live:
                page = await self._read()
                if page:
                    return page
                continue
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
        start = FromSequence(self.position + 1)
        entries = await self._log.read(events_subject(track.agent_id, track.task_id), start, limit=_PAGE)
        # What another call has written is only shown here once this hub knows that it is written.
        events = [event_of_entry(entry) for entry in entries if entry.sequence <= max(track.written, self.position)]
        if events:
            self.position = events[-1].number
        self._begin_live()
        if not events and not self._is_live:
            # Trimmed away: nothing is there up to what is written now.
            self.position = max(self.position, track.written)
            self._is_live = True
        return events

    def _heard(self, track: Track, events: Sequence[TaskEvent]) -> None:
        if not self._is_live:
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

    def _put(self, event: TaskEvent) -> None:
        self._buffer.append(event)
        self._buffer_bytes += len(event.body)
