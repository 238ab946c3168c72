"""What goes over the wire under `/v1`: strict on the way in, complete on the way out. The OpenAPI schemas are these."""

from typing import Annotated, Literal

import msgspec

from meshway.kernel.delegation import HOPS_MAX
from meshway.kernel.pages import LIMIT_DEFAULT, LIMIT_MAX
from meshway.registry.checks import ATTEMPTS_MAX, CALLS_MAX, TASK_TIMEOUT_MAX_MS
from meshway.registry.values import AgentState

__all__ = [
    "AgentListQuery",
    "AgentPage",
    "AgentPatchBody",
    "AgentRegistration",
    "AgentRemoved",
    "AgentSettingsBody",
    "AgentSettingsPatch",
    "AgentSettingsView",
    "AgentView",
    "HeartbeatBody",
    "InstanceAddition",
    "InstancePage",
    "InstancePatchBody",
    "InstanceView",
    "KeyCreated",
    "KeyCreation",
    "KeyPage",
    "KeyView",
    "SkillView",
]

_ID_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

AgentIdText = Annotated[
    str,
    msgspec.Meta(
        pattern=_ID_PATTERN,
        description="1 to 63 characters a-z, 0-9 and '-', beginning and ending with a letter or digit; not `watch`.",
        examples=["weather"],
    ),
]
InstanceIdText = Annotated[
    str, msgspec.Meta(pattern=_ID_PATTERN, description="Chosen by the hub when left out.", examples=["eu-1"])
]
UrlText = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=2_048,
        description="http or https; the agent's base, below which its card is found.",
        examples=["http://127.0.0.1:9000"],
    ),
]
Labels = Annotated[
    dict[str, str], msgspec.Meta(description="Free key=value pairs to find and choose by.", examples=[{"zone": "eu"}])
]
Capacity = Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="Calls at once; without it there is no limit.")]
Weight = Annotated[int, msgspec.Meta(ge=1, le=1_000, description="Share of traffic relative to its siblings.")]
TimeoutMs = Annotated[
    int, msgspec.Meta(ge=1, le=86_400_000, description="Wait of a unary caller who names none, in milliseconds.")
]
Credential = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=8_192,
        description="What the agent demands: a bearer token, 'Scheme value' for Authorization, or a whole header such "
        "as 'X-API-Key: value'. Stored encrypted, never shown again, dropped when the agent's origin changes.",
    ),
]
CardStyle = Annotated[
    Literal["1.0", "union", "0.3"], msgspec.Meta(description="Which agent card the hub serves for this agent.")
]
TaskTimeoutMs = Annotated[
    int, msgspec.Meta(ge=1, le=TASK_TIMEOUT_MAX_MS, description="Work on one task ends after this, in milliseconds.")
]
AttemptsMax = Annotated[
    int, msgspec.Meta(ge=1, le=ATTEMPTS_MAX, description="Attempts before a task goes to the agent's dead letters.")
]
DeliveryStyle = Annotated[
    Literal["direct", "durable"],
    msgspec.Meta(
        description="`durable`: the hub accepts messages for an agent with a URL, calls it with retries and keeps what "
        "it says."
    ),
]
RecordStyle = Annotated[
    Literal["all", "streams", "off"],
    msgspec.Meta(description="Which events of the agent's tasks the hub keeps: all, those of streams, or none."),
]
DedupeMessages = Annotated[
    bool, msgspec.Meta(description="Take a message with the id and content of one before for a repetition of it.")
]
DepthMax = Annotated[
    int,
    msgspec.Meta(ge=1, le=HOPS_MAX, description="Agents in a row, this one included, that one task may go through."),
]
CallsMax = Annotated[int, msgspec.Meta(ge=1, le=CALLS_MAX, description="Calls in the course of one root task.")]
AllowCycles = Annotated[bool, msgspec.Meta(description="May this agent be called again by what it has called?")]
Moment = Annotated[
    str, msgspec.Meta(description="RFC 3339 UTC with milliseconds.", examples=["2026-11-22T07:00:00.123Z"])
]
CardDocument = Annotated[
    msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object", "description": "An A2A agent card, 1.0 or 0.3."})
]
Limit = Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX, description="Items in one page at most.")]
Cursor = Annotated[str, msgspec.Meta(description="The `next_cursor` of the page before, unchanged.")]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: fields that are not named are refused."""


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""


# --- in -------------------------------------------------------------------------------------------------------------


class AgentSettingsBody(_Body, frozen=True, kw_only=True):
    """What an operator may set per agent; what is left out, or null, takes the hub's default."""

    timeout_ms: TimeoutMs | None = None
    card: CardStyle = "1.0"
    probe: Annotated[bool, msgspec.Meta(description="Ask silent instances for their card now and then.")] = True
    task_timeout_ms: TaskTimeoutMs | None = None
    attempts_max: AttemptsMax | None = None
    delivery: DeliveryStyle = "direct"
    record: RecordStyle = "all"
    dedupe_messages: DedupeMessages = False
    depth_max: DepthMax | None = None
    calls_max: CallsMax | None = None
    allow_cycles: AllowCycles | None = None


