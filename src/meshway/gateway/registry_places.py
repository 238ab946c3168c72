"""The rooms and ports that the registry's use cases share."""

from dataclasses import dataclass

from meshway.gateway.admission import Admission
from meshway.gateway.agent_credentials import AgentCredentials
from meshway.gateway.instance_reader import InstanceReader
from meshway.kernel.clock import Clock
from meshway.kernel.errors import AgentNotFound
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, Instance

__all__ = ["RegistryPlaces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPlaces:
    """What the use cases stand on; made once by assembly."""

    store: AgentStore
    directory: Directory
    presence: PresenceTracker
    admission: Admission
    reader: InstanceReader
    credentials: AgentCredentials
    clock: Clock
    settings: RegistrySettings

    def agent(self, agent_id: AgentId) -> Agent:
        """Raises: AgentNotFound."""
        return self.present(self.directory.get(agent_id), agent_id)

    def managed(self, principal: Principal, agent_id: AgentId) -> Agent:
        """The agent, for a principal that may change it. Raises: AgentNotFound, Forbidden."""
        agent = self.agent(agent_id)
        self.admission.admit_manage(principal, agent)
        return agent

    def still_managed(self, principal: Principal, agent_id: AgentId, stored: Agent | None) -> Agent:
        """The same question to the record that is about to be changed. Raises: AgentNotFound, Forbidden."""
        agent = self.present(stored, agent_id)
        self.admission.admit_manage(principal, agent)
        return agent

    def shown(self, agent_id: AgentId) -> Agent:
        """The agent with its live times, after a change. Raises: AgentNotFound when it is gone again."""
        return self.presence.seen(self.agent(agent_id))

    def present(self, agent: Agent | None, agent_id: AgentId) -> Agent:
        if agent is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        return agent

    def instance(self, agent: Agent, instance_id: str) -> Instance:
        """Raises: AgentNotFound naming the instances there are."""
        instance = agent.instance(instance_id)
        if instance is None:
            known = ", ".join(i.id for i in agent.instances[:8])
            text = f"Agent {agent.id!r} has no instance {instance_id!r}; it has {known}."
            raise AgentNotFound(text, agent=agent.id)
        return instance
