"""From the registry's values to what the wire shows. Pure."""

from collections.abc import Callable

import msgspec

from meshway.edges.rest.models import (
    AgentSettingsView,
    AgentView,
    InstanceView,
    KeyCreated,
    KeyView,
    SkillView,
)
from meshway.gateway.ports import ApiKey, ApiKeyCreated
from meshway.kernel.clock import rfc3339_ms
from meshway.registry.presence import agent_state, last_seen_ms
from meshway.registry.values import Agent, Instance

__all__ = ["InFlight", "agent_view", "instance_view", "key_created_view", "key_view"]

# Calls at this moment, by agent id and instance id.
InFlight = Callable[[str, str], int]


def agent_view(agent: Agent, in_flight: InFlight) -> AgentView:
    """The agent with all its instances; its credential is only said to exist."""
    card = agent.card
    return AgentView(
        id=agent.id,
        name=card.name,
        description=card.description,
        state=agent_state(agent),
        pull=agent.pull,
        skills=tuple(
            SkillView(id=skill.id, name=skill.name, description=skill.description, tags=skill.tags)
            for skill in card.skills
        ),
        card=msgspec.Raw(card.document.encode()),
        instances=tuple(instance_view(agent.id, instance, in_flight) for instance in agent.instances),
        settings=AgentSettingsView(**msgspec.structs.asdict(agent.settings)),
        has_credential=agent.credential is not None,
        registered_at=rfc3339_ms(agent.registered_at_ms),
        registered_by=agent.registered_by,
        last_seen=_moment(last_seen_ms(agent)),
    )


def instance_view(agent_id: str, instance: Instance, in_flight: InFlight) -> InstanceView:
    return InstanceView(
        id=instance.id,
        url=instance.url or None,
        state=instance.state,
        state_since=rfc3339_ms(instance.state_since_ms),
        labels=instance.labels,
        capacity=instance.capacity,
        weight=instance.weight,
        in_flight=in_flight(agent_id, instance.id),
        last_seen=_moment(instance.last_seen_ms),
        lease_until=_moment(instance.lease_until_ms),
    )


def key_view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        created_at=rfc3339_ms(key.created_at_ms),
        expires_at=_moment(key.expires_at_ms),
        revoked_at=_moment(key.revoked_at_ms),
    )


def key_created_view(created: ApiKeyCreated) -> KeyCreated:
    return KeyCreated(
        id=created.key.id,
        name=created.key.name,
        scopes=created.key.scopes,
        key=created.secret,
        created_at=rfc3339_ms(created.key.created_at_ms),
        expires_at=_moment(created.key.expires_at_ms),
    )


def _moment(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else rfc3339_ms(epoch_ms)
