"""What the hub answers, as the SDK shows it. Unknown fields are ignored, so an older SDK reads a newer hub."""

from typing import Generic, Literal, TypeVar

import msgspec

__all__ = [
    "AgentChange",
    "AgentInstance",
    "AgentSkill",
    "ApiKeyInfo",
    "NewApiKey",
    "Page",
    "RegisteredAgent",
]

Item = TypeVar("Item")


class AgentSkill(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()


class AgentInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One replica. Times are RFC 3339 UTC text as the hub sends them."""

    id: str
    url: str | None = None
    state: str = "offline"
    labels: dict[str, str] = {}
    capacity: int | None = None
    weight: int = 1
    in_flight: int = 0
    state_since: str = ""
    last_seen: str | None = None
    lease_until: str | None = None


class RegisteredAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as the registry knows it; `state` is that of its best instance."""

    id: str
    name: str = ""
    description: str = ""
    state: str = "offline"
    skills: tuple[AgentSkill, ...] = ()
    card: dict[str, object] = {}
    instances: tuple[AgentInstance, ...] = ()
    settings: dict[str, object] = {}
    has_credential: bool = False
    registered_at: str = ""
    registered_by: str | None = None
    last_seen: str | None = None


class AgentChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the registry. `event_id` resumes a watch after this change.

    `changed` carries the agent's present value, `removed` only its id. `reset` carries neither: the hub could not go on
    where the watch stopped (it restarted, or too much has changed), so every present agent follows as `changed`, and
    those that do not come are gone.
    """

    kind: Literal["changed", "removed", "reset"]
    agent_id: str | None = None
    agent: RegisteredAgent | None = None
    event_id: str | None = None


class ApiKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: str = ""
    expires_at: str | None = None
    revoked_at: str | None = None


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to creating a key: the only time `key` is shown."""

    id: str
    name: str
    scopes: tuple[str, ...]
    key: str
    created_at: str = ""
    expires_at: str | None = None


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """Part of a list; `next_cursor` is None on the last page."""

    items: tuple[Item, ...]
    next_cursor: str | None = None
