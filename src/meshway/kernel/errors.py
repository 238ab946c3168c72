"""The one tree of errors, grouped by what the caller can do about them.

MeshwayError
├── CallerError            fix the request
│   ├── InvalidRequest     invalid_request         a field or a body is wrong; `fields` says which
│   ├── MalformedBody      malformed_body          the bytes are not what the content type says
│   ├── MethodUnknown      method_unknown          no such operation
│   ├── VersionUnsupported version_unsupported     a protocol version this hub does not speak
│   ├── ContentTypeUnsupported content_type_unsupported
│   ├── Unauthenticated    unauthenticated         no key, or one that is wrong, expired or revoked
│   ├── Forbidden          forbidden               the key may not do this
│   ├── NotFound           not_found
│   │   ├── AgentNotFound  agent_not_found
│   │   ├── TaskNotFound   task_not_found          also: somebody else's task
│   │   ├── KeyNotFound    key_not_found
│   │   ├── ChannelNotFound channel_not_found
│   │   ├── ReaderNotFound reader_not_found        a stream has no reader of that name
│   │   └── BlobNotFound   blob_not_found          never stored, or its time is over
│   ├── Conflict           conflict                the state has changed, or the name is taken
│   ├── IdempotencyKeyReused idempotency_key_reused the key came before, with another request
│   ├── DelegationRefused  delegation_refused      the chain of delegation is at a limit, or runs in a circle
│   ├── TaskNotCancelable  task_not_cancelable     it has ended
│   ├── PushNotificationsUnsupported push_unsupported this agent's tasks send no push notifications
│   ├── OperationUnsupported operation_unsupported this agent, or this state of it, cannot do that
│   ├── ExtendedCardMissing extended_card_missing  this agent has no card beyond its public one
│   ├── EgressDenied       egress_denied           the URL points where the hub may not go
│   └── PayloadTooLarge    payload_too_large
├── LimitError             come back later (retry_after_ms)
│   ├── TooManyInFlight    too_many_in_flight      the hub or the agent has as many calls as it takes
│   ├── StorageFull        storage_full            the disk is full; reading goes on
│   ├── CapacityReached    capacity_reached        a configured maximum of kept things
│   ├── ChannelFull        channel_full            a queue or stream is at a limit of its settings
│   ├── InboxFull          inbox_full              as many tasks wait for this agent as its inbox takes
│   ├── OwnLimitReached    own_limit_reached       an agent's calls outside every chain: too many, or too often
│   ├── AgentStopped       agent_stopped           an operator stopped the agent, or all of them
│   └── Draining           draining                the hub is shutting down
├── UpstreamError          the other side (may_have_acted)
│   ├── UpstreamUnreachable upstream_unreachable   no instance took the call
│   ├── UpstreamBroken     upstream_broken         the connection broke under the call
│   ├── UpstreamInvalid    upstream_invalid        the answer is not what the protocol demands
│   ├── ResponderMissing   no_responder            nobody answers commands or queries on this channel
│   └── DeadlineExceeded   deadline_exceeded       the caller's time was up
└── EngineError            ours
    ├── EngineUnavailable  engine_unavailable      the store cannot be reached, or refuses writes until a restart
    ├── DataDirLocked      data_dir_locked         another hub holds the data directory
    ├── SchemaTooNew       schema_too_new          written by a newer Meshway
    └── StoreCorrupt       store_corrupt

Every leaf has a stable `code`; each protocol has one table from codes to its own errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AgentNotFound",
    "AgentStopped",
    "BlobNotFound",
    "CallerError",
    "CapacityReached",
    "ChannelFull",
    "ChannelNotFound",
    "Conflict",
    "ContentTypeUnsupported",
    "DataDirLocked",
    "DeadlineExceeded",
    "DelegationRefused",
    "Draining",
    "EgressDenied",
    "EngineError",
    "EngineUnavailable",
    "ExtendedCardMissing",
    "FieldError",
    "Forbidden",
    "IdempotencyKeyReused",
    "InboxFull",
    "InvalidRequest",
    "KeyNotFound",
    "LimitError",
    "MalformedBody",
    "MeshwayError",
    "MethodUnknown",
    "NotFound",
    "OperationUnsupported",
    "OwnLimitReached",
    "PayloadTooLarge",
    "PushNotificationsUnsupported",
    "ReaderNotFound",
    "ResponderMissing",
    "SchemaTooNew",
    "StorageFull",
    "StoreCorrupt",
    "TaskNotCancelable",
    "TaskNotFound",
    "TooManyInFlight",
    "Unauthenticated",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamInvalid",
    "UpstreamUnreachable",
    "VersionUnsupported",
    "error_leaves",
    "wrong_field",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field. `field` is a dotted path such as `card.skills.0.id`."""

    field: str
    message: str


