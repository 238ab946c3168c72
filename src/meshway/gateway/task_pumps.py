"""Streams of agents, read to their end whoever listens: each event is numbered and written, then shown.

    streaming -- broke mid-task --> reattaching -- the agent streams again --> streaming
        |                               |-- it only answers --> polling --> ended
        '-- the turn ended --> over     '-- away for too long --> interrupted

A pump that runs has a key `pumps.<agent>.<task>`: a hub that starts reattaches to what it finds there.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import Durability, KeyValue, KvPut
from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.ports import AgentStream, StreamEvent
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
from meshway.tasks.tokens import task_token
from meshway.tasks.track import Draft, Track
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.turn_closer import TurnCloser
from meshway.tasks.values import TaskEvent, TaskOwner, TaskSeen, TaskState

__all__ = ["Pump", "TaskPumps"]

_log = logging.getLogger(__name__)

_PREFIX = "pumps"
_PAGE = 500
# For a stream to say what the answer to a cancel has said already.
_END_WITHIN_S = 2.0
# Events handed to the log and not yet written: beyond them the agent waits.
_UNWRITTEN_MAX = 256
# Between two looks for an agent that is away, doubled each time; and between two questions to one that only answers.
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 5.0
# Reattaching at a start, at once.
_RECOVERING_MAX = 64
# Compared for each event: a member of an enum class costs more to reach than a name of the module.
_UNSPECIFIED = TaskState.UNSPECIFIED


class _Core(msgspec.Struct):
    task: msgspec.Raw = msgspec.Raw(b"")


_decode_core = msgspec.json.Decoder(_Core).decode


@dataclass(slots=True, eq=False)
class Pump:
    """The reading of one task's stream. `error` says why it ended before its turn did."""

    track: Track
    owner: TaskOwner
    is_over: bool = False
    error: MeshwayError | None = None


class _Patience:
    """With an agent whose stream broke: waits that double, until nothing was heard for too long."""

    def __init__(self, clock: Clock, most_ms: int) -> None:
        self._clock = clock
        self._most_ms = most_ms
        self._wait_s = 0.0
        self._ends_ms = clock.monotonic_ms() + most_ms

    @property
    def is_over(self) -> bool:
        return self._clock.monotonic_ms() >= self._ends_ms

    def renew(self) -> None:
        """Something was heard. The first try after that is made at once, the others wait."""
        self._ends_ms = self._clock.monotonic_ms() + self._most_ms
        self._wait_s = min(self._wait_s, _BACKOFF_FIRST_S)

    async def wait(self) -> None:
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(max(self._wait_s * 2, _BACKOFF_FIRST_S), _BACKOFF_MAX_S)


