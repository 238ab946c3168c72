"""What push notifications need from the outside rooms; assembly wires the implementations in."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.values import TaskOwner

__all__ = [
    "LowerTask",
    "Notification",
    "NotificationAnswer",
    "NotificationClaims",
    "NotificationSender",
    "NotificationSigner",
    "OwnerOfTask",
]

# The record of a task, None where there is none.
OwnerOfTask = Callable[[AgentId, TaskId], Awaitable[TaskOwner | None]]
# A core Task as the JSON of 0.3 (the form of its JSON-RPC binding). Pure. Raises: ValueError where it is none.
LowerTask = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Notification:
    """One POST. Header names are in lower case."""

    url: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class NotificationAnswer:
    """What the receiver said. `retry_after_ms`: its wish, counted from now; None where it has none."""

    status: int
    retry_after_ms: int | None = None


class NotificationSender(Protocol):
    """The way to a receiver's URL."""

    async def send(self, notification: Notification) -> NotificationAnswer:
        """One attempt; any status is an answer, redirects too: they are not followed.

        Connects only to an address that passed the egress rules just now.
        Raises: EgressDenied, InvalidRequest, UpstreamUnreachable, UpstreamBroken, UpstreamInvalid, DeadlineExceeded.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationClaims:
    """What the hub's signature says of one attempt. Times are epoch seconds, as JWTs have them (RFC 7519)."""

    audience: str
    issued_at_s: int
    expires_at_s: int
    token_id: str
    task_id: str
    event_number: int
    # Of the body, in hex.
    sha256: str


class NotificationSigner(Protocol):
    """The hub's signature, which receivers check with its published key."""

    def sign(self, claims: NotificationClaims) -> str:
        """A compact JWS."""

    def jwks(self) -> bytes:
        """The public keys, as a JSON Web Key Set (RFC 7517)."""
