"""Forget an agent. Calls of one with a URL end as they end; work of one that connects out is cancelled.

Owner records run out by themselves; what waits in its inbox is there for who registers it again, until it expires.
"""

from collections.abc import Awaitable, Callable

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.values import Agent

__all__ = ["RemoveAgent"]


class RemoveAgent:
    """DELETE of an agent."""

    def __init__(self, places: RegistryPlaces, *, cancel_running: Callable[[AgentId], Awaitable[int]]) -> None:
        """`cancel_running` ends what the agent's instances work on, and what that has caused."""
        self._places = places
        self._cancel_running = cancel_running

    async def execute(self, principal: Principal, agent_id: AgentId) -> None:
        """Gone, durably, when this returns. Raises: AgentNotFound, Forbidden, EngineUnavailable."""
        places = self._places
        agent = places.managed(principal, agent_id)

        def decide(stored: Agent | None) -> None:
            places.still_managed(principal, agent_id, stored)

        await places.store.change(agent_id, decide)
        if agent.pull:
            # From here on none of its instances is given anything.
            await self._cancel_running(agent_id)
