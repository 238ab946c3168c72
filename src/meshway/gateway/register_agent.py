"""Register an agent: by URL, when the hub reads its card there and then, or by a card somebody posts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from meshway.gateway.instance_reader import InstanceSpec
from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.errors import CapacityReached, FieldError, InvalidRequest, StoreCorrupt
from meshway.kernel.ids import parse_agent_id
from meshway.kernel.principal import Principal
from meshway.registry.checks import check_settings
from meshway.registry.origins import agent_origins, instance_origins, origin_of, told_apart
from meshway.registry.presence import believed
from meshway.registry.values import Agent, AgentSettings, AgentState, CardFacts, Instance

__all__ = ["RegisterAgent", "Registered", "Registration", "merge_registrations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is asked for: `url` or `card` (JSON bytes), or `instances` by URL.

    `labels`, `capacity` and `weight` describe the instance of `url` or `card`; further instances carry their own.
    """

    id: str
    url: str | None = None
    card: bytes | None = None
    labels: dict[str, str] = field(default_factory=dict)
    capacity: int | None = None
    weight: int = 1
    settings: AgentSettings = field(default_factory=AgentSettings)
    credential: str | None = None
    instances: Sequence[InstanceSpec] = ()

    def specs(self) -> Sequence[tuple[str, InstanceSpec]]:
        """Instances by URL, each with the prefix of its fields in the request."""
        found = [(f"instances.{number}.", spec) for number, spec in enumerate(self.instances)]
        return found if self.url is None else [("", self.described(self.url)), *found]

    def described(self, url: str) -> InstanceSpec:
        return InstanceSpec(url=url, labels=self.labels, capacity=self.capacity, weight=self.weight)


@dataclass(frozen=True, slots=True)
class Registered:
    """`created` False: an agent of that id was replaced."""

    agent: Agent
    created: bool


class RegisterAgent:
    """Registering again replaces everything but the time of the first registration and the key that made it.

    Also kept: leases and last contact of instances that are the same, and the stored credential while the agent stays
    at its origins. A drain ends.
    """

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, registration: Registration) -> Registered:
        """Stored, durably, and callable when this returns.

        Raises: InvalidRequest with every wrong field, Forbidden, EgressDenied, UpstreamUnreachable and UpstreamInvalid
        (field `url`: the agent does not answer, or with no card), CapacityReached, StorageFull, EngineUnavailable.
        """
        places = self._places
        agent_id = parse_agent_id(registration.id)
        places.admission.admit_serve(principal, agent_id)
        before = places.directory.get(agent_id)
        if before is not None:
            places.admission.admit_manage(principal, before)
        self._refuse_when_full(before)
        self._check(registration)
        facts, instances = await self._read(registration, before)
        sealed = None
        if registration.credential is not None:
            sealed = places.credentials.seal(agent_id, registration.credential)
        asked = Agent(
            id=agent_id,
            card=facts,
            instances=instances,
            registered_at_ms=places.clock.now_ms(),
            registered_by=principal.id,
            settings=registration.settings,
            by_url=registration.card is None,
            credential=sealed,
        )
        changed = await places.store.change(agent_id, lambda stored: self._decide(principal, stored, asked))
        for instance in instances:
            if instance.last_seen_ms is not None and asked.by_url:
                places.presence.saw_probe(agent_id, instance.id, ok=True)
        return Registered(places.shown(agent_id), created=changed.before is None)

    def _refuse_when_full(self, before: Agent | None) -> None:
        agents_max = self._places.settings.agents_max
        if before is None and len(self._places.directory) >= agents_max:
            text = f"The hub has {agents_max} agents, as many as it keeps; remove some or raise registry.agents_max."
            raise CapacityReached(text)

    def _check(self, registration: Registration) -> None:
        """Raises: InvalidRequest with everything that is wrong before anybody is asked; EgressDenied."""
        wrong = check_settings(registration.settings)
        specs = registration.specs()
        if registration.card is not None and specs:
            wrong.append(FieldError("card", "give url (or instances) or card, not both"))
        elif registration.card is None and not specs:
            wrong.append(FieldError("url", "give the agent's url, or its card"))
        most = self._places.settings.instances_max
        if len(specs) > most:
            wrong.append(FieldError("instances", f"{len(specs)} instances; an agent has at most {most}"))
        else:
            for prefix, spec in specs:
                wrong += self._places.reader.check(spec, prefix=prefix)
        if registration.card is not None:
            # The URL of a posted card is checked when the card is read.
            wrong += self._places.reader.check_description(registration.described(""))
        if wrong:
            raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong[:3]), fields=wrong)

    async def _read(self, registration: Registration, before: Agent | None) -> tuple[CardFacts, tuple[Instance, ...]]:
        """The card of the first instance, and all instances. One that does not answer refuses the registration."""
        places, now_ms = self._places, self._places.clock.now_ms()
        if registration.card is not None:
            described = registration.described("")
            facts, instance = places.reader.by_card(registration.card, described, now_ms=now_ms)
            return facts, (instance,)
        read = []
        for prefix, spec in registration.specs():
            credential = registration.credential or self._credential_for(spec.url, before)
            read.append(await places.reader.by_url(spec, now_ms=now_ms, credential=credential, prefix=prefix))
        instances = told_apart([instance for _, instance in read])
        _refuse_repeated([instance.id for instance in instances])
        return read[0][0], instances

    def _credential_for(self, url: str, before: Agent | None) -> str | None:
        """The stored credential goes only where it went before."""
        if before is None or origin_of(url) not in agent_origins(before):
            return None
        try:
            return self._places.credentials.open(before)
        except StoreCorrupt:
            # Sealed under a secret.key that is gone: registering again is how the operator repairs that.
            return None

    def _decide(self, principal: Principal, stored: Agent | None, asked: Agent) -> Agent:
        self._refuse_when_full(stored)
        if stored is None:
            return asked
        self._places.admission.admit_manage(principal, stored)
        kept = stored.credential if instance_origins(asked.instances) <= agent_origins(stored) else None
        return msgspec.structs.replace(
            asked,
            registered_at_ms=stored.registered_at_ms,
            registered_by=stored.registered_by,
            credential=asked.credential or kept,
            instances=tuple(_carried_over(instance, stored) for instance in asked.instances),
        )


