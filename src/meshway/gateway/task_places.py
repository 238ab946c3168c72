"""The rooms that the use cases of tasks share."""

from dataclasses import dataclass

from meshway.gateway.admission import Admission
from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.root_ledger import RootLedger
from meshway.kernel.clock import Clock
from meshway.kernel.delegation import Hop
from meshway.kernel.errors import AgentNotFound, TaskNotFound
from meshway.kernel.ids import AgentId, TaskId
from meshway.kernel.principal import Principal
from meshway.registry.directory import Directory
from meshway.registry.values import Agent
from meshway.tasks.children import TaskChildren
from meshway.tasks.claims import Claims
from meshway.tasks.hub_tasks import HubTasks
from meshway.tasks.settings import TaskSettings
from meshway.tasks.stops import StopBook
from meshway.tasks.values import TaskOwner, TaskParent

__all__ = ["TaskPlaces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlaces:
    """Made once by assembly."""

    directory: Directory
    admission: Admission
    tasks: HubTasks
    claims: Claims
    children: TaskChildren
    stops: StopBook
    guard: DelegationGuard
    ledger: RootLedger
    chains: ChainTokens
    clock: Clock
    settings: TaskSettings

    def agent(self, agent_id: AgentId) -> Agent:
        """Raises: AgentNotFound."""
        agent = self.directory.get(agent_id)
        if agent is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        return agent

    def report_cost(self, root: TaskParent, units: float) -> None:
        """What an agent says its work has cost counts for the task at the head of the chain."""
        self.ledger.report_cost(Hop(root.agent_id, root.task_id), units)

    async def owned(self, principal: Principal, agent_id: AgentId, task_id: TaskId) -> TaskOwner:
        """The record of the principal's own task; an admin's are all. Raises: TaskNotFound, EngineUnavailable."""
        owner = await self.tasks.owners.owner_of(agent_id, task_id)
        if owner is None or (owner.principal_id != principal.id and not principal.is_admin):
            raise TaskNotFound(f"There is no task {task_id!r} of yours at agent {agent_id!r}.")
        return owner

    async def found(self, principal: Principal, task_id: TaskId) -> TaskOwner:
        """The same by the id alone, wherever it is. Raises: TaskNotFound, EngineUnavailable."""
        agent_ids = [agent.id for agent in self.directory.in_any_order()]
        for owner in await self.tasks.owners.find(agent_ids, task_id):
            if owner.principal_id == principal.id or principal.is_admin:
                return owner
        raise TaskNotFound(f"There is no task {task_id!r} of yours at this hub.")
