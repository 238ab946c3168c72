"""Which tasks of an agent are mine? Answered from the hub's owner records, without asking the agent."""

from meshway.gateway.admission import Admission
from meshway.kernel.errors import AgentNotFound, Forbidden
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.directory import Directory
from meshway.tasks.owners import ListFilter, OwnedPage, TaskOwners

__all__ = ["ListTasks"]


class ListTasks:
    """A2A ListTasks, for agents of either version."""

    def __init__(self, directory: Directory, owners: TaskOwners, admission: Admission) -> None:
        self._directory = directory
        self._owners = owners
        self._admission = admission

    async def execute(self, principal: Principal, agent_id: AgentId, query: ListFilter) -> OwnedPage:
        """The caller's own tasks; an admin sees everybody's. Latest status first.

        Raises: Forbidden, AgentNotFound, InvalidRequest naming `pageSize` or `pageToken`, EngineUnavailable.
        """
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not see tasks; that needs the scope 'call'.", agent=agent_id)
        if self._directory.get(agent_id) is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        self._admission.admit_read(principal)
        return await self._owners.list_owned(agent_id, principal, query)
