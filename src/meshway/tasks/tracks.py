"""All tasks that this hub follows at the moment; one Track a task, so that each has one writer at a hub."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from meshway.engine.ports import FromLast, FromSequence, Log
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import EventWriter, event_of_entry
from meshway.tasks.follower import Outlet, TaskFollower
from meshway.tasks.picture import TaskPicture
from meshway.tasks.tokens import events_subject
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent

__all__ = ["TaskTracks"]

_PAGE = 1_000
# Tasks in memory, 2 to 20 KB each; those that somebody works on or follows come on top.
_TRACKS_CACHED = 1_000
# Idle ones looked at for one to forget; those at the front are the longest unused.
_LOOKS_MAX = 8


class TaskTracks:
    """`heard` is called with what was written of any task, in the same turn of the loop."""

    def __init__(self, log: Log, writer: EventWriter, *, tracks_cached: int = _TRACKS_CACHED) -> None:
        self._log = log
        self._writer = writer
        self._tracks_cached = tracks_cached
        self._tracks: OrderedDict[tuple[AgentId, TaskId], Track] = OrderedDict()
        self._loading: dict[tuple[AgentId, TaskId], asyncio.Lock] = {}
        self._heard: list[Callable[[Track, Sequence[TaskEvent]], None]] = []

    def __len__(self) -> int:
        return len(self._tracks)

    def on_written(self, listener: Callable[[Track, Sequence[TaskEvent]], None]) -> None:
        """Call `listener` for every event of every task once it is written. For life."""
        self._heard.append(listener)

    def new(self, agent_id: AgentId, task_id: TaskId, *, context_id: str) -> Track:
        """A task that has no events yet, as the caller knows: it has just made the id."""
        track = self._made(agent_id, task_id, context_id)
        self._tracks[agent_id, task_id] = track
        self._forget_some()
        return track

    def known(self, agent_id: AgentId, task_id: TaskId) -> Track | None:
        """The task if it is in memory and whole; None says nothing about whether it exists."""
        track = self._tracks.get((agent_id, task_id))
        if track is None or track.is_broken:
            return None
        self._tracks.move_to_end((agent_id, task_id))
        return track

    async def open(self, agent_id: AgentId, task_id: TaskId, *, context_id: str) -> Track:
        """The task with the end of its log; `last` 0 where nothing was written. Raises: EngineUnavailable."""
        track = self.known(agent_id, task_id)
        if track is not None:
            return track
        key = (agent_id, task_id)
        lock = self._loading.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                track = self.known(agent_id, task_id)
                if track is None:
                    track = await self._load(agent_id, task_id, context_id)
                return track
        finally:
            if not lock.locked():
                self._loading.pop(key, None)

    async def _load(self, agent_id: AgentId, task_id: TaskId, context_id: str) -> Track:
        key = (agent_id, task_id)
        track = self._tracks.get(key) or self._made(agent_id, task_id, context_id)
        await track.quiet()
        entries = await self._log.read(events_subject(agent_id, task_id), FromLast(1), limit=1)
        track.begin_after(event_of_entry(entries[0]) if entries else None)
        self._tracks[key] = track
        self._forget_some()
        return track

    def follow(self, track: Track, *, after: int, outlet: Outlet | None = None) -> TaskFollower:
        """Events from `after` + 1 on, but for those that `outlet` takes; close it."""
        return TaskFollower(track, self._log, after=after, outlet=outlet)

    async def events(self, track: Track, *, after: int = 0) -> Sequence[TaskEvent]:
        """All events written so far with numbers above `after`. Raises: EngineUnavailable."""
        if track.recent and track.recent[0].number <= after + 1:
            return [event for event in track.recent if event.number > after]
        found: list[TaskEvent] = []
        position, until = after, track.written
        while position < until:
            entries = await self._log.read(
                events_subject(track.agent_id, track.task_id), FromSequence(position + 1), limit=_PAGE
            )
            found += [event_of_entry(entry) for entry in entries if entry.sequence <= until]
            if not entries or entries[-1].sequence >= until:
                break
            position = entries[-1].sequence
        return found

    async def picture(self, track: Track) -> TaskPicture:
        """The task as its events written so far make it. Raises: EngineUnavailable."""
        return TaskPicture.of(event.body for event in await self.events(track))

    def _made(self, agent_id: AgentId, task_id: TaskId, context_id: str) -> Track:
        return Track(agent_id, task_id, context_id=context_id, writer=self._writer, heard=self._written)

    def _written(self, track: Track, events: Sequence[TaskEvent]) -> None:
        for listener in self._heard:
            listener(track, events)

    def _forget_some(self) -> None:
        for _ in range(_LOOKS_MAX):
            if len(self._tracks) <= self._tracks_cached:
                return
            key, track = self._tracks.popitem(last=False)
            if not track.is_idle:
                self._tracks[key] = track
