"""Streams of agents, read to their end whoever listens: each event is numbered and written, then shown.

    streaming -- broke mid-task --> reattaching -- the agent streams again --> streaming
        |                               |-- it only answers --> polling --> ended
        '-- the turn ended --> over     '-- away for too long --> interrupted

A pump that runs has a mark (`pump_marks.py`): a hub that starts, or hears that another is lost, reattaches to what it
finds there. The stream that another hub reads has a pump here too as soon as somebody needs it, which only watches: the
events come by the log, and the reading becomes its own when that hub is lost.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from meshway.engine.ports import KvEntry, KvWrite
from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.patience import Patience
from meshway.gateway.ports import AgentStream, StreamEvent
from meshway.gateway.pump_marks import PumpMarks
from meshway.gateway.pump_values import NotKept, Pump, ReadElsewhere, is_task, state_after, state_of, task_of
from meshway.kernel.clock import Clock
from meshway.kernel.errors import (
    AgentNotFound,
    EngineUnavailable,
    LimitError,
    MeshwayError,
    OperationUnsupported,
    TaskNotFound,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnreachable,
)
from meshway.kernel.ids import AgentId, TaskId, new_id
from meshway.tasks import event_bodies
from meshway.tasks.follower import Outlet
from meshway.tasks.missed_events import is_said_again, missed_events, repeats_the_end
from meshway.tasks.owners import TaskOwners
from meshway.tasks.picture import TaskPicture
from meshway.tasks.settings import TaskSettings
from meshway.tasks.track import Draft, Track
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.turn_closer import TurnCloser
from meshway.tasks.values import TaskEvent, TaskOwner, TaskSeen, TaskState

__all__ = ["Pump", "TaskPumps"]

_log = logging.getLogger(__name__)

# Hubs that begin to read one stream at the same moment: two, rarely.
_CLAIMS_MAX = 8
# Before a stream that was given up because the store was away is looked for again.
_AGAIN_S = 2.0
# Between two looks whether the hub that reads a stream is still there.
_WATCH_S = 0.5
# For a stream to say what the answer to a cancel has said already.
_END_WITHIN_S = 2.0
# Events handed to the log and not yet written: beyond them the agent waits.
_UNWRITTEN_MAX = 256
# Reattaching at a start, at once.
_RECOVERING_MAX = 64


class TaskPumps:
    """`run` is the duty that owns all reading."""

    def __init__(
        self,
        tracks: TaskTracks,
        owners: TaskOwners,
        agents: AgentTasks,
        marks: PumpMarks,
        *,
        closer: TurnCloser,
        clock: Clock,
        settings: TaskSettings,
        broke: Callable[[str, str], None],
    ) -> None:
        """`broke` hears of each instance whose stream broke."""
        self._broke = broke
        self._tracks = tracks
        self._owners = owners
        self._agents = agents
        self._marks = marks
        self._closer = closer
        self._clock = clock
        self._settings = settings
        self._running: dict[tuple[AgentId, TaskId], Pump] = {}
        self._group: asyncio.TaskGroup | None = None
        self._ready = asyncio.Event()
        self._orphaned = asyncio.Event()
        self._orphaned.set()
        tracks.on_written_elsewhere(self._heard_elsewhere)

    def __len__(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        """Own the pumps, until cancelled; what still streams is found again at the next start."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._ready.set()
            while True:
                await self._orphaned.wait()
                self._orphaned.clear()
                await self._recover(group)

    def hub_lost(self) -> None:
        """What another hub read is to be taken up."""
        self._orphaned.set()

    def _heard_elsewhere(self, track: Track, events: Sequence[TaskEvent]) -> None:
        pump = self._running.get((track.agent_id, track.task_id))
        if pump is not None:
            pump.is_doubted = True

    def running(self, agent_id: AgentId, task_id: TaskId) -> Pump | None:
        """The pump of a task, if this hub reads its stream."""
        return self._running.get((agent_id, task_id))

    def owners_of(self, agent_id: AgentId | None) -> Sequence[TaskOwner]:
        """Of all tasks of an agent (None: of all agents) whose streams are read here."""
        read = [pump.owner for pump in self._running.values() if not pump.is_watched]
        return [owner for owner in read if agent_id in (None, owner.agent_id)]

    async def found(self, owner: TaskOwner, track: Track) -> Pump | None:
        """The pump of a task, if any hub reads its stream. Raises: EngineUnavailable."""
        running = self._running.get((owner.agent_id, owner.task_id))
        if running is None and await self._is_elsewhere(owner):
            running = self._running.get((owner.agent_id, owner.task_id))
            if running is None:
                running = self._begin(owner, track)
                assert self._group is not None
                self._group.create_task(self._watch(running))
        return running

    async def _is_elsewhere(self, owner: TaskOwner) -> bool:
        return self._marks.is_shared and await self._marks.is_elsewhere(
            await self._marks.read(owner.agent_id, owner.task_id)
        )

    async def _found_or_claimed(self, owner: TaskOwner, track: Track) -> Pump | None:
        """The pump there is; None: the stream is this hub's to read, and no other hub may begin to.

        Raises: EngineUnavailable.
        """
        key = (owner.agent_id, owner.task_id)
        for _ in range(_CLAIMS_MAX):
            running = await self.found(owner, track)
            if running is not None or not self._marks.is_shared:
                return running
            if await self._marks.claim(*key):
                return self._running.get(key)
        raise EngineUnavailable("Other hubs begin to read the stream of this task at this moment; try again.")

    def mark(self, agent_id: AgentId, task_id: TaskId) -> KvWrite:
        """What makes another hub take the stream of this task up if this one dies; stored along with its record."""
        return self._marks.first(agent_id, task_id)

    async def start(
        self, stream: AgentStream, first: StreamEvent, owner: TaskOwner, track: Track, *, is_marked: bool
    ) -> Pump:
        """Read on where `first` was the first event of the stream. Owns the stream from here on.

        `is_marked`: its `mark` is written already.
        """
        await self._ready.wait()
        running = self._running.get((owner.agent_id, owner.task_id))
        if running is None and not is_marked:
            running = await self._found_or_claimed(owner, track)
            is_marked = self._marks.is_shared
        if running is not None:
            # A further stream of a task that is read already: two would tell everything twice.
            await stream.aclose()
            return running
        pump = self._begin(owner, track)
        assert self._group is not None
        self._group.create_task(self._pump(pump, stream, first, is_marked=is_marked))
        return pump

    async def attach(self, owner: TaskOwner, track: Track) -> Pump | None:
        """See to it that the task's events come in: the track has what the agent knows when this returns.

        None: its turn has ended. Raises: TaskNotFound, UpstreamError, OperationUnsupported, EngineUnavailable.
        """
        await self._ready.wait()
        running = await self._found_or_claimed(owner, track)
        if running is not None:
            return running
        pump = self._begin(owner, track)
        try:
            await self._read_anew(track)
            stream = await self._reattach_once(pump)
        except OperationUnsupported:
            stream = None
        except BaseException:
            self._let_go(pump)
            raise
        if stream is None and track.state.ends_turn:
            self._let_go(pump)
            return None
        assert self._group is not None
        self._group.create_task(self._pump(pump, stream, None, is_marked=self._marks.is_shared))
        return pump

    def _let_go(self, pump: Pump) -> None:
        """Nothing is read after all."""
        self._end(pump)
        if self._marks.is_shared:
            self._marks.remove_soon(pump.owner.agent_id, pump.owner.task_id)

    async def follow(
        self, pump: Pump, *, after: int, outlet: Outlet | None = None
    ) -> AsyncGenerator[Sequence[TaskEvent], None]:
        """Events above `after` for as long as the agent's stream goes on; to the terminal one, if there is one.

        What `outlet` takes does not come. Raises: what ended the stream before its turn did.
        """
        track = pump.track
        with self._tracks.follow(track, after=after, outlet=outlet) as follower:
            while True:
                if pump.is_over and follower.has_all:
                    if pump.error is not None:
                        raise pump.error
                    return
                taken = await follower.take()
                if taken:
                    yield taken
                    if taken[-1].state.is_terminal:
                        return

    async def reconcile(self, owner: TaskOwner, track: Track, snapshot: bytes) -> None:
        """Append what the agent's own task has and the log lacks. Raises: StorageFull, EngineUnavailable."""
        if track.last == 0:
            state = state_of(snapshot)
            await self._append(track, [Draft(body=b'{"task":%b}' % snapshot, state=state)])
        else:
            # What the agent said last may still be on its way into the log, and would be said again.
            await track.quiet()
            picture = await self._tracks.picture(track)
            drafts = []
            for body in missed_events(picture, snapshot, task_id=track.task_id):
                picture.fold(body)
                drafts.append(Draft(body=body, state=picture.state, turn=track.turn))
            await self._append(track, drafts)
        if track.state is not owner.state:
            await self._record(owner, track.state)

    def heard_of_end(self, pump: Pump, snapshot: bytes) -> None:
        """The agent answered with its task while its stream is read; what has ended there must end here too.

        Mostly the stream says so itself, and more: it has a moment for that.
        """
        if self._group is not None and state_of(snapshot).is_terminal:
            self._group.create_task(self._end_in_time(pump, snapshot))

    async def _end_in_time(self, pump: Pump, snapshot: bytes) -> None:
        await asyncio.sleep(_END_WITHIN_S)
        if pump.track.state.is_terminal:
            return
        try:
            await self.reconcile(pump.owner, pump.track, snapshot)
        except MeshwayError as error:
            _log.warning("task_end_not_kept", extra={"task": pump.owner.task_id, "reason": error.detail})

    # The life of a pump

    def _begin(self, owner: TaskOwner, track: Track) -> Pump:
        pump = Pump(track, owner, refusals=track.refusals, taken_ms=self._clock.monotonic_ms())
        track.pins += 1
        self._running[owner.agent_id, owner.task_id] = pump
        return pump

    def _end(self, pump: Pump, error: MeshwayError | None = None) -> None:
        if pump.is_over:
            return
        pump.is_over, pump.error = True, error
        pump.track.pins -= 1
        del self._running[pump.owner.agent_id, pump.owner.task_id]
        pump.track.nudge()

    async def _pump(
        self, pump: Pump, stream: AgentStream | None, first: StreamEvent | None, *, is_marked: bool
    ) -> None:
        owner = pump.owner
        error: MeshwayError | None = None
        try:
            if not is_marked:
                await self._marks.write(owner.agent_id, owner.task_id)
            # Something may have been missed before it was held here.
            await self._read_anew(pump.track)
            await self._read_to_the_end(pump, stream, first)
            # Who follows has everything when it hears that this is over.
            await pump.track.quiet(hurry=False)
            await self._read_anew(pump.track)
            while self._marks.is_shared and pump.refusals != pump.track.refusals:
                # The end of the turn may have been among what was refused.
                self._refused(pump)
                await self._read_to_the_end(pump, None, None)
                await pump.track.quiet()
                await self._read_anew(pump.track)
        except MeshwayError as failure:
            error = await self._unless_ended_elsewhere(pump, failure)
        except Exception as failure:  # noqa: BLE001  the boundary of a stream: others go on
            error = EngineUnavailable("The hub failed on this stream; its log says why.")
            _log.error("task_stream_failed", extra={"task": pump.owner.task_id}, exc_info=failure)
        finally:
            if stream is not None:
                # Nobody has read it where its mark could not be written.
                await stream.aclose()
            if not isinstance(error, ReadElsewhere):
                self._end(pump, error)
        if isinstance(error, ReadElsewhere):
            # Asleep, or cut off, for so long that another hub took it up.
            await self._watch(pump)
        elif isinstance(error, EngineUnavailable) and self._marks.is_shared:
            # The mark stays, and whoever finds it reads on: this hub too.
            asyncio.get_running_loop().call_later(_AGAIN_S, self._orphaned.set)
        else:
            self._marks.remove_soon(owner.agent_id, owner.task_id)

    async def _unless_ended_elsewhere(self, pump: Pump, failure: MeshwayError) -> MeshwayError | None:
        """Why the reading ended; None where it is over because another hub has written the end of the turn."""
        try:
            if self._marks.is_shared:
                await self._read_anew(pump.track)
                if pump.track.state.ends_turn:
                    return None
                if await self._is_elsewhere(pump.owner):
                    return ReadElsewhere("Another hub reads the stream of this task.")
        except MeshwayError as away:
            failure = away
        _log.warning("task_stream_given_up", extra={"task": pump.owner.task_id, "reason": failure.detail})
        return failure

    async def _read_anew(self, track: Track) -> None:
        """If it is broken."""
        await self._tracks.open(track.agent_id, track.task_id, context_id=track.context_id)

    async def _watch(self, pump: Pump) -> None:
        """The events of a stream that another hub reads come by the log; see to it that somebody reads it."""
        owner, pump.is_watched = pump.owner, True
        try:
            while not pump.track.written_state.ends_turn:
                entry = await self._marks.read(owner.agent_id, owner.task_id)
                if entry is None:
                    # With the last that was written.
                    await self._tracks.catch_up(pump.track)
                    break
                if not await self._marks.is_elsewhere(entry) and await self._marks.take(entry):
                    pump.is_watched = False
                    await self._pump(pump, None, None, is_marked=True)
                    return
                await asyncio.sleep(_WATCH_S)
        except MeshwayError as failure:
            self._end(pump, failure)
        else:
            self._end(pump)

    async def _read_to_the_end(self, pump: Pump, stream: AgentStream | None, first: StreamEvent | None) -> None:
        patience = Patience(self._clock, self._settings.reattach_for_ms)
        # Whether the stream under way is one that was taken up again.
        again = False
        while True:
            before, is_broken = pump.track.last, stream is None
            if stream is not None:
                try:
                    await self._read(pump, stream, first, is_taken_up=first is None)
                except UpstreamError as broken:
                    is_broken = True
                    if isinstance(broken, UpstreamBroken):
                        self._broke(pump.owner.agent_id, pump.owner.instance_id)
                    _log.info("task_stream_broke", extra={"task": pump.owner.task_id, "reason": broken.detail})
                finally:
                    await stream.aclose()
            first = None
            if pump.track.state.ends_turn:
                return
            if pump.track.last > before:
                patience.renew()
            elif again and not is_broken:
                # The agent ended its stream in good order, and again, with nothing new: it means it.
                return
            stream = await self._reattach(pump, patience)
            if stream is None:
                return
            again = True

    async def _read(self, pump: Pump, stream: AgentStream, first: StreamEvent | None, *, is_taken_up: bool) -> None:
        if first is not None:
            await self._take(pump, first)
        async for event in stream.events:
            if is_taken_up and event.core is not None:
                is_taken_up = False
                if await self._was_told(pump, event.core):
                    continue
            await self._take(pump, event)

    async def _was_told(self, pump: Pump, core: bytes) -> bool:
        """Whether the first event behind a snapshot was in the snapshot already: agents keep a chunk, then stream it.

        Asked of the agent only where the chunk says what the artifact ends with.
        """
        await pump.track.quiet()
        picture = await self._tracks.picture(pump.track)
        end = repeats_the_end(picture, core)
        if end is None:
            return False
        return not is_said_again(end, TaskPicture.of_task(await self._get(pump.owner)))

    async def _take(self, pump: Pump, event: StreamEvent) -> None:
        track, core, seen = pump.track, event.core, event.task
        if core is None:
            raise UpstreamBroken("The agent's stream ended with an error.", may_have_acted=True)
        if track.state.is_terminal:
            _log.warning("event_after_the_end_dropped", extra={"agent": track.agent_id, "task": track.task_id})
            return
        if self._marks.is_shared and pump.refusals != track.refusals:
            raise self._refused(pump)
        if track.is_broken:
            raise EngineUnavailable("Events of this task could not be kept.")
        if self._marks.is_shared and self._may_be_elsewhere(pump) and await self._is_elsewhere(pump.owner):
            raise ReadElsewhere("Another hub reads the stream of this task.")
        state = state_after(track, seen)
        drafts = [Draft(body=core, state=state, turn=track.turn)]
        if track.last == 0 and not is_task(core):
            # Every task begins with itself; this agent's began with something else.
            opening = event_bodies.submitted(track.task_id, track.context_id, None, at_ms=self._clock.now_ms())
            drafts.insert(0, Draft(body=opening, state=TaskState.SUBMITTED, turn=track.turn))
        now_ms = self._clock.now_ms()
        if state is not pump.owner.state:
            self._keep(pump, state)
        if track.last - track.written < _UNWRITTEN_MAX:
            for draft in drafts:
                track.append_stream(draft, at_ms=now_ms)
        else:
            await track.append(drafts, at_ms=now_ms)

    def _refused(self, pump: Pump) -> "NotKept":
        """Something that was read is not in the log: the agent's own task has it."""
        pump.refusals = pump.track.refusals
        return NotKept("Events of this task were not kept; its stream is taken up again.")

    def _may_be_elsewhere(self, pump: Pump) -> bool:
        """Whether to look at the mark: what this hub writes behind what it heard of another reader, nothing refuses."""
        before_ms, pump.taken_ms = pump.taken_ms, self._clock.monotonic_ms()
        was_doubted, pump.is_doubted = pump.is_doubted, False
        return was_doubted or pump.taken_ms - before_ms >= self._marks.taken_after_ms

    async def _reattach(self, pump: Pump, patience: Patience) -> AgentStream | None:
        """A stream that goes on, None: the turn has ended. Raises: UpstreamUnreachable when patience has ended."""
        while True:
            reason = "it ended before the task did"
            try:
                await patience.wait()
                return await self._reattach_once(pump)
            except OperationUnsupported:
                # It answers, and works on: asking goes on for as long as it may take.
                patience.renew()
            except TaskNotFound:
                await self._lost(pump)
                return None
            except (UpstreamError, LimitError, AgentNotFound) as away:
                reason = away.detail
            if patience.is_over:
                text = f"The agent's stream broke and could not be taken up again ({reason})"
                raise UpstreamUnreachable(text, agent=pump.owner.agent_id)

    async def _reattach_once(self, pump: Pump) -> AgentStream | None:
        """None: the turn has ended. Raises: OperationUnsupported when the agent only answers, and works on."""
        owner, track = pump.owner, pump.track
        try:
            stream = await self._agents.subscribe(owner.agent_id, owner.task_id, owner.instance_id)
        except OperationUnsupported:
            await self.reconcile(owner, track, await self._get(owner))
            if track.state.ends_turn:
                return None
            raise
        try:
            first = await anext(stream.events, None)
            snapshot = b"" if first is None or first.core is None else task_of(first.core)
            if not snapshot:
                snapshot = await self._get(owner)
            await self.reconcile(owner, track, snapshot)
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _get(self, owner: TaskOwner) -> bytes:
        return await self._agents.get(owner.agent_id, owner.task_id, owner.instance_id)

    async def _lost(self, pump: Pump) -> None:
        text = "The agent does not know this task any more: it lost it, or was replaced."
        track = pump.track
        body = event_bodies.status(
            track.task_id,
            track.context_id,
            TaskState.FAILED,
            at_ms=self._clock.now_ms(),
            text=text,
            message_id=new_id(),
            metadata={"code": "task_lost"},
        )
        await self._append(track, [Draft(body=body, state=TaskState.FAILED, turn=track.turn)])
        await self._record(pump.owner, TaskState.FAILED)

    async def _append(self, track: Track, drafts: Sequence[Draft]) -> None:
        if drafts:
            await track.append(drafts, at_ms=self._clock.now_ms())

    async def _record(self, owner: TaskOwner, state: TaskState) -> None:
        seen = TaskSeen(task_id=owner.task_id, context_id=owner.context_id, state=state)
        await self._owners.record(
            seen,
            agent_id=owner.agent_id,
            instance_id=owner.instance_id,
            principal_id=owner.principal_id,
            now_ms=self._clock.now_ms(),
        )

    def _keep(self, pump: Pump, state: TaskState, *, since_ms: int | None = None) -> None:
        """Have the record follow; shown at once and stored soon."""
        owner = pump.owner
        seen = TaskSeen(task_id=owner.task_id, context_id=owner.context_id, state=state, timestamp_ms=since_ms)
        pump.owner = self._closer.keep_status(owner, seen, self._clock.now_ms())

    # Being found again

    async def _recover(self, group: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(_RECOVERING_MAX)
        try:
            async for agent_id, task_id, entry in self._marks.orphans():
                if (agent_id, task_id) in self._running:
                    # Whoever watches it here takes it up.
                    continue
                await room.acquire()
                group.create_task(self._recover_one(agent_id, task_id, entry, room))
        except EngineUnavailable as error:
            _log.warning("task_streams_not_recovered", extra={"reason": error.detail})
            await asyncio.sleep(_WATCH_S)
            self._orphaned.set()

    async def _recover_one(self, agent_id: AgentId, task_id: TaskId, entry: KvEntry, room: asyncio.Semaphore) -> None:
        try:
            owner = await self._owners.owner_of(agent_id, task_id)
            if owner is None:
                return
            track = await self._tracks.open(agent_id, task_id, context_id=owner.context_id or "")
            # Last: what this hub has taken and does not read, nobody would look for as long as it lives.
            if not await self._marks.take(entry) or (agent_id, task_id) in self._running:
                # Another hub was faster, or a client that came back.
                return
            pump = self._begin(owner, track)
            if track.last:
                # What it was when the hub died may not have been stored.
                self._keep(pump, track.state, since_ms=track.at_ms)
        except MeshwayError as error:
            _log.warning("task_stream_not_recovered", extra={"task": task_id, "reason": error.detail})
            if isinstance(error, EngineUnavailable) and self._marks.is_shared:
                # A server of the store may have gone along with the hub.
                await asyncio.sleep(_WATCH_S)
                self._orphaned.set()
            return
        finally:
            room.release()
        await self._pump(pump, None, None, is_marked=True)
