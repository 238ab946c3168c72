"""End a task of the hub's own before its time, and what it has caused, down the chain."""

import logging

from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.task_places import TaskPlaces
from meshway.gateway.task_pumps import TaskPumps
from meshway.kernel.errors import MeshwayError, TaskNotCancelable
from meshway.kernel.ids import AgentId, TaskId
from meshway.kernel.principal import Principal
from meshway.tasks.track import Track
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["CancelTask"]

_log = logging.getLogger(__name__)

# What one task may have caused; a limit on calls in its course holds before (delegation.calls_max).
_CHILDREN_MAX = 10_000
_DEPTH_MAX = 32


class CancelTask:
    """Of cancelling and completing, what is written first holds."""

    def __init__(self, places: TaskPlaces, *, agents: AgentTasks, pumps: TaskPumps) -> None:
        self._places = places
        self._agents = agents
        self._pumps = pumps

    async def execute_any(self, principal: Principal, task_id: TaskId) -> TaskOwner:
        """The principal's task, whoever owns it; and what it has caused. The record it had before.

        Raises: as `execute`; UpstreamError and what the agent says, for a task of its own.
        """
        owner = await self._places.found(principal, task_id)
        if owner.hub_owned:
            await self.cancel(owner, reason="cancelled by its client")
        else:
            await self.cancel_relayed(owner)
            await self.cancel_children(owner, reason="what asked for it was cancelled")
        return owner

    async def cancel_relayed(self, owner: TaskOwner) -> None:
        """Ask the agent to end its task, and keep what it says. Raises: UpstreamError, TaskNotCancelable, and more."""
        task = await self._agents.cancel(owner.agent_id, owner.task_id, owner.instance_id)
        track = await self._places.tasks.track_of(owner)
        pump = await self._pumps.found(owner, track)
        if pump is not None:
            self._pumps.heard_of_end(pump, task)
            return
        await self._pumps.reconcile(owner, track, task)

    async def execute(self, principal: Principal, agent_id: AgentId, task_id: TaskId) -> Track:
        """The task of the hub's own, CANCELED. Its instance is told; what it says from here on is stale.

        Raises: TaskNotFound, TaskNotCancelable (it has ended), StorageFull, EngineUnavailable.
        """
        owner = await self._places.owned(principal, agent_id, task_id)
        return await self.cancel(owner, reason="cancelled by its client")

    async def cancel(self, owner: TaskOwner, *, reason: str) -> Track:
        """For who may. Raises: as `execute`."""
        track = await self._end(owner, reason)
        await self.cancel_children(owner, reason=f"what asked for it was {reason}")
        return track

    async def cancel_children(self, owner: TaskOwner, *, reason: str, depth: int = 0) -> int:
        """Everything that this task has caused and that has not ended; how many. Failures are logged: some may be left.

        Raises: EngineUnavailable.
        """
        if depth >= _DEPTH_MAX:
            return 0
        cancelled = 0
        for child in await self._places.children.of_task(owner, limit=_CHILDREN_MAX):
            record = await self._places.tasks.owners.owner_of(child.agent_id, child.task_id)
            if record is None:
                continue
            cancelled += await self._cancel_child(record, reason)
            cancelled += await self.cancel_children(record, reason=reason, depth=depth + 1)
        return cancelled

    async def _cancel_child(self, record: TaskOwner, reason: str) -> int:
        if record.state.is_terminal:
            return 0
        try:
            if record.hub_owned:
                await self._end(record, reason)
            else:
                await self.cancel_relayed(record)
        except TaskNotCancelable:
            return 0
        except MeshwayError as error:
            facts = {"agent": record.agent_id, "task": record.task_id, "reason": error.detail}
            _log.warning("child_task_not_cancelled", extra=facts)
            return 0
        return 1

    async def _end(self, owner: TaskOwner, reason: str) -> Track:
        places = self._places
        track = await places.tasks.track_of(owner)
        if track.state.is_terminal:
            raise TaskNotCancelable(f"Task {owner.task_id!r} has ended: it is {track.state.value}.")
        claim = places.claims.of_task(owner.agent_id, owner.task_id)
        await places.tasks.say(track, TaskState.CANCELED, text=reason)
        if claim is not None and not claim.is_over:
            places.claims.end(claim, reason)
            places.tasks.close_turn(claim.engine_id)
        return track
