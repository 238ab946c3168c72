"""CloudEvents 1.0 as messages: the JSON format (one event, a batch) and the binary mode of the HTTP binding. Pure.

An event's context attributes become the message's attributes, each with `ce_` before its name, so that a reader can put
the event together again. Two events are the same one where source and id are (CloudEvents 1.0, 3.1).
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest, MalformedBody, wrong_field
from meshway.messaging.incoming import IdentifiedMessage

__all__ = ["BATCH_MEDIA_TYPE", "EVENT_MEDIA_TYPE", "CloudEvents", "read_batch", "read_binary", "read_structured"]

EVENT_MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"

_REQUIRED = ("id", "source", "specversion", "type")
# Not attributes (JSON format, 3.1), and the one that has a place of its own in a message.
_NOT_KEPT = frozenset({"id", "datacontenttype", "data", "data_base64"})
_ATTRIBUTE_NAME = re.compile(r"[a-z0-9]{1,64}")
# As for the ids of other messages.
_ID_CHARACTERS_MAX = 255
_NO_DATA = msgspec.Raw(b"null")
_ERRORS_MAX = 20
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

_Value = str | bool | int | None
_EVENT = dict[str, msgspec.Raw]

Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class CloudEvents:
    """Messages of one request. `traceparent` is the one event's own (distributed tracing extension), where it has one.

    In a batch each event keeps its own, as the attribute `ce_traceparent`.
    """

    messages: Sequence[IdentifiedMessage]
    traceparent: str | None = None


def read_structured(body: bytes) -> CloudEvents:
    """One event in the JSON format. Raises: MalformedBody, InvalidRequest naming its attributes."""
    event = _decode(body, _EVENT)
    attributes = _json_attributes(event, "")
    return CloudEvents([_message(attributes, event, "")], attributes.get("traceparent"))


def read_batch(body: bytes) -> CloudEvents:
    """An array of events, the first wrong one refuses them all. Raises: MalformedBody, InvalidRequest (`3.source`)."""
    events = _decode(body, list[dict[str, msgspec.Raw]])
    messages = []
    for index, event in enumerate(events):
        attributes = _json_attributes(event, f"{index}.")
        messages.append(_message(attributes, event, f"{index}."))
    return CloudEvents(messages)


def read_binary(headers: Mapping[bytes, bytes], body: bytes) -> CloudEvents:
    """One event whose attributes are `ce-...` headers (names in lower case) and whose data is the body.

    Raises: MalformedBody, InvalidRequest naming headers.
    """
    attributes: dict[str, str] = {}
    wrong: list[FieldError] = []
    for name, value in headers.items():
        if name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            try:
                attributes[attribute] = _header_text(value)
            except UnicodeDecodeError:
                wrong.append(FieldError(f"ce-{attribute}", "is not percent-encoded UTF-8"))
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    _check(attributes, "ce-", wrong)
    data, data_base64 = _binary_data(content_type, body)
    message = IdentifiedMessage(
        id=attributes["id"],
        identity=_identity(attributes),
        data=data,
        data_base64=data_base64,
        content_type=content_type or None,
        attributes=_kept(attributes),
    )
    return CloudEvents([message], attributes.get("traceparent"))


def _decode(body: bytes, shape: type[Shape]) -> Shape:
    try:
        # msgspec takes strings on trust that it does not build.
        body.decode()
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        expected = "an array of CloudEvents" if shape is not _EVENT else "one CloudEvent, a JSON object"
        raise InvalidRequest(f"The body is not {expected}.", fields=[FieldError("", f"must be {expected}")]) from None
    except RecursionError:
        raise MalformedBody("The JSON of the body is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}") from None


def _json_attributes(event: Mapping[str, msgspec.Raw], field: str) -> dict[str, str]:
    """The context attributes as text. Those that are null count as not given (JSON format, 2.2)."""
    attributes: dict[str, str] = {}
    wrong: list[FieldError] = []
    for name, raw in event.items():
        if name in ("data", "data_base64"):
            continue
        try:
            value = msgspec.json.decode(raw, type=_Value)
        except msgspec.MsgspecError:
            wrong.append(FieldError(f"{field}{name[:64]}", "must be a string, a whole number or a boolean"))
            continue
        if value is not None:
            # The canonical form of each type (CloudEvents 1.0, 3: Type System).
            attributes[name] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    _check(attributes, field, wrong)
    return attributes


def _check(attributes: Mapping[str, str], field: str, wrong: list[FieldError]) -> None:
    """Raises: InvalidRequest with all that is wrong."""
    refused = {each.field for each in wrong}
    wrong.extend(
        FieldError(f"{field}{name}", "is missing; every CloudEvent needs it")
        for name in _REQUIRED
        if not attributes.get(name) and f"{field}{name}" not in refused
    )
    if attributes.get("specversion", "1.0") != "1.0":
        wrong.append(FieldError(f"{field}specversion", "must be 1.0, the version this hub speaks"))
    if len(attributes.get("id", "")) > _ID_CHARACTERS_MAX:
        wrong.append(FieldError(f"{field}id", f"must have 1 to {_ID_CHARACTERS_MAX} characters"))
    wrong.extend(
        FieldError(f"{field}{name[:64]}", "is no attribute name; use 1 to 64 of a-z and 0-9")
        for name in attributes
        if not _ATTRIBUTE_NAME.fullmatch(name)
    )
    if wrong:
        text = "; ".join(f"{each.field} {each.message}" for each in wrong[:3])
        raise InvalidRequest(f"The CloudEvent is not as expected: {text}.", fields=wrong[:_ERRORS_MAX])


def _message(attributes: Mapping[str, str], event: Mapping[str, msgspec.Raw], field: str) -> IdentifiedMessage:
    data, data_base64 = event.get("data"), event.get("data_base64")
    text: str | None = None
    if data_base64 is not None and bytes(data_base64) != b"null":
        if data is not None:
            raise wrong_field(f"{field}data_base64", "cannot stand beside data")
        try:
            text = msgspec.json.decode(data_base64, type=str)
            base64.b64decode(text, validate=True)
        except (msgspec.MsgspecError, ValueError):
            raise wrong_field(f"{field}data_base64", "must be a string of valid base64") from None
    return IdentifiedMessage(
        id=attributes["id"],
        identity=_identity(attributes),
        data=msgspec.UNSET if text is not None else data or _NO_DATA,
        data_base64=text,
        content_type=attributes.get("datacontenttype"),
        attributes=_kept(attributes),
    )


def _binary_data(content_type: str, body: bytes) -> tuple[msgspec.Raw | msgspec.UnsetType, str | None]:
    """JSON stays JSON, text becomes a JSON string, all else is bytes; no body is no data."""
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if not body:
        return _NO_DATA, None
    if media_type == "application/json" or media_type.endswith("+json"):
        return _decode_any(body), None
    if media_type.startswith("text/") and _is_utf8(parameters):
        try:
            return msgspec.Raw(msgspec.json.encode(body.decode())), None
        except UnicodeDecodeError as error:
            raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None
    return msgspec.UNSET, base64.b64encode(body).decode()


def _decode_any(body: bytes) -> msgspec.Raw:
    return _decode(body, msgspec.Raw)


def _is_utf8(parameters: str) -> bool:
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    return charset in ("", "utf-8", "us-ascii")


def _header_text(value: bytes) -> str:
    """Quoted strings are opened first, then one round of percent-decoding (HTTP binding, 3.1.3.2)."""
    if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    return unquote_to_bytes(value).decode()


def _identity(attributes: Mapping[str, str]) -> str:
    identity = f"{attributes['source']} {attributes['id']}"
    if len(identity) <= _ID_CHARACTERS_MAX:
        return identity
    return hashlib.sha256(identity.encode()).hexdigest()


def _kept(attributes: Mapping[str, str]) -> dict[str, str]:
    return {f"ce_{name}": value for name, value in attributes.items() if name not in _NOT_KEPT}
