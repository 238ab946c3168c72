"""Commands and queries as values: what a caller asks, what a responder is handed and answers, what comes back."""

import msgspec

from meshway.messaging.incoming import DataRef

__all__ = ["REPLY_REASON_CHARACTERS_MAX", "HeldRequest", "ReplyIn", "RequestIn", "RequestReply"]

# A reason is for people; a stack trace belongs to the responder's log.
REPLY_REASON_CHARACTERS_MAX = 1_024


class RequestIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a command or query; exactly one of `data`, `data_base64` and `data_ref`.

    `cache_key` and `cache_ttl_ms` go together and are for queries only.
    """

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    data_ref: DataRef | None = None
    content_type: str | None = None
    attributes: dict[str, str] | None = None
    timeout_ms: int | None = None
    cache_key: str | None = None
    cache_ttl_ms: int | None = None


class HeldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request in a responder's hands: answer before `deadline_ms` (epoch), or nobody listens any more.

    `document` is the request as a message of its channel; `request_id` is opaque and good at any hub of the mesh.
    """

    request_id: str
    deadline_ms: int
    timeout_ms: int
    document: bytes


class ReplyIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a responder says. `executed` False: not done, and `error` says why; `data` only where it was."""

    request_id: str
    executed: bool = True
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | None = None


class RequestReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller gets. `cache`: `hit`, `miss` (a key was given, a responder was asked) or `off` (no key)."""

    executed: bool
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | None = None
    cache: str
