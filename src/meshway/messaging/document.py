"""The document of a message: the JSON its readers get, made once when it is accepted and kept as it is.

`{"id","channel","data"|"data_base64"|"data_ref","content_type","attributes","timestamp","principal","traceparent"?}`.
Reading is then a copy of bytes, however many readers there are; what is known only later (the sequence in a stream)
is put in front. The bytes never contain a line break, so they are one `data:` line of a server-sent event.
"""

import base64
import binascii
from dataclasses import dataclass

import msgspec

from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import wrong_field
from meshway.kernel.ids import PrincipalId, new_id
from meshway.messaging.incoming import DataRef, IdentifiedMessage, IncomingMessage
from meshway.messaging.names import ChannelName

__all__ = [
    "Accepted",
    "DocumentWriter",
    "Origin",
    "Payload",
    "payload_of",
    "reference_member",
    "with_sequence",
]

# Long enough for a URL as an id; a key in memory while repetitions are filtered.
_ID_CHARACTERS_MAX = 255
_CONTENT_TYPE_CHARACTERS_MAX = 255
_ATTRIBUTES_MAX = 64
# Names and values together, in characters: attributes are for routing and tracing, not for payload.
_ATTRIBUTES_CHARACTERS_MAX = 16_384
_JSON = b'"application/json"'
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a request's messages, and when."""

    principal: PrincipalId
    now_ms: int
    traceparent: str | None = None


@dataclass(slots=True)
class Payload:
    """The data of one message, checked: its member of the document, or its `content` where that is large.

    `encoding`: json or bytes.
    """

    member: bytes
    content_type: bytes
    content: bytes | None = None
    encoding: str = "json"


@dataclass(slots=True)
class Accepted:
    """One message ready for the engine. `identity` filters repetitions; it is the id but for CloudEvents.

    `is_repeatable` False: the hub made the id, so nobody can have sent the message before.
    """

    id: str
    identity: str
    document: bytes
    is_repeatable: bool


class DocumentWriter:
    """Renders the messages of one request; the parts they share are made once."""

    def __init__(self, channel: ChannelName, origin: Origin) -> None:
        self._head = b',"channel":"%b","data' % channel.encode()
        trace = b"" if origin.traceparent is None else b',"traceparent":%b' % _encode(origin.traceparent)
        self._tail = b',"timestamp":"%b","principal":%b%b}' % (
            rfc3339_ms(origin.now_ms).encode(), _encode(origin.principal), trace,
        )  # fmt: skip

    def write(self, message: IncomingMessage, payload: Payload, *, field: str) -> Accepted:
        """The document. Raises: InvalidRequest naming the member below `field` (`messages.3`)."""
        message_id = message.id
        if message_id is None:
            message_id = new_id()
        elif not 0 < len(message_id) <= _ID_CHARACTERS_MAX:
            raise wrong_field(f"{field}.id", f"must have 1 to {_ID_CHARACTERS_MAX} characters")
        identity = message.identity if isinstance(message, IdentifiedMessage) else message_id
        attributes = b"{}" if not message.attributes else _attributes(message.attributes, field)
        document = b'{"id":%b%b%b,"content_type":%b,"attributes":%b%b' % (
            _encode(message_id), self._head, payload.member, payload.content_type, attributes, self._tail,
        )  # fmt: skip
        return Accepted(message_id, identity, document, message.id is not None)


def payload_of(message: IncomingMessage, *, inline_bytes_max: int, field: str) -> Payload:
    """Check and render the data. `member` continues `"data`; empty, with `content`, where it is to go to the blobs.

    Raises: InvalidRequest naming the member below `field`.
    """
    given = (message.data is not msgspec.UNSET) + (message.data_base64 is not None) + (message.data_ref is not None)
    if given != 1:
        raise wrong_field(field, "needs exactly one of data, data_base64 and data_ref")
    content_type = _JSON
    if message.content_type is not None:
        if not 0 < len(message.content_type) <= _CONTENT_TYPE_CHARACTERS_MAX or not message.content_type.isprintable():
            raise wrong_field(f"{field}.content_type", "must be a media type such as application/json")
        content_type = _encode(message.content_type)
    if message.data_base64 is not None:
        return _bytes_payload(message, content_type, inline_bytes_max, field)
    if message.data_ref is not None:
        return Payload(b'_ref":%b' % _encode(message.data_ref), content_type)
    return _json_payload(message, content_type, inline_bytes_max)


def reference_member(ref: DataRef) -> bytes:
    """The member of data that was moved to the blobs."""
    return b'_ref":%b' % _encode(ref)


def with_sequence(document: bytes, sequence: int) -> bytes:
    """The document as a stream's reader gets it."""
    return b'{"sequence":%d,%b' % (sequence, document[1:])


def _json_payload(message: IncomingMessage, content_type: bytes, inline_bytes_max: int) -> Payload:
    raw = bytes(message.data)  # type: ignore[arg-type]  # the caller has looked: it is set
    if b"\n" in raw or b"\r" in raw:
        # Only white space between tokens can be a line break; the rest stays byte for byte.
        raw = msgspec.json.format(raw, indent=-1)
    if len(raw) > inline_bytes_max:
        return Payload(b"", content_type, raw, "json")
    return Payload(b'":%b' % raw, content_type)


def _bytes_payload(message: IncomingMessage, content_type: bytes, inline_bytes_max: int, field: str) -> Payload:
    text = message.data_base64 or ""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise wrong_field(f"{field}.data_base64", "is not valid base64") from None
    if message.content_type is None:
        content_type = b'"application/octet-stream"'
    if len(content) > inline_bytes_max:
        return Payload(b"", content_type, content, "bytes")
    return Payload(b'_base64":"%b"' % text.encode(), content_type)


def _attributes(attributes: dict[str, str], field: str) -> bytes:
    if len(attributes) > _ATTRIBUTES_MAX:
        raise wrong_field(f"{field}.attributes", f"has {len(attributes)} names, more than {_ATTRIBUTES_MAX}")
    size = sum(len(name) + len(value) for name, value in attributes.items())
    if size > _ATTRIBUTES_CHARACTERS_MAX:
        raise wrong_field(f"{field}.attributes", f"has {size} characters, more than {_ATTRIBUTES_CHARACTERS_MAX}")
    return _encode(attributes)
