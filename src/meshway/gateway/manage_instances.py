"""Replicas behind an agent's name: add one by URL, change one, take one away."""

import msgspec

from meshway.gateway.instance_reader import InstanceSpec
from meshway.gateway.patches import InstancePatch, patched_instance
from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.errors import CapacityReached, Conflict, InvalidRequest, StoreCorrupt
from meshway.kernel.ids import AgentId, InstanceId
from meshway.kernel.principal import Principal
from meshway.registry.origins import agent_origins, instance_origins, origin_of, told_apart
from meshway.registry.values import Agent, Instance

__all__ = ["ManageInstances"]


class ManageInstances:
    """For an admin and the key that registered the agent."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def add(self, principal: Principal, agent_id: AgentId, spec: InstanceSpec) -> Instance:
        """One more replica, which must answer now; the same id again replaces that instance.

        The stored credential is dropped when the replica is at an origin the agent had nothing at.
        Raises: AgentNotFound, Forbidden, InvalidRequest, EgressDenied, UpstreamUnreachable (`url`), CapacityReached,
        Conflict (its instances connect out).
        """
        places = self._places
        agent = places.managed(principal, agent_id)
        if agent.pull:
            text = f"Instances of agent {agent_id!r} connect out; start another process of it instead."
            raise Conflict(text, agent=agent_id)
        wrong = places.reader.check(spec)
        if wrong:
            raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong[:3]), fields=wrong)
        credential = self._credential_for(agent, spec.url)
        _, instance = await places.reader.by_url(spec, now_ms=places.clock.now_ms(), credential=credential)

        def decide(stored: Agent | None) -> Agent:
            current = places.still_managed(principal, agent_id, stored)
            others = [other for other in current.instances if other.id != instance.id]
            if len(others) >= places.settings.instances_max:
                raise CapacityReached(f"Agent {agent_id!r} has {len(others)} instances, as many as one may have.")
            instances = told_apart([*others, instance])
            kept = current.credential if instance_origins(instances) <= agent_origins(current) else None
            return msgspec.structs.replace(current, instances=instances, credential=kept)

        await places.store.change(agent_id, decide)
        places.presence.saw_probe(agent_id, instance.id, ok=True)
        return places.instance(places.shown(agent_id), instance.id)

    async def update(
        self, principal: Principal, agent_id: AgentId, instance_id: InstanceId, patch: InstancePatch
    ) -> Instance:
        """Change labels, capacity or weight. Raises: AgentNotFound, Forbidden, InvalidRequest."""
        places = self._places
        places.managed(principal, agent_id)

        def decide(stored: Agent | None) -> Agent:
            current = places.still_managed(principal, agent_id, stored)
            old = places.instance(current, instance_id)
            new = patched_instance(old, patch, places.settings)
            instances = tuple(new if instance.id == old.id else instance for instance in current.instances)
            return current if new == old else msgspec.structs.replace(current, instances=instances)

        await places.store.change(agent_id, decide)
        return places.instance(places.shown(agent_id), instance_id)

    async def remove(self, principal: Principal, agent_id: AgentId, instance_id: InstanceId) -> None:
        """Forget one replica. Raises: AgentNotFound, Forbidden, Conflict for the last one."""
        places = self._places
        places.managed(principal, agent_id)

        def decide(stored: Agent | None) -> Agent:
            current = places.still_managed(principal, agent_id, stored)
            gone = places.instance(current, instance_id)
            if len(current.instances) == 1:
                text = f"{instance_id!r} is the last instance of agent {agent_id!r}; remove or drain the agent instead."
                raise Conflict(text, agent=agent_id)
            instances = tuple(instance for instance in current.instances if instance.id != gone.id)
            return msgspec.structs.replace(current, instances=instances)

        await places.store.change(agent_id, decide)

    def _credential_for(self, agent: Agent, url: str) -> str | None:
        """The stored credential goes only where it went before."""
        try:
            return self._places.credentials.open(agent) if origin_of(url) in agent_origins(agent) else None
        except StoreCorrupt:
            return None
