"""What the use cases need from the outside rooms; assembly wires the implementations in."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from meshway.kernel.deadline import Deadline
from meshway.kernel.ids import AgentId, ContextId, KeyId, TaskId
from meshway.kernel.operations import AgentOperation
from meshway.kernel.principal import Principal
from meshway.registry.values import Agent, CardFacts, Instance
from meshway.tasks.follower import Outlet
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.values import TaskEvent, TaskSeen

__all__ = [
    "AgentCall",
    "AgentReply",
    "AgentStream",
    "AgentTransport",
    "ApiKey",
    "ApiKeyCreated",
    "ApiKeys",
    "Authenticator",
    "CallReader",
    "CardReader",
    "CoreReply",
    "Credentials",
    "EgressRules",
    "SecretBox",
    "StreamEvent",
    "TaskStream",
]


class CallReader(Protocol):
    """What a wire request says, read only where the hub itself acts on it. Each raises InvalidRequest."""

    def send_terms(self) -> SendTerms:
        """Of a send."""

    def history_length(self) -> int | None:
        """Of GetTask: None is all of it."""

    def push_config(self) -> bytes:
        """Of a push configuration to be created: A2A 1.0 JSON."""

    def without_push_config(self) -> object:
        """Of a send: the payload without the config in it; the same object where there is none."""


class AgentCall(msgspec.Struct, kw_only=True):
    """One call of an agent. `payload` is the wire request: made by an edge, read by the transport, opaque here."""

    agent_id: AgentId
    operation: AgentOperation
    principal: Principal
    deadline: Deadline | None
    payload: object
    reader: CallReader
    task_id: TaskId | None = None
    context_id: ContextId | None = None
    message_id: str | None = None
    config_id: str | None = None
    # Of A2A, as the caller speaks it: 1.0 or 0.3.
    version: str = "1.0"
    # W3C trace context and the like: sent to the agent as they are, names in lower case.
    headers: Sequence[tuple[bytes, bytes]] = ()
    # `Meshway-Delivery: durable`, `Idempotency-Key`, `Meshway-Chain` and `Last-Event-ID` as the caller sent them.
    is_durable: bool = False
    idempotency_key: str | None = None
    chain: str | None = None
    last_event_id: str | None = None
    # Whether the transport gives answers and events in A2A 1.0, to be recorded, besides the caller's dialect.
    wants_core: bool = False
    # Of a stream: where recorded events go past the stream while the caller waits for the next.
    outlet: Outlet | None = None


class AgentReply(msgspec.Struct):
    """A whole answer in the caller's own dialect, ready to be sent."""

    status: int
    content_type: bytes
    body: bytes
    task: TaskSeen | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    # The result in A2A 1.0 where it was asked for; None for errors.
    core: bytes | None = None


class CoreReply(msgspec.Struct):
    """The result of an operation in A2A 1.0 JSON; the edge puts it into the caller's dialect."""

    core: bytes
    task: TaskSeen | None = None


class StreamEvent(msgspec.Struct):
    """One server-sent event: framed in the caller's dialect, ending in a blank line, or `core`, to be numbered first.

    `core` is an A2A 1.0 StreamResponse; then `frame` is empty. `number` is its place in the task, where it is recorded.
    """

    frame: bytes
    task: TaskSeen | None = None
    core: bytes | None = None
    number: int | None = None
    # In place of an event: from here on the stream is what is recorded of `task`, in batches. Its giver closes it.
    rest: AsyncGenerator[Sequence[TaskEvent], None] | None = None


@dataclass(slots=True)
class AgentStream:
    """An answer that goes on. Whoever has it closes it, however reading ended."""

    events: AsyncGenerator[StreamEvent, None]
    headers: Sequence[tuple[bytes, bytes]] = field(default=())
    # Called once, when it is closed.
    when_closed: list[Callable[[], None]] = field(default_factory=list)

    async def aclose(self) -> None:
        """Close the events and with them the upstream. Idempotent."""
        _call_all(self.when_closed)
        await self.events.aclose()


@dataclass(slots=True)
class TaskStream:
    """Numbered events of one task, in batches. Whoever has it closes it; the task goes on."""

    events: AsyncGenerator[Sequence[TaskEvent], None]
    task_id: TaskId | None = None
    # Called once, when it is closed.
    when_closed: list[Callable[[], None]] = field(default_factory=list)

    async def aclose(self) -> None:
        """Follow no more. Idempotent."""
        _call_all(self.when_closed)
        await self.events.aclose()


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    while callbacks:
        callbacks.pop()()


class AgentTransport(Protocol):
    """How the hub speaks to an instance."""

    async def call(self, agent: Agent, instance: Instance, call: AgentCall) -> AgentReply | AgentStream:
        """One attempt at one instance; whether the answer streams is decided by what the agent sends.

        Raises: UpstreamUnreachable (no byte was sent: another instance may be tried), UpstreamBroken, UpstreamInvalid,
        DeadlineExceeded (may_have_acted), OperationUnsupported (the instance speaks no dialect of ours), EgressDenied.
        """


class CardReader(Protocol):
    """Agent cards, A2A 1.0 and 0.3."""

    async def fetch(self, url: str, *, credential: str | None = None) -> CardFacts:
        """GET the card below the base URL.

        Raises: UpstreamUnreachable, UpstreamInvalid, InvalidRequest, EgressDenied.
        """

    def read(self, document: bytes) -> CardFacts:
        """Check a posted card. Raises: InvalidRequest with every wrong field, PayloadTooLarge."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request showed: the key's text, or None."""

    key: str | None


class Authenticator(Protocol):
    """Who is this? Synchronous and from memory: it stands before every request."""

    def authenticate(self, credentials: Credentials) -> Principal:
        """Raises: Unauthenticated when a key is wrong, expired or revoked, or demanded and absent."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: KeyId
    name: str
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyCreated:
    """The only time the secret is shown."""

    key: ApiKey
    secret: str


class ApiKeys(Protocol):
    """Administration of API keys."""

    async def create(self, name: str, scopes: Sequence[str], *, expires_at_ms: int | None = None) -> ApiKeyCreated:
        """Raises: InvalidRequest."""

    async def list_keys(self) -> Sequence[ApiKey]:
        """All keys, revoked ones too, oldest first."""

    async def revoke(self, key_id: KeyId) -> ApiKey:
        """Effective at once. Raises: KeyNotFound."""


class EgressRules(Protocol):
    """Where the hub may connect to on behalf of others."""

    def check_url(self, url: str, *, field: str = "url") -> None:
        """Form, scheme and literal address. Raises: InvalidRequest or EgressDenied naming `field`."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Addresses the hub may dial for this host, checked after resolution.

        Raises: EgressDenied, UpstreamUnreachable.
        """


class SecretBox(Protocol):
    """Seals credentials for storage: authenticated encryption under the hub's `secret.key`."""

    def seal(self, plaintext: str, *, context: str) -> str:
        """Text that only `open` with the same context reads."""

    def open(self, sealed: str, *, context: str) -> str:
        """Raises: StoreCorrupt when it was sealed by another key, for another context, or changed."""
