"""Change some of what an agent was registered with, and nothing else."""

import msgspec
from msgspec import UNSET, UnsetType

from meshway.gateway.instance_reader import InstanceSpec
from meshway.gateway.patches import InstancePatch, SettingsPatch, patched_instance, patched_settings
from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.origins import agent_origins, instance_origins
from meshway.registry.values import Agent, CardFacts, Instance

__all__ = ["AgentPatch", "UpdateAgent"]


class AgentPatch(msgspec.Struct, frozen=True, kw_only=True):
    """UNSET leaves alone, None removes. `instance` goes to every instance; `url` and `card` are for agents with one."""

    url: str | UnsetType = UNSET
    card: bytes | UnsetType = UNSET
    instance: InstancePatch = InstancePatch()
    settings: SettingsPatch | UnsetType | None = UNSET
    credential: str | UnsetType | None = UNSET


class UpdateAgent:
    """PATCH of an agent. A new URL or card that leads to another origin drops the stored credential."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, agent_id: AgentId, patch: AgentPatch) -> Agent:
        """All of the patch or none of it.

        Raises: AgentNotFound, Forbidden, InvalidRequest with the field, EgressDenied, UpstreamUnreachable (`url`).
        """
        places = self._places
        agent = places.managed(principal, agent_id)
        moved = await self._moved(agent, patch)
        sealed = places.credentials.seal(agent_id, patch.credential) if isinstance(patch.credential, str) else None

        def decide(stored: Agent | None) -> Agent:
            current = places.still_managed(principal, agent_id, stored)
            if moved is not None:
                current = _with_instance(current, *moved)
            instances = tuple(patched_instance(i, patch.instance, places.settings) for i in current.instances)
            settings = current.settings
            if patch.settings is not UNSET:
                settings = patched_settings(settings, patch.settings)
            credential = current.credential if patch.credential is UNSET else sealed
            changed = msgspec.structs.replace(current, instances=instances, settings=settings, credential=credential)
            return current if stored is current and changed == current else changed

        await places.store.change(agent_id, decide)
        if moved is not None and moved[1].last_seen_ms is not None:
            places.presence.saw_probe(agent_id, moved[1].id, ok=True)
        return places.shown(agent_id)

    async def _moved(self, agent: Agent, patch: AgentPatch) -> tuple[CardFacts, Instance] | None:
        """The card and instance that a new URL or card leads to; None when neither changes."""
        if patch.url is UNSET and patch.card is UNSET:
            return None
        field = "url" if patch.url is not UNSET else "card"
        if agent.pull:
            raise _refused(field, "the instances of this agent connect out, and bring its card")
        if patch.url is not UNSET and patch.card is not UNSET:
            raise _refused("card", "give url or card, not both")
        if len(agent.instances) != 1:
            raise _refused(field, f"the agent has {len(agent.instances)} instances; add and remove single instances")
        if agent.by_url != (field == "url"):
            how = "by URL; its card comes from there" if agent.by_url else "by card; register it again by its URL"
            raise _refused(field, f"the agent was registered {how}")
        reader, now_ms, old = self._places.reader, self._places.clock.now_ms(), agent.instances[0]
        if patch.card is not UNSET:
            spec = InstanceSpec(url="", labels=old.labels, capacity=old.capacity, weight=old.weight)
            return reader.by_card(patch.card, spec, now_ms=now_ms)
        assert isinstance(patch.url, str)
        spec = InstanceSpec(url=patch.url, labels=old.labels, capacity=old.capacity, weight=old.weight)
        wrong = reader.check(spec)
        if wrong:
            raise InvalidRequest(f"{wrong[0].field}: {wrong[0].message}", fields=wrong)
        credential = patch.credential if isinstance(patch.credential, str) else None
        return await reader.by_url(spec, now_ms=now_ms, credential=credential)


def _with_instance(agent: Agent, facts: CardFacts, instance: Instance) -> Agent:
    """The agent at its new place; the credential stays only where it was given for."""
    kept = agent.credential if instance_origins([instance]) <= agent_origins(agent) else None
    return msgspec.structs.replace(agent, card=facts, instances=(instance,), credential=kept)


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])