class InstanceAddition(_Body, frozen=True, kw_only=True):
    """One more replica behind the agent's name; it is asked for its card and refused when it does not answer."""

    url: UrlText
    id: InstanceIdText | None = None
    labels: Labels = {}
    capacity: Capacity | None = None
    weight: Weight = 1


class AgentRegistration(_Body, frozen=True, kw_only=True):
    """An agent by `url` (the hub fetches its card; one that does not answer is refused) or by `card` (never probed).

    `labels`, `capacity` and `weight` describe the instance at `url` or in `card`; further `instances` bring their own.
    """

    id: AgentIdText
    url: UrlText | msgspec.UnsetType = msgspec.UNSET
    card: CardDocument | msgspec.UnsetType = msgspec.UNSET
    labels: Labels = {}
    capacity: Capacity | None = None
    weight: Weight = 1
    settings: AgentSettingsBody = AgentSettingsBody()
    credential: Credential | None = None
    instances: Annotated[tuple[InstanceAddition, ...], msgspec.Meta(max_length=1_024)] = ()


class AgentSettingsPatch(_Body, frozen=True, kw_only=True):
    """Only what is named changes; null puts the default back."""

    timeout_ms: TimeoutMs | msgspec.UnsetType | None = msgspec.UNSET
    card: CardStyle | msgspec.UnsetType | None = msgspec.UNSET
    probe: bool | msgspec.UnsetType | None = msgspec.UNSET
    task_timeout_ms: TaskTimeoutMs | msgspec.UnsetType | None = msgspec.UNSET
    attempts_max: AttemptsMax | msgspec.UnsetType | None = msgspec.UNSET
    delivery: DeliveryStyle | msgspec.UnsetType | None = msgspec.UNSET
    record: RecordStyle | msgspec.UnsetType | None = msgspec.UNSET
    dedupe_messages: DedupeMessages | msgspec.UnsetType | None = msgspec.UNSET
    depth_max: DepthMax | msgspec.UnsetType | None = msgspec.UNSET
    calls_max: CallsMax | msgspec.UnsetType | None = msgspec.UNSET
    allow_cycles: AllowCycles | msgspec.UnsetType | None = msgspec.UNSET


class AgentPatchBody(_Body, frozen=True, kw_only=True):
    """Only what is named changes; null removes. Labels are merged: a label of null is removed."""

    url: UrlText | msgspec.UnsetType = msgspec.UNSET
    card: CardDocument | msgspec.UnsetType = msgspec.UNSET
    labels: dict[str, str | None] | msgspec.UnsetType | None = msgspec.UNSET
    capacity: Capacity | msgspec.UnsetType | None = msgspec.UNSET
    weight: Weight | msgspec.UnsetType | None = msgspec.UNSET
    settings: AgentSettingsPatch | msgspec.UnsetType | None = msgspec.UNSET
    credential: Credential | msgspec.UnsetType | None = msgspec.UNSET


