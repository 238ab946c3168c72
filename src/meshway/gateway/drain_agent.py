"""Take an agent, or one instance, out of new work, and put it back; follow-ups to its tasks still reach it."""

from collections.abc import Callable

import msgspec

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.ids import AgentId, InstanceId
from meshway.kernel.principal import Principal
from meshway.registry.presence import Signal, after_signal
from meshway.registry.values import Agent, Instance

__all__ = ["DrainAgent", "ResumeAgent"]


class DrainAgent:
    """No new calls; what is under way ends. Draining what drains changes nothing."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, agent_id: AgentId, instance_id: InstanceId | None = None) -> Agent:
        """All instances, or the one named. Survives restarts. Raises: AgentNotFound, Forbidden."""
        return await _signal(self._places, principal, agent_id, instance_id, Signal.DRAIN)


class ResumeAgent:
    """Ends a drain; the state is then what the hub has seen meanwhile."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, agent_id: AgentId, instance_id: InstanceId | None = None) -> Agent:
        """All instances, or the one named. Raises: AgentNotFound, Forbidden."""
        return await _signal(self._places, principal, agent_id, instance_id, Signal.RESUME)


async def _signal(
    places: RegistryPlaces, principal: Principal, agent_id: AgentId, instance_id: InstanceId | None, signal: Signal
) -> Agent:
    places.managed(principal, agent_id)
    now_ms = places.clock.now_ms()

    def decide(stored: Agent | None) -> Agent:
        agent = places.still_managed(principal, agent_id, stored)
        chosen = agent.instances if instance_id is None else (places.instance(agent, instance_id),)
        return _each(agent, chosen, lambda instance: after_signal(instance, signal, now_ms))

    await places.store.change(agent_id, decide)
    return places.shown(agent_id)


def _each(agent: Agent, chosen: tuple[Instance, ...], change: Callable[[Instance], Instance]) -> Agent:
    """The agent with the chosen instances changed; the same object when none has."""
    ids = {instance.id for instance in chosen}
    instances = tuple(change(instance) if instance.id in ids else instance for instance in agent.instances)
    unchanged = all(new is old for new, old in zip(instances, agent.instances, strict=True))
    return agent if unchanged else msgspec.structs.replace(agent, instances=instances)
