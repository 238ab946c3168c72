"""What the hub answers about tasks of agents by what it has recorded: streams taken up again, ends, webhooks."""

import logging
from collections.abc import AsyncGenerator, Sequence

from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.inbox_calls import event_number
from meshway.gateway.ports import AgentCall, TaskStream
from meshway.gateway.task_pumps import Pump, TaskPumps
from meshway.kernel.clock import Clock
from meshway.kernel.errors import MeshwayError, OperationUnsupported
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.follower import Outlet
from meshway.tasks.owners import TaskOwners
from meshway.tasks.picture import TaskPicture
from meshway.tasks.track import Track
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskEvent, TaskOwner

__all__ = ["RecordedCalls"]

_log = logging.getLogger(__name__)


class RecordedCalls:
    """For tasks whose events are kept but whose owner is the agent."""

    def __init__(
        self,
        tracks: TaskTracks,
        owners: TaskOwners,
        pumps: TaskPumps,
        agents: AgentTasks,
        cancel: CancelTask,
        *,
        clock: Clock,
    ) -> None:
        self._tracks = tracks
        self._owners = owners
        self._pumps = pumps
        self._agents = agents
        self._cancel = cancel
        self._clock = clock

    async def subscribe(self, call: AgentCall, owner: TaskOwner) -> TaskStream:
        """SubscribeToTask: as InboxCalls.subscribe, for a task of the agent's.

        Raises: OperationUnsupported for one that has ended, TaskNotFound, UpstreamError, EngineUnavailable.
        """
        track, pump = await self._attach(owner)
        if call.last_event_id is not None:
            after = event_number(call.last_event_id)
            return TaskStream(self._follow(track, pump, after=after, outlet=call.outlet))
        if track.state.ends_turn:
            raise OperationUnsupported(f"Nothing follows in task {owner.task_id!r}; ask for it with GetTask.")
        return TaskStream(self._snapshot_and_on(track, pump, call.outlet))

    async def attach(self, owner: TaskOwner) -> Track:
        """Have the events of the task come in, and all that the agent knows be there. Raises: as `subscribe`."""
        track, _ = await self._attach(owner)
        return track

    async def watch(self, agent_id: AgentId, task_id: TaskId) -> None:
        """Somebody is told of this task's events: they must come in. Failures are logged."""
        owner = await self._owners.owner_of(agent_id, task_id)
        if owner is None or owner.hub_owned or owner.state.is_terminal:
            return
        try:
            await self._attach(owner)
        except MeshwayError as error:
            _log.warning("task_not_watched", extra={"agent": agent_id, "task": task_id, "reason": error.detail})

    async def cancelled(self, owner: TaskOwner) -> None:
        """Its client has cancelled it: what it has caused ends too. Raises: EngineUnavailable."""
        await self._cancel.cancel_children(owner, reason="what asked for it was cancelled")

    async def get(self, owner: TaskOwner) -> bytes:
        """The task as its agent tells it. Raises: UpstreamError, TaskNotFound, and others."""
        return await self._agents.get(owner.agent_id, owner.task_id, owner.instance_id)

    async def _attach(self, owner: TaskOwner) -> tuple[Track, Pump | None]:
        track = await self._track(owner)
        if track.state.is_terminal:
            return track, None
        pump = await self._pumps.attach(owner, track)
        return track, pump

    async def _track(self, owner: TaskOwner) -> Track:
        return await self._tracks.open(owner.agent_id, owner.task_id, context_id=owner.context_id or "")

    async def _follow(
        self, track: Track, pump: Pump | None, *, after: int, outlet: Outlet | None
    ) -> AsyncGenerator[Sequence[TaskEvent], None]:
        if pump is not None:
            async for taken in self._pumps.follow(pump, after=after, outlet=outlet):
                yield taken
            return
        await track.quiet()
        events = await self._tracks.events(track, after=after)
        if events:
            yield events

    async def _snapshot_and_on(
        self, track: Track, pump: Pump | None, outlet: Outlet | None
    ) -> AsyncGenerator[Sequence[TaskEvent], None]:
        await track.quiet()
        events = await self._tracks.events(track)
        number = events[-1].number if events else 0
        body = b'{"task":%b}' % TaskPicture.of(event.body for event in events).encode()
        yield (TaskEvent(number=number, body=body, state=track.state, at_ms=self._clock.now_ms()),)
        async for taken in self._follow(track, pump, after=number, outlet=outlet):
            yield taken
