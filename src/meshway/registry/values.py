"""Agents as the hub knows them. Frozen: a change makes a new value, so readers never see half of one."""

import enum
from typing import Literal

import msgspec

from meshway.kernel.ids import AgentId, InstanceId, PrincipalId

__all__ = ["Agent", "AgentInterface", "AgentSettings", "AgentState", "CardFacts", "Instance", "Skill"]


class AgentState(enum.Enum):
    """Of an instance; an agent's own is that of its best instance: online, suspect, draining, offline."""

    ONLINE = "online"
    SUSPECT = "suspect"
    DRAINING = "draining"
    OFFLINE = "offline"


class AgentInterface(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how an instance is spoken to. `binding`: JSONRPC, HTTP+JSON, GRPC; `version`: 1.0, 0.3."""

    url: str
    binding: str
    version: str
    tenant: str | None = None


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str
    tags: tuple[str, ...] = ()


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub reads from an agent card of either version.

    `document` is the card as canonical A2A 1.0 JSON with every unknown field kept; `original` the bytes as they came.
    Both are UTF-8 JSON text, so that a stored agent stays readable.
    """

    name: str
    description: str
    version: str
    skills: tuple[Skill, ...]
    interfaces: tuple[AgentInterface, ...]
    streaming: bool
    push_notifications: bool
    extended_card: bool
    document: str
    original: str


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator may set per agent."""

    # Bound of a unary call when the caller gives none; None: the hub's default (60 s).
    timeout_ms: int | None = None
    # Which card the hub serves: A2A 1.0 (or 0.3 to who asks for it), both in one, or 0.3 always.
    card: Literal["1.0", "union", "0.3"] = "1.0"
    # Ask silent instances for their card now and then. Never on for agents registered by card.
    probe: bool = True
    # Work on one task ends after this; None: the hub's default (an hour).
    task_timeout_ms: int | None = None
    # Attempts before a task of this agent's inbox goes to its dead letters; None: the hub's default (5).
    attempts_max: int | None = None
    # `durable`: the hub accepts messages for an agent with a URL, calls it with retries and keeps what it says.
    delivery: Literal["direct", "durable"] = "direct"
    # Which events of this agent's tasks the hub keeps: all, those of streams, or none.
    record: Literal["all", "streams", "off"] = "all"
    # Take a message with the id and content of one before for a repetition of it.
    dedupe_messages: bool = False
    # Limits of delegation for calls of this agent; None: the hub's.
    depth_max: int | None = None
    calls_max: int | None = None
    # May this agent be called again by what it has called?
    allow_cycles: bool | None = None


class Instance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica, called by URL, or, without one, connected to a hub from which it takes its tasks.

    `lease_until_ms` None: it never sent a heartbeat, so it has no lease.
    """

    id: InstanceId
    url: str
    interfaces: tuple[AgentInterface, ...]
    labels: dict[str, str] = {}
    # Calls at once; None is no limit of its own.
    capacity: int | None = None
    # Share of traffic relative to its siblings.
    weight: int = 1
    state: AgentState = AgentState.SUSPECT
    state_since_ms: int = 0
    last_seen_ms: int | None = None
    lease_until_ms: int | None = None
    # What the instance asked for with its last heartbeat; a starting hub gives this much from its start.
    lease_ttl_ms: int | None = None
    # While draining: the state it would have without the drain, kept up to date, so that a resume is truthful at once.
    state_under_drain: AgentState | None = None

    @property
    def is_pull(self) -> bool:
        """It connects out: nobody can call it."""
        return not self.url


class Agent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name that can be called. Stored whole; `v` is the record's format."""

    id: AgentId
    card: CardFacts
    instances: tuple[Instance, ...]
    registered_at_ms: int
    registered_by: PrincipalId
    settings: AgentSettings = AgentSettings()
    # True when registered by URL: then the hub may probe it and refetch its card.
    by_url: bool = True
    # The agent's own upstream credential, sealed by the SecretBox; dropped when the origin changes.
    credential: str | None = None
    # Its instances connect out, and its tasks wait at the hub.
    pull: bool = False
    v: int = 1

    def instance(self, instance_id: str) -> Instance | None:
        """The instance of that id, or None."""
        for instance in self.instances:
            if instance.id == instance_id:
                return instance
        return None