class HeartbeatBody(_Body, frozen=True, kw_only=True):
    """A sign of life. `instance` may be left out by an agent that has only one."""

    instance: InstanceIdText | None = None
    in_flight: Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="Calls the instance works on.")] | None = (
        None
    )
    ttl_ms: Annotated[int, msgspec.Meta(ge=1, description="How long this sign of life holds.")] | None = None


class InstancePatchBody(_Body, frozen=True, kw_only=True):
    """Only what is named changes; null removes. Labels are merged: a label of null is removed."""

    labels: dict[str, str | None] | msgspec.UnsetType | None = msgspec.UNSET
    capacity: Capacity | msgspec.UnsetType | None = msgspec.UNSET
    weight: Weight | msgspec.UnsetType | None = msgspec.UNSET


class KeyCreation(_Body, frozen=True, kw_only=True):
    """A new key."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="Who or what uses it.")]
    scopes: Annotated[
        list[str],
        msgspec.Meta(
            min_length=1,
            max_length=64,
            description="`call`, `admin`, `serve:<agent pattern>`.",
            examples=[["call", "serve:billing-*"]],
        ),
    ]
    expires_at: Moment | None = None


class AgentListQuery(_Body, frozen=True, kw_only=True):
    """All given filters must hold."""

    tag: Annotated[str, msgspec.Meta(description="A tag of one of its skills.")] | None = None
    skill: Annotated[str, msgspec.Meta(description="Id or name of one of its skills.")] | None = None
    label: Annotated[
        tuple[str, ...], msgspec.Meta(description="`key=value` or `key`; repeated, all hold on one instance.")
    ] = ()
    state: Annotated[AgentState, msgspec.Meta(description="State of its best instance.")] | None = None
    q: Annotated[str, msgspec.Meta(description="Words in name, description and skills; best answer first.")] | None = (
        None
    )
    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None


# --- out ------------------------------------------------------------------------------------------------------------


class SkillView(_View, frozen=True, kw_only=True):
    """What an agent says it can do."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]


class InstanceView(_View, frozen=True, kw_only=True):
    """One replica. `url` is null for one that connects out; `lease_until` for one that never sent a heartbeat."""

    id: str
    url: str | None
    state: AgentState
    state_since: Moment
    labels: dict[str, str]
    capacity: int | None
    weight: int
    in_flight: int
    last_seen: Moment | None
    lease_until: Moment | None


class AgentSettingsView(_View, frozen=True, kw_only=True):
    """Null: the hub's default."""

    timeout_ms: int | None
    card: str
    probe: bool
    task_timeout_ms: int | None
    attempts_max: int | None
    delivery: str
    record: str
    dedupe_messages: bool
    depth_max: int | None
    calls_max: int | None
    allow_cycles: bool | None


class AgentView(_View, frozen=True, kw_only=True):
    """An agent. `state` is that of its best instance; `card` its own card as A2A 1.0, not the one the hub serves.

    `pull`: its instances connect out, and its tasks wait at the hub.
    """

    id: str
    name: str
    description: str
    state: AgentState
    pull: bool
    skills: tuple[SkillView, ...]
    card: CardDocument
    instances: tuple[InstanceView, ...]
    settings: AgentSettingsView
    has_credential: bool
    registered_at: Moment
    registered_by: str
    last_seen: Moment | None


class AgentRemoved(_View, frozen=True, kw_only=True):
    """Data of the event `removed`."""

    id: str


class AgentPage(_View, frozen=True, kw_only=True):
    """Part of the list; `next_cursor` is null on the last page."""

    items: tuple[AgentView, ...]
    next_cursor: str | None


class InstancePage(_View, frozen=True, kw_only=True):
    """All instances of one agent."""

    items: tuple[InstanceView, ...]
    next_cursor: str | None


class KeyView(_View, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None


class KeyPage(_View, frozen=True, kw_only=True):
    """All keys, revoked ones too, oldest first."""

    items: tuple[KeyView, ...]
    next_cursor: str | None


class KeyCreated(_View, frozen=True, kw_only=True):
    """The only time `key` is shown."""

    id: str
    name: str
    scopes: tuple[str, ...]
    key: str
    created_at: Moment
    expires_at: Moment | None
