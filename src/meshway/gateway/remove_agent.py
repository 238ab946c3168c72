"""Forget an agent. Calls under way end as they end; its tasks' owner records run out by themselves."""

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.values import Agent

__all__ = ["RemoveAgent"]


class RemoveAgent:
    """DELETE of an agent."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, agent_id: AgentId) -> None:
        """Gone, durably, when this returns. Raises: AgentNotFound, Forbidden, EngineUnavailable."""
        places = self._places
        places.managed(principal, agent_id)

        def decide(stored: Agent | None) -> None:
            places.still_managed(principal, agent_id, stored)

        await places.store.change(agent_id, decide)
