"""See agents: one by id, or those that answer a question."""

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.ids import AgentId
from meshway.kernel.pages import Page
from meshway.kernel.principal import Principal
from meshway.registry.search import AgentQuery
from meshway.registry.values import Agent

__all__ = ["FindAgents", "ShowAgent"]


class FindAgents:
    """A page of agents, filtered and ranked; see `Directory.find`."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, query: AgentQuery) -> Page[Agent]:
        """With live times. Raises: Forbidden, InvalidRequest naming `limit`, `cursor` or `q`."""
        self._places.admission.admit_read(principal)
        page = self._places.directory.find(query)
        return Page([self._places.presence.seen(agent) for agent in page.items], page.next_cursor)


class ShowAgent:
    """One agent."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, agent_id: AgentId) -> Agent:
        """With live times. Raises: Forbidden, AgentNotFound."""
        self._places.admission.admit_read(principal)
        return self._places.shown(agent_id)
