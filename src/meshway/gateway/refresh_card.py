"""A probe found that an agent's card has changed: take the new one over. A duty of the hub, not of a caller."""

import logging

import msgspec

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import AgentId, InstanceId
from meshway.registry.origins import agent_origins, instance_origins, told_apart
from meshway.registry.values import Agent, CardFacts

__all__ = ["RefreshCard"]

_log = logging.getLogger(__name__)


class RefreshCard:
    """The hook of `registry.prober.Prober`."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, agent_id: AgentId, instance_id: InstanceId, facts: CardFacts) -> None:
        """Store the new card, with the interfaces it names; raises nothing, the old card stands when it is unusable.

        Interfaces at an origin the agent had nothing at drop its credential: a card must not lead it elsewhere.
        """
        try:
            spoken = tuple(self._places.reader.spoken(facts))

            def decide(stored: Agent | None) -> Agent | None:
                old = None if stored is None else stored.instance(instance_id)
                if stored is None or old is None or not stored.by_url:
                    return stored
                new = msgspec.structs.replace(old, interfaces=spoken)
                instances = told_apart([new if instance.id == old.id else instance for instance in stored.instances])
                kept = stored.credential if instance_origins(instances) <= agent_origins(stored) else None
                if stored.credential is not None and kept is None:
                    _log.warning("agent_credential_dropped", extra={"agent": agent_id, "instance": instance_id})
                return msgspec.structs.replace(stored, card=facts, instances=instances, credential=kept)

            await self._places.store.change(agent_id, decide)
        except MeshwayError as error:
            _log.warning("changed_card_not_taken", extra={"agent": agent_id, "reason": error.detail})
