"""An agent says that it is there, how busy it is, and how long that holds."""

from dataclasses import dataclass

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import AgentId, parse_instance_id
from meshway.kernel.principal import Principal
from meshway.registry.values import Agent, Instance
from meshway.routing.balancer import Balancer

__all__ = ["Heartbeat", "HeartbeatAgent", "HeartbeatTaken"]

# Shorter than a sweep apart, a lease would end between two of them; half a second is also a network's usual hiccup.
_TTL_MIN_MS = 500
# A day: who is heard of more rarely is better watched by probes.
_TTL_MAX_MS = 86_400_000
_IN_FLIGHT_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """`instance` may be left out by an agent that has one. `in_flight`: all its calls, whoever made them."""

    instance: str | None = None
    in_flight: int | None = None
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatTaken:
    """The instance as it is now; its `lease_until_ms` is when the hub will miss it."""

    agent: Agent
    instance: Instance


class HeartbeatAgent:
    """Renews the lease of one instance; the first one gives it a lease. Brings an offline instance back at once."""

    def __init__(self, places: RegistryPlaces, balancer: Balancer) -> None:
        self._places = places
        self._balancer = balancer

    async def execute(self, principal: Principal, agent_id: AgentId, heartbeat: Heartbeat) -> HeartbeatTaken:
        """For the key that registered the agent, and any that may serve it: replicas may have keys of their own.

        Raises: AgentNotFound (also for an unknown instance), Forbidden, InvalidRequest naming the field.
        """
        places = self._places
        agent = places.agent(agent_id)
        if not places.admission.may_manage(principal, agent):
            places.admission.admit_serve(principal, agent_id)
        ttl_ms = places.settings.lease_ttl_ms if heartbeat.ttl_ms is None else heartbeat.ttl_ms
        _check(heartbeat, ttl_ms)
        instance = self._instance(agent, heartbeat.instance)
        renewed = places.presence.heartbeat(agent_id, instance.id, ttl_ms=ttl_ms)
        if heartbeat.in_flight is not None:
            self._balancer.report(agent_id, instance.id, heartbeat.in_flight, ttl_ms=ttl_ms)
        return HeartbeatTaken(places.shown(agent_id), renewed)

    def _instance(self, agent: Agent, named: str | None) -> Instance:
        if named is not None:
            return self._places.instance(agent, parse_instance_id(named))
        if len(agent.instances) == 1:
            return agent.instances[0]
        known = ", ".join(instance.id for instance in agent.instances[:8])
        text = f"the agent has {len(agent.instances)} instances; say which one is there: {known}"
        raise InvalidRequest(f"instance: {text}", fields=[FieldError("instance", text)])


def _check(heartbeat: Heartbeat, ttl_ms: int) -> None:
    wrong = []
    if not _TTL_MIN_MS <= ttl_ms <= _TTL_MAX_MS:
        wrong.append(FieldError("ttl_ms", f"use {_TTL_MIN_MS} to {_TTL_MAX_MS} ms, two or three times your interval"))
    if heartbeat.in_flight is not None and not 0 <= heartbeat.in_flight <= _IN_FLIGHT_MAX:
        wrong.append(FieldError("in_flight", f"use 0 to {_IN_FLIGHT_MAX}"))
    if wrong:
        raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong), fields=wrong)
