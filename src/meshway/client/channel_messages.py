"""Messages of channels, as the SDK shows them. Unknown members are ignored, so an older SDK reads a newer hub."""

import base64
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from meshway.client.errors import DataNotFetched

__all__ = [
    "ChannelInfo",
    "ChannelMessage",
    "DataReference",
    "DeadLetter",
    "Delivery",
    "FailedAttempt",
    "MessagePage",
    "Missed",
    "PurgedQueue",
    "Receipt",
    "RedriveStarted",
    "RequestMessage",
    "RequestReply",
    "StreamReader",
    "read_message",
]

Decoded = TypeVar("Decoded")
Kind = TypeVar("Kind", bound="ChannelMessage")

_EPOCH = datetime.fromtimestamp(0, UTC)


class DataReference(msgspec.Struct, frozen=True, kw_only=True):
    """Data that lies in the hub's blob store; `encoding` is json or bytes, `size` in bytes."""

    sha256: str
    size: int | None = None
    encoding: str = "bytes"


class ChannelMessage(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One message of any channel.

    `document` is the JSON as the hub sent it. `sequence` is set in streams; `cursor` (streams) goes on after this
    message: `tail(..., cursor=message.cursor)`. With a pattern only the last message of each group that arrives
    together has one. `data_ref` is set where the data is too large to travel: `await client.fetch(message)`.
    """

    id: str
    channel: str = ""
    sequence: int | None = None
    content_type: str = "application/json"
    attributes: dict[str, str] = {}
    timestamp: datetime = _EPOCH
    principal: str = ""
    traceparent: str | None = None
    data_ref: DataReference | None = None
    data_json: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="data")
    data_base64: str | None = None
    cursor: str | None = None
    document: bytes = b""
    # Data that was fetched from the blob store and is no JSON.
    blob: bytes | None = None

    def __repr__(self) -> str:
        sequence = "" if self.sequence is None else f", sequence={self.sequence}"
        return f"{type(self).__name__}(id={self.id!r}, channel={self.channel!r}{sequence})"

    @property
    def data(self) -> object:
        """The data as Python has it: JSON decoded, else bytes. Decoded at each access. Raises: DataNotFetched."""
        if self.data_json is not msgspec.UNSET:
            return msgspec.json.decode(self.data_json)
        return self.bytes

    @property
    def bytes(self) -> bytes:
        """The data as it was sent: the JSON text, or the bytes. Raises: DataNotFetched."""
        if self.data_json is not msgspec.UNSET:
            return bytes(self.data_json)
        if self.blob is not None:
            return self.blob
        if self.data_base64 is None:
            raise DataNotFetched(
                f"The data of message {self.id} is kept in the hub's blob store; "
                "get it with `message = await client.fetch(message)`."
            )
        return base64.b64decode(self.data_base64)

    def json(self, type: type[Decoded]) -> Decoded:  # noqa: A002  as msgspec calls it
        """The data checked against a type: `message.json(Order)` for a dataclass, msgspec.Struct, TypedDict, ...

        Raises: DataNotFetched; msgspec.ValidationError saying where the data differs.
        """
        return msgspec.json.decode(self.bytes, type=type)


class Delivery(ChannelMessage, frozen=True, kw_only=True, eq=False):
    """One hand-out of a queued message; `attempt` counts from 1. `lease_until` is by the hub's clock."""

    delivery_id: str = ""
    attempt: int = 0
    lease_until: datetime = _EPOCH


class RequestMessage(ChannelMessage, frozen=True, kw_only=True, eq=False):
    """A command or query to answer within `timeout_ms` of its arrival."""

    request_id: str = ""
    timeout_ms: int = 0


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """In a subscription to events: so many are gone at this place, for we were too slow. None: nobody knows."""

    missed: int | None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The hub has the message. `duplicate`: it had it already, and added nothing. `sequence` is set by streams."""

    id: str
    duplicate: bool = False
    sequence: int | None = None


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a stream; give `next_from` to the next `read`."""

    items: tuple[ChannelMessage, ...]
    next_from: str | None = None


class RequestReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command or query. `executed` False: it was not done, and `error` says why.

    `cache`: `hit` came from the cache, `miss` was asked and kept, `off` was asked.
    """

    executed: bool
    error: str | None = None
    cache: str = "off"
    data_json: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="data")

    @property
    def data(self) -> object:
        """What the responder returned; None where it returned nothing."""
        return None if self.data_json is msgspec.UNSET else msgspec.json.decode(self.data_json)

    def json(self, type: type[Decoded]) -> Decoded:  # noqa: A002  as msgspec calls it
        """The same, checked against a type. Raises: msgspec.ValidationError."""
        return msgspec.json.decode(b"null" if self.data_json is msgspec.UNSET else self.data_json, type=type)


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out in a dead letter's history. `outcome`: retry, expired (its lease ran out) or dead_letter."""

    attempt: int
    leased_at: str = ""
    ended_at: str = ""
    outcome: str = ""
    reason: str = ""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that used up its attempts or was rejected. `id` redrives it; `attempts`: oldest first."""

    id: str
    reason: str = ""
    dead_at: str = ""
    attempts: tuple[FailedAttempt, ...] = ()
    message_json: msgspec.Raw = msgspec.field(default=msgspec.Raw(b'{"id":""}'), name="message")

    @property
    def message(self) -> ChannelMessage:
        """The message itself."""
        return read_message(self.message_json, ChannelMessage)


class RedriveStarted(msgspec.Struct, frozen=True, kw_only=True):
    """So many dead letters go back to their queue; at a rate they go on after this answer."""

    messages: int = 0


class PurgedQueue(msgspec.Struct, frozen=True, kw_only=True):
    purged: int = 0


class StreamReader(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a stream that the hub keeps: `position` is the last sequence done, `lag` what lies behind it."""

    name: str
    position: int = 0
    lag: int = 0
    created_at: str = ""
    updated_at: str = ""


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel with its settings; `figures` (and `readers` of a stream) where live figures were asked for.

    Figures of queues: `waiting`, `held`, `delayed`, `dead`; of streams: `first`, `last`, `count`.
    """

    kind: str = ""
    name: str = ""
    settings: dict[str, object] = {}
    figures: dict[str, int] = {}
    readers: tuple[StreamReader, ...] = ()
    owner: str | None = None
    created_at: str | None = None


def read_message(document: msgspec.Raw, kind: type[Kind], **extra: object) -> Kind:
    """A message from its document; `extra` sets what the document does not hold. Raises: msgspec.MsgspecError."""
    content = bytes(document)
    message = msgspec.json.decode(content, type=kind)
    msgspec.structs.force_setattr(message, "document", content)
    for name, value in extra.items():
        msgspec.structs.force_setattr(message, name, value)
    return message