class MeshwayError(Exception):
    """Base of the tree. `detail` is one sentence for a person and says what to do where something can be done."""

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str,
        *,
        fields: Sequence[FieldError] = (),
        retry_after_ms: int | None = None,
        agent: str | None = None,
        may_have_acted: bool = False,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = tuple(fields)
        self.retry_after_ms = retry_after_ms
        self.agent = agent
        self.may_have_acted = may_have_acted
        # Further members of a problem document (RFC 9457, 3.2): what became of the rest of a batch.
        self.extensions = dict(extensions or {})


class CallerError(MeshwayError):
    """Repeating the same request gives the same answer: fix it first."""


class InvalidRequest(CallerError):
    code = "invalid_request"


class MalformedBody(CallerError):
    code = "malformed_body"


class MethodUnknown(CallerError):
    code = "method_unknown"


class VersionUnsupported(CallerError):
    code = "version_unsupported"


class ContentTypeUnsupported(CallerError):
    code = "content_type_unsupported"


class Unauthenticated(CallerError):
    code = "unauthenticated"


class Forbidden(CallerError):
    code = "forbidden"


class NotFound(CallerError):
    code = "not_found"


class AgentNotFound(NotFound):
    code = "agent_not_found"


class TaskNotFound(NotFound):
    code = "task_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class ChannelNotFound(NotFound):
    code = "channel_not_found"


class ReaderNotFound(NotFound):
    code = "reader_not_found"


class BlobNotFound(NotFound):
    code = "blob_not_found"


class Conflict(CallerError):
    code = "conflict"


class IdempotencyKeyReused(CallerError):
    code = "idempotency_key_reused"


class DelegationRefused(CallerError):
    code = "delegation_refused"


class TaskNotCancelable(CallerError):
    code = "task_not_cancelable"


class PushNotificationsUnsupported(CallerError):
    code = "push_unsupported"


class OperationUnsupported(CallerError):
    code = "operation_unsupported"


class ExtendedCardMissing(CallerError):
    code = "extended_card_missing"


class EgressDenied(CallerError):
    code = "egress_denied"


class PayloadTooLarge(CallerError):
    code = "payload_too_large"


class LimitError(MeshwayError):
    """The request is fine, there is no room for it now."""


class TooManyInFlight(LimitError):
    code = "too_many_in_flight"


class StorageFull(LimitError):
    code = "storage_full"


class CapacityReached(LimitError):
    code = "capacity_reached"


class ChannelFull(LimitError):
    code = "channel_full"


class InboxFull(LimitError):
    code = "inbox_full"


class OwnLimitReached(LimitError):
    code = "own_limit_reached"


class AgentStopped(LimitError):
    code = "agent_stopped"


class Draining(LimitError):
    code = "draining"


class UpstreamError(MeshwayError):
    """The other side failed. `may_have_acted` says whether bytes of the request had left the hub."""


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class UpstreamInvalid(UpstreamError):
    code = "upstream_invalid"


class ResponderMissing(UpstreamError):
    code = "no_responder"


class DeadlineExceeded(UpstreamError):
    code = "deadline_exceeded"


class EngineError(MeshwayError):
    """The hub's own store failed."""


class EngineUnavailable(EngineError):
    code = "engine_unavailable"


class DataDirLocked(EngineError):
    code = "data_dir_locked"


class SchemaTooNew(EngineError):
    code = "schema_too_new"


class StoreCorrupt(EngineError):
    code = "store_corrupt"


def error_leaves(root: type[MeshwayError] = MeshwayError) -> Iterator[type[MeshwayError]]:
    """All classes of the tree that carry a code of their own; the protocols' tables are tested against it."""
    for child in root.__subclasses__():
        if "code" in child.__dict__:
            yield child
        yield from error_leaves(child)


def wrong_field(field: str, message: str) -> InvalidRequest:
    """The error for one wrong field; the message reads on after the field's name."""
    return InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])
