"""Cancel all that runs at an agent, or anywhere, and what it has caused: for stops, and agents that are removed.

The hub that is asked cancels what the records show. What began a moment ago stands in no record yet: each hub hears of
the stop, or the removal, and cancels what runs in its own hands.
"""

import asyncio
import logging

from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.task_places import TaskPlaces
from meshway.gateway.task_pumps import TaskPumps
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import Principal, Scope
from meshway.registry.values import Agent
from meshway.tasks.owners import ListFilter
from meshway.tasks.stops import Stop
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["CancelRunningTasks"]

_log = logging.getLogger(__name__)

_STOPPER = Principal(PrincipalId("_stop"), frozenset({Scope("admin")}))
_RUNNING = (TaskState.WORKING, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)
_PAGE = 100


class CancelRunningTasks:
    """What waits in inboxes is held, not cancelled: it goes on after the resume.

    `run` is a duty of a hub whose engine is shared.
    """

    def __init__(self, places: TaskPlaces, cancel: CancelTask, pumps: TaskPumps) -> None:
        self._places = places
        self._cancel = cancel
        self._pumps = pumps
        # Agents whose work in the hands of this hub is to end; None: all.
        self._to_end: dict[AgentId | None, str] = {}
        self._work = asyncio.Event()
        self._listens = False

    async def run(self) -> None:
        """End what other hubs say must end, for ever."""
        if not self._listens:
            # For life, also where this duty is begun again.
            self._listens = True
            self._places.directory.listen(self._heard_of_agent)
            self._places.stops.listen(self._heard_of_stop)
        while True:
            await self._work.wait()
            self._work.clear()
            to_end, self._to_end = self._to_end, {}
            for agent_id, reason in to_end.items():
                await self.end_held(agent_id, reason=reason)

    def _heard_of_agent(self, agent_id: AgentId, agent: Agent | None) -> None:
        if agent is None:
            self._to_end[agent_id] = "its agent was removed"
            self._work.set()

    def _heard_of_stop(self, agent_id: AgentId | None, stop: Stop | None) -> None:
        if stop is not None:
            self._to_end[agent_id] = "stopped by an operator"
            self._work.set()

    async def end_held(self, agent_id: AgentId | None, *, reason: str) -> None:
        """Cancel what is worked on by instances, and streamed by agents, that this hub deals with."""
        claims = self._places.claims.of_agent(agent_id)
        held = [(claim.agent_id, claim.track.task_id) for claim in claims]
        held += [(owner.agent_id, owner.task_id) for owner in self._pumps.owners_of(agent_id)]
        for each in held:
            try:
                owner = await self._places.tasks.owners.owner_of(*each)
            except MeshwayError as error:
                _log.warning("running_task_not_cancelled", extra={"task": each[1], "reason": error.detail})
                continue
            if owner is not None:
                await self._end(owner, reason)

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
