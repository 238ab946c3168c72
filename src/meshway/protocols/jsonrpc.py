"""The JSON-RPC 2.0 envelope, read without touching what it carries: ids and params stay the bytes they were."""

import re
from typing import Any

import msgspec

from meshway.kernel.errors import MalformedBody

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "NULL_ID",
    "PARSE_ERROR",
    "SERVER_ERROR",
    "Envelope",
    "EnvelopeInvalid",
    "error_body",
    "has_unique_names",
    "is_plain_envelope",
    "is_valid_id",
    "malformed",
    "read_envelope",
    "request_body",
    "result_body",
    "salvage_id",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# First of the codes left to implementations: what HTTP says better than JSON-RPC can (401, 403, 404, 413, 429).
SERVER_ERROR = -32000

NULL_ID = b"null"
_EMPTY = msgspec.Raw(b"")
_NULL = msgspec.Raw(NULL_ID)
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]{0,308})")
_NAME = re.compile(rb'[ \t\r\n]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_BETWEEN = re.compile(rb"[ \t\r\n]*([,}])")


class EnvelopeInvalid(MalformedBody):
    """JSON, but no JSON-RPC request. It shares its code with MalformedBody; JSON-RPC alone tells the two apart."""


class Envelope(msgspec.Struct):
    """`params` is empty where there are none."""

    method: str
    jsonrpc: str = ""
    id: msgspec.Raw = _NULL
    params: msgspec.Raw = _EMPTY


_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_decode_string = msgspec.json.Decoder(str).decode


def malformed(body: bytes) -> MalformedBody | None:
    """Why these bytes are no JSON in UTF-8, or None when they are. Never raises."""
    try:
        _decode_any(body)
    except RecursionError:
        return MalformedBody("the JSON is nested too deeply")
    except UnicodeDecodeError:
        return MalformedBody("the body is not valid UTF-8")
    except msgspec.ValidationError as error:
        return MalformedBody(f"the JSON holds a value that cannot be kept: {error}")
    except msgspec.DecodeError as error:
        return MalformedBody(f"the body is not valid JSON: {error}")
    return None


def read_envelope(body: bytes) -> tuple[Envelope, bytes]:
    """The envelope and the raw id. Raises: MalformedBody (-32700), EnvelopeInvalid (-32600)."""
    try:
        envelope = _decode_envelope(body)
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _what_is_wrong(body) from None
    if envelope.jsonrpc != "2.0":
        raise EnvelopeInvalid("'jsonrpc' must be exactly \"2.0\"")
    request_id = bytes(envelope.id)
    if not is_valid_id(request_id):
        raise EnvelopeInvalid("'id' must be a string, an integer or null")
    if not envelope.method:
        raise EnvelopeInvalid("'method' must not be empty")
    return envelope, request_id


def is_valid_id(raw: bytes) -> bool:
    """A string, an integer or null; no fraction, no boolean, no object. `raw` is one JSON value."""
    return raw[:1] == b'"' or raw == NULL_ID or _INTEGER.fullmatch(raw) is not None


def salvage_id(body: bytes) -> bytes:
    """The id to answer a request that is wrong otherwise with; `null` where none can be had. Never raises."""
    try:
        raw = bytes(_decode_fields(body).get("id", _NULL))
        _decode_any(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NULL_ID
    return raw if is_valid_id(raw) else NULL_ID


def _what_is_wrong(body: bytes) -> MalformedBody:
    if (error := malformed(body)) is not None:
        return error
    value: Any = _decode_any(body)
    if isinstance(value, list):
        return EnvelopeInvalid("batches are not supported; send one request at a time")
    if not isinstance(value, dict):
        return EnvelopeInvalid("a JSON-RPC request is an object")
    if "method" not in value:
        return EnvelopeInvalid("'method' is missing")
    return EnvelopeInvalid("'method' and 'jsonrpc' must be strings")


# What an envelope is besides method, id and params, written compactly or with a space after each comma and colon.
_ENVELOPE_REST_BYTES = frozenset({len(b'{"jsonrpc":"2.0","id":,"method":"","params":}'), 45 + 7})


def is_plain_envelope(body: bytes, envelope: Envelope, request_id: bytes, params: bytes) -> bool:
    """Whether the length alone shows that the envelope has its four members once each, and no others.

    False says nothing; look closer.
    """
    return len(body) - len(params) - len(request_id) - len(envelope.method) in _ENVELOPE_REST_BYTES


def has_unique_names(raw: bytes) -> bool:
    """Whether the members of this JSON object, at its top level, all differ. `raw` was decoded before and is valid.

    Two parsers may take different ones of two members with one name; what the hub checked must be what the agent reads.
    """
    fields = _decode_fields(raw)
    position = raw.index(b"{") + 1
    for name, value in fields.items():
        key = _NAME.match(raw, position)
        if key is None:
            return False
        value_bytes = bytes(value)
        if key[1] != name.encode() and _decode_string(b'"%b"' % key[1]) != name:
            return False
        if not raw.startswith(value_bytes, key.end()):
            return False
        between = _BETWEEN.match(raw, key.end() + len(value_bytes))
        if between is None:
            return False
        position = between.end()
    return not fields or raw[position - 1 : position] == b"}"


def request_body(method: str, request_id: bytes, params: bytes) -> bytes:
    """A request; `params` and `request_id` are JSON already."""
    return b'{"jsonrpc":"2.0","id":%b,"method":"%b","params":%b}' % (request_id, method.encode(), params)


def result_body(request_id: bytes, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request_id, result)


def error_body(request_id: bytes, error: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, error)
