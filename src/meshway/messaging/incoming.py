"""A message as a caller sends it: the wire shape, and what is wrong with it in words a person can act on."""

import msgspec

from meshway.engine.ports import Priority

__all__ = ["PRIORITIES", "DataRef", "IdentifiedMessage", "IncomingBatch", "IncomingMessage"]

PRIORITIES = {
    "low": Priority.LOW,
    "normal": Priority.NORMAL,
    "high": Priority.HIGH,
    "urgent": Priority.URGENT,
}


class DataRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data in the blob store (`POST /v1/blobs`); `encoding` says what its content is: json or bytes."""

    sha256: str
    size: int | None = None
    encoding: str = "bytes"


class IncomingMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message as sent; exactly one of `data`, `data_base64` and `data_ref`. The last row is for queues only."""

    id: str | None = None
    # Any JSON, kept byte for byte.
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    data_ref: DataRef | None = None
    content_type: str | None = None
    attributes: dict[str, str] | None = None

    delay_ms: int | None = None
    deliver_at: str | None = None
    expires_in_ms: int | None = None
    priority: str | None = None
    dedupe_id: str | None = None
    ordering_key: str | None = None


class IdentifiedMessage(IncomingMessage, kw_only=True, forbid_unknown_fields=True):
    """A message whose id alone does not make it the same one again (CloudEvents: source and id together do).

    Never decoded from the wire.
    """

    identity: str


class IncomingBatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a post."""

    messages: list[IncomingMessage]
