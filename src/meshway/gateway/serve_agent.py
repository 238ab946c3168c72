"""An instance of an agent connects out to this hub: it is registered, seen, and gone again."""

from collections.abc import Callable

import msgspec

from meshway.gateway.registry_places import RegistryPlaces
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import AgentNotFound, CapacityReached, Conflict, FieldError, InvalidRequest
from meshway.kernel.ids import AgentId, InstanceId, parse_agent_id, parse_instance_id
from meshway.kernel.principal import Principal
from meshway.registry.checks import check_capacity, check_labels
from meshway.registry.values import Agent, AgentState, CardFacts, Instance
from meshway.tasks.claims import Claim

__all__ = ["INSTANCE_TTL_MS", "ServeAgent", "ServeRequest"]

# How long an instance is taken for online after it was last heard of; its hub renews it three times in that.
INSTANCE_TTL_MS = 15_000
# Processes get a new instance id at each start; those that are gone for so long do not come back.
_GONE_AFTER_MS = 3_600_000
# A card must name an address; those who connect out have none, and the hub shows its own anyway.
_NO_ADDRESS = [{"url": "http://connects.out.invalid/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]

_decode_card = msgspec.json.Decoder(dict[str, object]).decode


class ServeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants to serve what. `card` is A2A 1.0 JSON; None: the agent is known."""

    agent: str
    instance: str
    card: bytes | None = None
    labels: dict[str, str] = {}
    capacity: int | None = None


class ServeAgent:
    """For principals with the scope `serve` for the agent; replicas may have keys of their own."""

    def __init__(self, registry: RegistryPlaces, tasks: TaskPlaces) -> None:
        self._registry = registry
        self._tasks = tasks

    async def join(self, principal: Principal, request: ServeRequest) -> tuple[AgentId, InstanceId]:
        """Register agent and instance; online when this returns.

        The card replaces the one before where the principal may change the agent, and is ignored where it may only
        serve it. Raises: InvalidRequest, Forbidden, AgentNotFound (no card, and no such agent), Conflict (the agent is
        called by URL), CapacityReached, StorageFull, EngineUnavailable.
        """
        places = self._registry
        agent_id = parse_agent_id(request.agent, field="agent")
        instance_id = parse_instance_id(request.instance)
        places.admission.admit_serve(principal, agent_id)
        wrong = [
            *check_labels(request.labels, "labels", places.settings),
            *check_capacity(request.capacity, "capacity"),
        ]
        if wrong:
            raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong[:3]), fields=wrong)
        facts = None if request.card is None else self._facts(request.card)
        now_ms = places.clock.now_ms()
        instance = Instance(
            id=instance_id,
            url="",
            interfaces=(),
            labels=dict(request.labels),
            capacity=request.capacity,
            state=AgentState.ONLINE,
            state_since_ms=now_ms,
            last_seen_ms=now_ms,
        )
        await places.store.change(agent_id, lambda stored: self._decide(principal, agent_id, stored, facts, instance))
        self.heartbeat(agent_id, instance_id)
        return agent_id, instance_id

    def admit(self, principal: Principal, agent_id: AgentId) -> None:
        """May it speak for the agent? Raises: Forbidden."""
        self._registry.admission.admit_serve(principal, agent_id)

    def heartbeat(self, agent_id: AgentId, instance_id: InstanceId) -> None:
        """The instance is there. Nothing where it was removed meanwhile."""
        try:
            self._registry.presence.heartbeat(agent_id, instance_id, ttl_ms=INSTANCE_TTL_MS)
        except AgentNotFound:
            return

    def lost(self, agent_id: AgentId, instance_id: InstanceId, told: Callable[[Claim, str], None]) -> None:
        """Its connection broke: what it holds stays its own for the grace, and for that long it is in doubt.

        What it has shown over a newer connection meanwhile, it holds there: `told` is what this one was told by.
        """
        self._registry.presence.saw_broken(agent_id, instance_id)
        ends_ms = self._tasks.clock.monotonic_ms() + self._tasks.settings.reconnect_grace_ms
        for claim in self._tasks.claims.held_by(agent_id, instance_id):
            if claim.told == told:
                claim.grace_ends_ms = ends_ms

    async def leave(self, agent_id: AgentId, instance_id: InstanceId) -> None:
        """It left for good; what it held must have been released before. Raises: StorageFull, EngineUnavailable."""

        def decide(stored: Agent | None) -> Agent | None:
            if stored is None or stored.instance(instance_id) is None:
                return stored
            others = tuple(instance for instance in stored.instances if instance.id != instance_id)
            return msgspec.structs.replace(stored, instances=others)

        await self._registry.store.change(agent_id, decide)

    def _facts(self, card: bytes) -> CardFacts:
        try:
            fields = _decode_card(card)
        except msgspec.DecodeError as error:
            text = f"must be an agent card, a JSON object ({error})"
            raise InvalidRequest(f"card: {text}", fields=[FieldError("card", text)]) from None
        told = msgspec.json.encode({**fields, "supportedInterfaces": _NO_ADDRESS})
        facts = self._registry.reader.read_card(told)
        shown = {**_decode_card(facts.document.encode()), "supportedInterfaces": []}
        # What the hub does for its own tasks, whatever the instance says.
        capabilities = shown.get("capabilities")
        shown["capabilities"] = {
            **(capabilities if isinstance(capabilities, dict) else {}),
            "streaming": True,
            "pushNotifications": True,
            "extendedAgentCard": True,
        }
        return msgspec.structs.replace(
            facts,
            interfaces=(),
            document=msgspec.json.encode(shown).decode(),
            original=card.decode(),
            streaming=True,
            push_notifications=True,
            extended_card=True,
        )

    def _decide(
        self, principal: Principal, agent_id: AgentId, stored: Agent | None, facts: CardFacts | None, instance: Instance
    ) -> Agent:
        places = self._registry
        if stored is None:
            if facts is None:
                text = f"There is no agent {agent_id!r} at this hub; send its card to register it."
                raise AgentNotFound(text, agent=agent_id)
            if len(places.directory) >= places.settings.agents_max:
                raise CapacityReached(f"The hub has {places.settings.agents_max} agents, as many as it keeps.")
            return Agent(
                id=agent_id,
                card=facts,
                instances=(instance,),
                registered_at_ms=instance.state_since_ms,
                registered_by=principal.id,
                by_url=False,
                pull=True,
            )
        if not stored.pull:
            text = f"Agent {agent_id!r} is called by URL; remove it first, or serve under another name."
            raise Conflict(text, agent=agent_id)
        gone_before_ms = instance.state_since_ms - _GONE_AFTER_MS
        others = [
            other
            for other in stored.instances
            if other.id != instance.id
            and not (other.state is AgentState.OFFLINE and other.state_since_ms < gone_before_ms)
        ]
        if len(others) >= places.settings.instances_max:
            raise CapacityReached(f"Agent {agent_id!r} has {len(others)} instances, as many as one may have.")
        known = stored.instance(instance.id)
        if known is not None and known.state is AgentState.DRAINING:
            # What an operator asked for outlives a lost connection.
            instance = msgspec.structs.replace(instance, state=AgentState.DRAINING, state_under_drain=AgentState.ONLINE)
        replaces_card = facts is not None and places.admission.may_manage(principal, stored)
        same = facts is not None and facts.document == stored.card.document
        card = facts if facts is not None and replaces_card and not same else stored.card
        return msgspec.structs.replace(stored, card=card, instances=(*others, instance))
