"""All tasks that this hub follows at the moment; one Track a task, so that each has one writer at a hub.

On an engine that hubs share, `run` hears everything that is written to any task, and gives the tracks what other hubs
wrote. A track that missed something, or was overtaken while it wrote, reads what it lacks from the log.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

from meshway.engine.ports import FromLast, FromNew, FromSequence, Log, LogEntry, SubscriptionLost
from meshway.kernel.errors import EngineError, EngineUnavailable
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import EventWriter, event_of_entry
from meshway.tasks.follower import Outlet, TaskFollower
from meshway.tasks.picture import TaskPicture
from meshway.tasks.tokens import ALL_EVENTS
from meshway.tasks.track import Track, TrackHooks
from meshway.tasks.values import TaskEvent

__all__ = ["TaskTracks"]

_log = logging.getLogger(__name__)

_PAGE = 1_000
# Tasks in memory, 2 to 20 KB each; those that somebody works on or follows come on top.
_TRACKS_CACHED = 1_000
# Idle ones looked at for one to forget; those at the front are the longest unused.
_LOOKS_MAX = 8
# Of other hubs' tasks, about 1 KB each: those of the last seconds, which somebody may ask for next.
_ELSEWHERE_MAX = 4_096
# How long a first event may take that is on its way: its accepting hub writes it in the same moment as the inbox.
_EXPECTED_WITHIN_S = 0.05
# Entries of one turn of the loop, and the wait before the tail of all tasks is opened again.
_TAKE_MAX = 1_000
_REOPEN_S = 0.2
# Replicas are behind for as long as a write takes; one that stays so is cut off.
_LAGGING_READS_MAX = 20
_LAGGING_PAUSE_S = 0.1


class TaskTracks:
    """Used from the event loop only; `run` is a duty of a hub whose engine is shared."""

    def __init__(self, log: Log, writer: EventWriter, *, tracks_cached: int = _TRACKS_CACHED) -> None:
        self._log = log
        self._writer = writer
        self._tracks_cached = tracks_cached
        self._tracks: OrderedDict[tuple[AgentId, TaskId], Track] = OrderedDict()
        self._loading: dict[tuple[AgentId, TaskId], asyncio.Lock] = {}
        # By the names their events have in the log: what other hubs wrote is looked up there.
        self._by_subject: dict[str, Track] = {}
        self._heard: list[Callable[[Track, Sequence[TaskEvent]], None]] = []
        self._heard_elsewhere: list[Callable[[Track, Sequence[TaskEvent]], None]] = []
        self._hooks = TrackHooks(self._written, self._absorbed, self._broke)
        # Tracks that somebody needs and that lack something: up to this number at least.
        self._behind: dict[Track, int] = {}
        # The last events of tasks that other hubs wrote to and this one does not follow: who follows one next, begins
        # there instead of reading. Behind the log by no more than the feed is.
        self._elsewhere: OrderedDict[str, LogEntry] = OrderedDict()
        self._is_behind = asyncio.Event()
        self._hears = False

    def __len__(self) -> int:
        return len(self._tracks)

    def on_written(self, listener: Callable[[Track, Sequence[TaskEvent]], None]) -> None:
        """Call `listener` for every event of every task once this hub has written it. For life."""
        self._heard.append(listener)

    def on_written_elsewhere(self, listener: Callable[[Track, Sequence[TaskEvent]], None]) -> None:
        """Call `listener` for every event that another hub wrote to a task that this one follows. For life."""
        self._heard_elsewhere.append(listener)

    async def run(self) -> None:
        """Hear what other hubs write, for ever."""
        self._hears = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mend_all())
            while True:
                try:
                    await self._hear()
                except (EngineError, SubscriptionLost) as error:
                    _log.warning("task_events_not_heard", extra={"reason": str(error)})
                await asyncio.sleep(_REOPEN_S)

    async def _hear(self) -> None:
        async with self._log.tail(ALL_EVENTS, FromNew()) as tail:
            # Whatever was written while nobody listened.
            self._elsewhere.clear()
            for track in self._tracks.values():
                self._lacks_something(track)
            while True:
                for entry in await tail.take(_TAKE_MAX):
                    self._heard_entry(entry)

    def _heard_entry(self, entry: LogEntry) -> None:
        if self._writer.is_own(entry.message_id):
            # Also behind what another hub wrote, where this one has written and forgotten the task since.
            self._elsewhere.pop(entry.subject, None)
            return
        track = self._by_subject.get(entry.subject)
        if track is None:
            self._elsewhere[entry.subject] = entry
            self._elsewhere.move_to_end(entry.subject)
            if len(self._elsewhere) > _ELSEWHERE_MAX:
                self._elsewhere.popitem(last=False)
            return
        if entry.sequence <= track.written:
            return
        if not track.absorb(event_of_entry(entry)):
            self._lacks_something(track, entry.sequence)

    def _broke(self, track: Track) -> None:
        self._lacks_something(track)

    def _lacks_something(self, track: Track, until: int = 0) -> None:
        if not self._hears:
            # Nobody else writes, and whoever asks for it next reads it.
            return
        track.lacks = max(until, track.lacks)
        if track.is_idle:
            track.outdate()
        else:
            self._behind[track] = max(until, self._behind.get(track, 0))
            self._is_behind.set()

    async def _mend_all(self) -> None:
        while True:
            await self._is_behind.wait()
            self._is_behind.clear()
            behind, self._behind = self._behind, {}
            for track, until in behind.items():
                try:
                    await self._mend(track, until)
                except EngineError as error:
                    _log.warning("task_not_read_anew", extra={"task": track.task_id, "reason": error.detail})
                    self._behind[track] = max(until, self._behind.get(track, 0))
            if self._behind:
                await asyncio.sleep(_REOPEN_S)
                self._is_behind.set()

    def new(self, agent_id: AgentId, task_id: TaskId, *, context_id: str, is_own_id: bool = False) -> Track:
        """A task that most likely has no events yet; `is_own_id`: certainly, for its id was made for this."""
        track = self._made(agent_id, task_id, context_id)
        track.is_new = is_own_id
        self._keep(track)
        return track

    def known(self, agent_id: AgentId, task_id: TaskId) -> Track | None:
        """The task if it is in memory and whole; None says nothing about whether it exists."""
        track = self._tracks.get((agent_id, task_id))
        if track is None or track.is_broken:
            return None
        self._tracks.move_to_end((agent_id, task_id))
        return track

    async def open(self, agent_id: AgentId, task_id: TaskId, *, context_id: str, is_expected: bool = False) -> Track:
        """The task with the end of its log; `last` 0 where nothing was written. Raises: EngineUnavailable.

        `is_expected`: another hub may be about to write its first event; it is waited for, a moment, before it is read.
        """
        track = self.known(agent_id, task_id)
        if track is not None:
            return track
        key = (agent_id, task_id)
        lock = self._loading.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                track = self.known(agent_id, task_id)
                if track is None:
                    track = await self._load(agent_id, task_id, context_id, is_expected=is_expected)
                return track
        finally:
            if not lock.locked():
                self._loading.pop(key, None)

    async def catch_up(self, track: Track) -> None:
        """Bring it up to the end of its log now, for somebody knows more than this hub has heard of it.

        Raises: EngineUnavailable.
        """
        if self._hears:
            await self._mend(track)

    async def _load(self, agent_id: AgentId, task_id: TaskId, context_id: str, *, is_expected: bool) -> Track:
        track = self._tracks.get((agent_id, task_id))
        if track is not None:
            await self._mend(track)
            return track
        track = self._made(agent_id, task_id, context_id)
        heard = self._elsewhere.pop(track.subject, None)
        if heard is not None:
            track.begin_after(event_of_entry(heard))
            self._keep(track)
            return track
        # Before it is read: what another hub writes meanwhile finds it.
        self._by_subject[track.subject] = track
        track.pins += 1
        try:
            if is_expected and self._hears:
                await self._begun(track)
            entries = () if track.written else await self._log.read(track.subject, FromLast(1), limit=1)
        except BaseException:
            del self._by_subject[track.subject]
            raise
        finally:
            track.pins -= 1
        if entries and entries[0].sequence > track.written:
            track.begin_after(event_of_entry(entries[0]))
        self._keep(track)
        return track

    async def _begun(self, track: Track) -> None:
        """Until another hub's first event is heard, for a moment."""
        begun = asyncio.Event()

        def listener(track: Track, events: Sequence[TaskEvent]) -> None:
            begun.set()

        track.listen(listener)
        try:
            async with asyncio.timeout(_EXPECTED_WITHIN_S):
                await begun.wait()
        except TimeoutError:
            pass
        finally:
            track.unlisten(listener)

    async def _mend(self, track: Track, until: int = 0) -> None:
        """Bring a track up to the end of its log; those who listen hear what they missed. Raises: EngineUnavailable.

        `until`: an event that is known to be there, though a replica that lags may not have it yet.
        """
        await track.quiet()
        until = max(until, track.lacks)
        known = track.written
        last = await self._log.read(track.subject, FromLast(1), limit=1)
        # With the last event that is known: what was numbered behind it was not written.
        pages = self._pages(track.subject, max(known, 1), max(until, last[0].sequence if last else 0))
        first = await anext(pages, None) or ()
        if track.is_broken:
            track.begin_after(event_of_entry(first[0]) if known and first else None)
        for entry in first:
            track.absorb(event_of_entry(entry))
        async for entries in pages:
            for entry in entries:
                track.absorb(event_of_entry(entry))
        if track.written >= track.lacks:
            track.lacks = 0

    async def _pages(self, subject: str, first: int, until: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        """The entries of these numbers, of which the last is known to be there. Raises: EngineUnavailable.

        Stores of many replicas may answer from one that has not heard of the last entries yet: then it is read again.
        """
        lagging = 0
        while first <= until:
            entries = await self._log.read(subject, FromSequence(first), limit=_PAGE)
            if entries:
                yield [entry for entry in entries if entry.sequence <= until]
                first = entries[-1].sequence + 1
            elif lagging < _LAGGING_READS_MAX:
                lagging += 1
                await asyncio.sleep(_LAGGING_PAUSE_S)
            else:
                raise EngineUnavailable("The store does not show the last events of the task yet; try again.")

    def follow(self, track: Track, *, after: int, outlet: Outlet | None = None) -> TaskFollower:
        """Events from `after` + 1 on, but for those that `outlet` takes; close it."""
        return TaskFollower(track, self._log, after=after, outlet=outlet)

    async def events(self, track: Track, *, after: int = 0) -> Sequence[TaskEvent]:
        """All events written so far with numbers above `after`. Raises: EngineUnavailable."""
        if track.recent and track.recent[0].number <= after + 1:
            return [event for event in track.recent if event.number > after]
        return [
            event_of_entry(entry)
            async for entries in self._pages(track.subject, after + 1, track.written)
            for entry in entries
        ]

    async def picture(self, track: Track) -> TaskPicture:
        """The task as its events written so far make it. Raises: EngineUnavailable."""
        return TaskPicture.of(event.body for event in await self.events(track))

    def _made(self, agent_id: AgentId, task_id: TaskId, context_id: str) -> Track:
        return Track(agent_id, task_id, context_id=context_id, writer=self._writer, hooks=self._hooks)

    def _written(self, track: Track, events: Sequence[TaskEvent]) -> None:
        for listener in self._heard:
            listener(track, events)

    def _absorbed(self, track: Track, events: Sequence[TaskEvent]) -> None:
        for listener in self._heard_elsewhere:
            listener(track, events)

    def _keep(self, track: Track) -> None:
        self._tracks[track.agent_id, track.task_id] = track
        self._by_subject[track.subject] = track
        for _ in range(_LOOKS_MAX):
            if len(self._tracks) <= self._tracks_cached:
                return
            key, oldest = self._tracks.popitem(last=False)
            if oldest.is_idle:
                del self._by_subject[oldest.subject]
            else:
                self._tracks[key] = oldest