class TaskPumps:
    """`run` is the duty that owns all reading."""

    def __init__(
        self,
        tracks: TaskTracks,
        owners: TaskOwners,
        agents: AgentTasks,
        key_value: KeyValue,
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
        self._key_value = key_value
        self._closer = closer
        self._clock = clock
        self._settings = settings
        self._running: dict[tuple[AgentId, TaskId], Pump] = {}
        self._group: asyncio.TaskGroup | None = None
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        """Own the pumps, until cancelled; what still streams is found again at the next start."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._ready.set()
            await self._recover(group)
            await asyncio.get_running_loop().create_future()

    def running(self, agent_id: AgentId, task_id: TaskId) -> Pump | None:
        """The pump of a task, if this hub reads its stream."""
        return self._running.get((agent_id, task_id))

    def mark(self, agent_id: AgentId, task_id: TaskId) -> KvPut:
        """What makes a hub that starts take the stream of this task up again."""
        key = _key(agent_id, task_id)
        self._closer.leave_mark(key)
        return KvPut(
            key=key, value=task_id.encode(), ttl_ms=self._settings.open_retention_ms, durability=Durability.LAZY
        )

    async def start(
        self, stream: AgentStream, first: StreamEvent, owner: TaskOwner, track: Track, *, is_marked: bool
    ) -> Pump:
        """Read on where `first` was the first event of the stream. Owns the stream from here on.

        `is_marked`: its `mark` is written already.
        """
        await self._ready.wait()
        running = self._running.get((owner.agent_id, owner.task_id))
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
        running = self._running.get((owner.agent_id, owner.task_id))
        if running is not None:
            return running
        pump = self._begin(owner, track)
        try:
            stream = await self._reattach_once(pump)
        except OperationUnsupported:
            stream = None
        except BaseException:
            self._end(pump)
            raise
        if stream is None and track.state.ends_turn:
            self._end(pump)
            return None
        assert self._group is not None
        self._group.create_task(self._pump(pump, stream, None, is_marked=False))
        return pump

    async def follow(
        self, pump: Pump, *, after: int, outlet: Outlet | None = None
    ) -> AsyncGenerator[Sequence[TaskEvent], None]:
        """Events above `after` for as long as the agent's stream goes on; to the terminal one, if there is one.

        What `outlet` takes does not come.

        Raises: what ended the stream before its turn did.
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
            state = _state_of(snapshot)
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
        if self._group is not None and _state_of(snapshot).is_terminal:
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
        pump = Pump(track, owner)
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
                await self._key_value.write([self.mark(owner.agent_id, owner.task_id)])
            await self._read_to_the_end(pump, stream, first)
            # Who follows has everything when it hears that this is over.
            await pump.track.quiet(hurry=False)
        except MeshwayError as failure:
            error = failure
            _log.warning("task_stream_given_up", extra={"task": pump.owner.task_id, "reason": failure.detail})
        except Exception as failure:  # noqa: BLE001  the boundary of a stream: others go on
            error = EngineUnavailable("The hub failed on this stream; its log says why.")
            _log.error("task_stream_failed", extra={"task": pump.owner.task_id}, exc_info=failure)
        finally:
            self._end(pump, error)
            if stream is not None:
                # Nobody has read it where its mark could not be written.
                await stream.aclose()
        self._closer.unmark(_key(owner.agent_id, owner.task_id))

    async def _read_to_the_end(self, pump: Pump, stream: AgentStream | None, first: StreamEvent | None) -> None:
        patience = _Patience(self._clock, self._settings.reattach_for_ms)
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
        if track.is_broken:
            raise EngineUnavailable("Events of this task could not be kept.")
        state = _state_after(track, seen)
        drafts = [Draft(body=core, state=state, turn=track.turn)]
        if track.last == 0 and not _is_task(core):
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

    async def _reattach(self, pump: Pump, patience: "_Patience") -> AgentStream | None:
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
            snapshot = b"" if first is None or first.core is None else bytes(_decode_core(first.core).task)
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
        after: str | None = None
        while True:
            page = await self._key_value.page(_PREFIX, after=after, limit=_PAGE)
            for entry in page.entries:
                agent_id = AgentId(entry.key.split(".")[1])
                await room.acquire()
                group.create_task(self._recover_one(agent_id, TaskId(entry.value.decode()), room))
            after = page.next_after
            if after is None:
                return

    async def _recover_one(self, agent_id: AgentId, task_id: TaskId, room: asyncio.Semaphore) -> None:
        try:
            owner = await self._owners.owner_of(agent_id, task_id)
            if owner is None:
                return
            track = await self._tracks.open(agent_id, task_id, context_id=owner.context_id or "")
            if (agent_id, task_id) in self._running:
                # A client that came back was faster.
                return
            pump = self._begin(owner, track)
            if track.last:
                # What it was when the hub died may not have been stored.
                self._keep(pump, track.state, since_ms=track.at_ms)
        except MeshwayError as error:
            _log.warning("task_stream_not_recovered", extra={"task": task_id, "reason": error.detail})
            return
        finally:
            room.release()
        await self._pump(pump, None, None, is_marked=True)


def _state_of(task: bytes) -> TaskState:
    """The state of a task in A2A 1.0 JSON."""
    return _decode_state(task).status.state


class _StatusHead(msgspec.Struct, frozen=True):
    state: TaskState = TaskState.UNSPECIFIED


class _TaskHead(msgspec.Struct):
    status: _StatusHead = _StatusHead()


_decode_state = msgspec.json.Decoder(_TaskHead).decode


def _is_task(core: bytes) -> bool:
    return b'"task"' in core[:16]


def _state_after(track: Track, seen: TaskSeen | None) -> TaskState:
    if seen is not None and seen.state is not _UNSPECIFIED:
        return seen.state
    return TaskState.SUBMITTED if track.state is _UNSPECIFIED else track.state


def _key(agent_id: AgentId, task_id: TaskId) -> str:
    return f"{_PREFIX}.{agent_id}.{task_token(task_id)}"