def merge_registrations(registrations: Iterable[Registration]) -> list[Registration]:
    """Entries of one id become one registration with several instances, in order: how configuration files are read.

    Settings and credential are the first entry's. Raises: InvalidRequest when one of several entries has a card.
    """
    merged: dict[str, Registration] = {}
    for entry in registrations:
        first = merged.get(entry.id)
        if first is None:
            merged[entry.id] = entry
            continue
        if first.card is not None or entry.card is not None:
            text = f"agent {entry.id!r} stands there more than once; only agents by url can have several instances"
            raise InvalidRequest(text, fields=[FieldError("card", text)])
        added = [spec for _, spec in entry.specs()]
        merged[entry.id] = replace(first, instances=[*first.instances, *added])
    return list(merged.values())


def _refuse_repeated(instance_ids: Sequence[str]) -> None:
    repeated = {instance_id for instance_id in instance_ids if instance_ids.count(instance_id) > 1}
    if repeated:
        text = f"the same instance twice ({', '.join(sorted(repeated))}); each needs a URL or an id of its own"
        raise InvalidRequest(f"instances: {text}", fields=[FieldError("instances", text)])


def _carried_over(instance: Instance, stored: Agent) -> Instance:
    """What is known of life at the same place: the lease, the last contact, and the state where nobody asked."""
    old = stored.instance(instance.id)
    if old is None or old.url != instance.url:
        return instance
    carried = msgspec.structs.replace(instance, lease_until_ms=old.lease_until_ms, lease_ttl_ms=old.lease_ttl_ms)
    if instance.state is AgentState.ONLINE:
        return (
            msgspec.structs.replace(carried, state_since_ms=old.state_since_ms)
            if old.state is instance.state
            else carried
        )
    if old.interfaces != instance.interfaces:
        return carried
    since_ms = instance.state_since_ms if old.state is AgentState.DRAINING else old.state_since_ms
    return msgspec.structs.replace(carried, state=believed(old), state_since_ms=since_ms, last_seen_ms=old.last_seen_ms)
