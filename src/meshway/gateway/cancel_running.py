"""Cancel all that runs at an agent, or anywhere, and what it has caused: for stops, and agents that are removed."""

import logging

from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.task_places import TaskPlaces
from meshway.gateway.task_pumps import TaskPumps
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import Principal, Scope
from meshway.tasks.owners import ListFilter
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["CancelRunningTasks"]

_log = logging.getLogger(__name__)

_STOPPER = Principal(PrincipalId("_stop"), frozenset({Scope("admin")}))
_RUNNING = (TaskState.WORKING, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)
_PAGE = 100


class CancelRunningTasks:
    """What waits in inboxes is held, not cancelled: it goes on after the resume."""

    def __init__(self, places: TaskPlaces, cancel: CancelTask, pumps: TaskPumps) -> None:
        self._places = places
        self._cancel = cancel
        self._pumps = pumps

    async def execute(self, agent_id: AgentId | None, *, reason: str = "stopped by an operator") -> int:
        """How many were cancelled; None: at all agents. Failures are logged. Raises: EngineUnavailable."""
        cancelled = 0
        for state in _RUNNING:
            for owner in await self._in_state(agent_id, state):
                cancelled += await self._end(owner, reason)
        return cancelled

    async def _in_state(self, agent_id: AgentId | None, state: TaskState) -> list[TaskOwner]:
        found: list[TaskOwner] = []
        token: str | None = None
        while token != "":
            query = ListFilter(state=state, page_size=_PAGE, page_token=token)
            page = await self._places.tasks.owners.list_owned(agent_id, _STOPPER, query)
            found += page.tasks
            token = page.next_page_token
        return found

    async def _end(self, owner: TaskOwner, reason: str) -> int:
        try:
            if owner.hub_owned:
                await self._cancel.cancel(owner, reason=reason)
            else:
                await self._cancel.cancel_relayed(owner)
                await self._cancel.cancel_children(owner, reason=reason)
        except MeshwayError as error:
            facts = {"agent": owner.agent_id, "task": owner.task_id, "reason": error.detail}
            _log.warning("running_task_not_cancelled", extra=facts)
            return 0
        return 1
