"""Messages on their way out: what a program gives, and the JSON the hub takes."""

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypedDict

import msgspec

__all__ = [
    "MessageOptions",
    "NewMessage",
    "Outgoing",
    "Priority",
    "data_json",
    "is_large",
    "large_content",
    "outgoing",
    "request_body",
]

# The hub moves larger data to its blob store itself; sent there first it need not fit into one post.
_INLINE_BYTES_MAX = 8 * 1024 * 1024
Priority = Literal["low", "normal", "high", "urgent"]


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message to send, where data alone is not enough. From `delay_ms` on for queues only.

    `data`: anything that JSON can say (dataclasses, msgspec and pydantic models, datetimes too), or bytes. `id` makes
    a repeat of the same message known to the hub; without it the SDK makes one. `expires_in_ms` drops a message that
    nobody took by then; `dedupe_id` drops it where one with the same was posted within the window of the queue;
    `ordering_key` is for ordered queues.
    """

    data: object
    id: str | None = None
    attributes: Mapping[str, str] | None = None
    content_type: str | None = None
    delay_ms: int | None = None
    deliver_at: datetime | str | None = None
    expires_in_ms: int | None = None
    priority: Priority | None = None
    dedupe_id: str | None = None
    ordering_key: str | None = None


class MessageOptions(TypedDict, total=False):
    """What may be said of a message beside its data; see NewMessage."""

    id: str
    attributes: Mapping[str, str]
    content_type: str
    delay_ms: int
    deliver_at: datetime | str
    expires_in_ms: int
    priority: Priority
    dedupe_id: str
    ordering_key: str


class _WireMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    data_ref: object = None
    content_type: str | None = None
    attributes: Mapping[str, str] | None = None
    delay_ms: int | None = None
    deliver_at: str | None = None
    expires_in_ms: int | None = None
    priority: str | None = None
    dedupe_id: str | None = None
    ordering_key: str | None = None


@dataclass(slots=True)
class Outgoing:
    """One message as JSON. `is_own_id`: the SDK made the id, so a duplicate can only be its own repeat."""

    id: str
    document: bytes
    is_own_id: bool


def outgoing(
    message: object, *, message_id: str | None = None, data_ref: Mapping[str, object] | None = None
) -> Outgoing:
    """Render a NewMessage, or data by itself. `data_ref` stands for data that was stored as a blob.

    Raises: TypeError for data that JSON cannot say.
    """
    new = message if isinstance(message, NewMessage) else NewMessage(data=message)
    message_id = new.id or message_id or uuid.uuid4().hex
    wire = _WireMessage(
        id=message_id,
        content_type=new.content_type,
        attributes=new.attributes,
        delay_ms=new.delay_ms,
        deliver_at=_moment(new.deliver_at),
        expires_in_ms=new.expires_in_ms,
        priority=new.priority,
        dedupe_id=new.dedupe_id,
        ordering_key=new.ordering_key,
    )
    if data_ref is not None:
        wire.data_ref = data_ref
    elif isinstance(new.data, bytes | bytearray | memoryview):
        wire.data_base64 = base64.b64encode(new.data).decode()
    else:
        wire.data = msgspec.Raw(data_json(new.data))
    return Outgoing(message_id, _encode(wire), new.id is None and new.dedupe_id is None)


def is_large(message: Outgoing) -> bool:
    """Whether its data should go to the blob store first: above the hub's usual bound for data that travels along."""
    return len(message.document) > _INLINE_BYTES_MAX


def large_content(message: object) -> tuple[bytes, Literal["json", "bytes"]]:
    """The data by itself, as the blob store keeps it."""
    data = message.data if isinstance(message, NewMessage) else message
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), "bytes"
    # To msgspec raw JSON is a kind of bytes, to HTTP clients it is none.
    return bytes(data_json(data)), "json"


def request_body(data: object, **members: object) -> dict[str, object]:
    """The body of a command or query; members that are None are left out."""
    body: dict[str, object] = {name: value for name, value in members.items() if value is not None}
    if isinstance(data, bytes | bytearray | memoryview):
        body["data_base64"] = base64.b64encode(data).decode()
    else:
        body["data"] = msgspec.Raw(data_json(data))
    return body


def data_json(data: object) -> bytes:
    """Data as JSON. Raises: TypeError naming what JSON cannot say."""
    return data if isinstance(data, msgspec.Raw) else _encode(data)


def _foreign(value: object) -> object:
    # pydantic's models are what most agent frameworks hand out; nothing of pydantic is imported for them.
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"data of type {type(value).__name__} is no JSON; send a dict, a dataclass, a model, or bytes")


_encode = msgspec.json.Encoder(enc_hook=_foreign).encode


def _moment(at: datetime | str | None) -> str | None:
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise ValueError("deliver_at has no time zone; write datetime(..., tzinfo=UTC) or datetime.now(UTC) + ...")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
