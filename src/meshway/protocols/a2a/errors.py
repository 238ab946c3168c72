"""Errors on the A2A wire: one table from the hub's codes, one of the protocol's own; rendering and translating."""

import math
from typing import Any, NamedTuple

import msgspec

from meshway.kernel.errors import MeshwayError
from meshway.protocols import jsonrpc, sse
from meshway.protocols.a2a.dialect import Binding, Dialect, Version

__all__ = [
    "ERROR_TABLE",
    "ErrorReply",
    "WireError",
    "encode_error",
    "read_jsonrpc_error",
    "read_rest_error",
    "render_error",
    "render_stream_error",
    "stream_error_name",
]

A2A_DOMAIN = "a2a-protocol.org"
HUB_DOMAIN = "meshway"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_JSON = b"application/json"
# The last code that 0.3 knows; its clients get the general one for what came later.
_LAST_CODE_0_3 = -32007


class _Kind(NamedTuple):
    """One kind of error in every notation. `jsonrpc_status` is the HTTP status around a JSON-RPC error."""

    jsonrpc: int
    http: int
    status: str
    reason: str
    domain: str = HUB_DOMAIN
    jsonrpc_status: int = 200


# What the protocol itself defines (specification 1.0, section 5.4), and the names the 0.3 SDK gives on HTTP+JSON.
_A2A_KINDS = {
    "TaskNotFoundError": _Kind(-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND", A2A_DOMAIN),
    "TaskNotCancelableError": _Kind(-32002, 400, "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE", A2A_DOMAIN),
    "PushNotificationNotSupportedError": _Kind(
        -32003, 400, "FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED", A2A_DOMAIN
    ),
    "UnsupportedOperationError": _Kind(-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION", A2A_DOMAIN),
    "ContentTypeNotSupportedError": _Kind(-32005, 400, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED", A2A_DOMAIN),
    "InvalidAgentResponseError": _Kind(-32006, 500, "INTERNAL", "INVALID_AGENT_RESPONSE", A2A_DOMAIN),
    "ExtendedAgentCardNotConfiguredError": _Kind(
        -32007, 400, "FAILED_PRECONDITION", "EXTENDED_AGENT_CARD_NOT_CONFIGURED", A2A_DOMAIN
    ),
    "ExtensionSupportRequiredError": _Kind(
        -32008, 400, "FAILED_PRECONDITION", "EXTENSION_SUPPORT_REQUIRED", A2A_DOMAIN
    ),
    "VersionNotSupportedError": _Kind(-32009, 400, "FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED", A2A_DOMAIN),
    "InvalidParamsError": _Kind(jsonrpc.INVALID_PARAMS, 400, "INVALID_ARGUMENT", "INVALID_PARAMS", A2A_DOMAIN),
    "InvalidRequestError": _Kind(jsonrpc.INVALID_REQUEST, 400, "INVALID_ARGUMENT", "INVALID_REQUEST", A2A_DOMAIN),
    "MethodNotFoundError": _Kind(jsonrpc.METHOD_NOT_FOUND, 404, "NOT_FOUND", "METHOD_NOT_FOUND", A2A_DOMAIN),
    "JSONParseError": _Kind(jsonrpc.PARSE_ERROR, 400, "INVALID_ARGUMENT", "INVALID_JSON", A2A_DOMAIN),
    "InternalError": _Kind(jsonrpc.INTERNAL_ERROR, 500, "INTERNAL", "INTERNAL_ERROR", A2A_DOMAIN),
}
_INTERNAL = _A2A_KINDS["InternalError"]
_NAMES_0_3 = {kind.jsonrpc: name for name, kind in _A2A_KINDS.items()}
_BY_CODE = {kind.jsonrpc: kind for kind in _A2A_KINDS.values()}
_BY_REASON = {kind.reason: kind for kind in _A2A_KINDS.values()}
# For HTTP errors without an A2A body that says more.
_BY_HTTP = {400: _A2A_KINDS["InvalidParamsError"], 404: _A2A_KINDS["TaskNotFoundError"]}

# One row for each code of kernel.errors; a test proves it total. What only HTTP can say, HTTP says on both bindings.
ERROR_TABLE: dict[str, _Kind] = {
    "internal": _INTERNAL,
    "invalid_request": _A2A_KINDS["InvalidParamsError"],
    "malformed_body": _A2A_KINDS["JSONParseError"],
    "method_unknown": _A2A_KINDS["MethodNotFoundError"],
    "version_unsupported": _A2A_KINDS["VersionNotSupportedError"],
    "content_type_unsupported": _A2A_KINDS["ContentTypeNotSupportedError"],
    "unauthenticated": _Kind(jsonrpc.SERVER_ERROR, 401, "UNAUTHENTICATED", "UNAUTHENTICATED", jsonrpc_status=401),
    "forbidden": _Kind(jsonrpc.SERVER_ERROR, 403, "PERMISSION_DENIED", "FORBIDDEN", jsonrpc_status=403),
    "not_found": _Kind(jsonrpc.METHOD_NOT_FOUND, 404, "NOT_FOUND", "NOT_FOUND", jsonrpc_status=404),
    "agent_not_found": _Kind(jsonrpc.SERVER_ERROR, 404, "NOT_FOUND", "AGENT_NOT_FOUND", jsonrpc_status=404),
    "task_not_found": _A2A_KINDS["TaskNotFoundError"],
    "key_not_found": _Kind(jsonrpc.SERVER_ERROR, 404, "NOT_FOUND", "KEY_NOT_FOUND", jsonrpc_status=404),
    "channel_not_found": _Kind(jsonrpc.SERVER_ERROR, 404, "NOT_FOUND", "CHANNEL_NOT_FOUND", jsonrpc_status=404),
    "reader_not_found": _Kind(jsonrpc.SERVER_ERROR, 404, "NOT_FOUND", "READER_NOT_FOUND", jsonrpc_status=404),
    "blob_not_found": _Kind(jsonrpc.SERVER_ERROR, 404, "NOT_FOUND", "BLOB_NOT_FOUND", jsonrpc_status=404),
    "conflict": _Kind(jsonrpc.INVALID_PARAMS, 409, "ABORTED", "CONFLICT"),
    "idempotency_key_reused": _Kind(jsonrpc.INVALID_PARAMS, 409, "ABORTED", "IDEMPOTENCY_KEY_REUSED"),
    "delegation_refused": _Kind(jsonrpc.SERVER_ERROR, 403, "FAILED_PRECONDITION", "DELEGATION_REFUSED"),
    "task_not_cancelable": _A2A_KINDS["TaskNotCancelableError"],
    "push_unsupported": _A2A_KINDS["PushNotificationNotSupportedError"],
    "operation_unsupported": _A2A_KINDS["UnsupportedOperationError"],
    "extended_card_missing": _A2A_KINDS["ExtendedAgentCardNotConfiguredError"],
    "egress_denied": _Kind(jsonrpc.INTERNAL_ERROR, 403, "PERMISSION_DENIED", "EGRESS_DENIED"),
    "payload_too_large": _Kind(
        jsonrpc.INVALID_REQUEST, 413, "RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE", jsonrpc_status=413
    ),
    "too_many_in_flight": _Kind(
        jsonrpc.SERVER_ERROR, 429, "RESOURCE_EXHAUSTED", "TOO_MANY_IN_FLIGHT", jsonrpc_status=429
    ),
    "storage_full": _Kind(jsonrpc.INTERNAL_ERROR, 507, "RESOURCE_EXHAUSTED", "STORAGE_FULL"),
    "capacity_reached": _Kind(jsonrpc.SERVER_ERROR, 429, "RESOURCE_EXHAUSTED", "CAPACITY_REACHED", jsonrpc_status=429),
    "channel_full": _Kind(jsonrpc.SERVER_ERROR, 429, "RESOURCE_EXHAUSTED", "CHANNEL_FULL", jsonrpc_status=429),
    "inbox_full": _Kind(jsonrpc.SERVER_ERROR, 429, "RESOURCE_EXHAUSTED", "INBOX_FULL", jsonrpc_status=429),
    "own_limit_reached": _Kind(
        jsonrpc.SERVER_ERROR, 429, "RESOURCE_EXHAUSTED", "OWN_LIMIT_REACHED", jsonrpc_status=429
    ),
    "agent_stopped": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "AGENT_STOPPED"),
    "draining": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "DRAINING"),
    "upstream_unreachable": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
    "upstream_broken": _Kind(jsonrpc.INTERNAL_ERROR, 502, "UNAVAILABLE", "UPSTREAM_BROKEN"),
    "upstream_invalid": _A2A_KINDS["InvalidAgentResponseError"],
    "no_responder": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "NO_RESPONDER"),
    "deadline_exceeded": _Kind(jsonrpc.INTERNAL_ERROR, 504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    "engine_unavailable": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "ENGINE_UNAVAILABLE"),
    "data_dir_locked": _Kind(jsonrpc.INTERNAL_ERROR, 503, "UNAVAILABLE", "DATA_DIR_LOCKED"),
    "schema_too_new": _Kind(jsonrpc.INTERNAL_ERROR, 500, "INTERNAL", "SCHEMA_TOO_NEW"),
    "store_corrupt": _Kind(jsonrpc.INTERNAL_ERROR, 500, "DATA_LOSS", "STORE_CORRUPT"),
}


class ErrorReply(NamedTuple):
    """A whole HTTP answer; `headers` without content type and length."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content_type: bytes
    body: bytes


class WireError(NamedTuple):
    """An error as some dialect said it, ready to be said in another. `details` are google.rpc objects."""

    code: int
    http: int
    status: str
    message: str
    details: list[Any]
    data: Any = None


def render_error(
    error: MeshwayError, dialect: Dialect, request_id: bytes = jsonrpc.NULL_ID, *, agent: str | None = None
) -> ErrorReply:
    """The answer to a request that failed before, or instead of, its first result."""
    kind = _kind_of(error)
    body = encode_error(_wire_error(error, kind, agent), dialect, request_id)
    status = kind.http if dialect.binding is Binding.HTTP_JSON else kind.jsonrpc_status
    return ErrorReply(status, _headers(error, kind), _JSON, body)


def render_stream_error(
    error: MeshwayError, dialect: Dialect, request_id: bytes = jsonrpc.NULL_ID, *, agent: str | None = None
) -> bytes:
    """The last event of a stream that broke.

    Clients of 0.3 on JSON-RPC take the event by its data; the stock one gives up without a code on an `event: error`.
    """
    body = encode_error(_wire_error(error, _kind_of(error), agent), dialect, request_id)
    return sse.frame(body, event=stream_error_name(dialect))


def stream_error_name(dialect: Dialect) -> bytes | None:
    """The type of the event that carries an error."""
    return None if dialect.version is Version.V0_3 and dialect.binding is Binding.JSONRPC else b"error"


def encode_error(error: WireError, dialect: Dialect, request_id: bytes) -> bytes:
    """The body, in the notation of the dialect."""
    if dialect.binding is Binding.JSONRPC:
        code = error.code
        if dialect.version is Version.V0_3 and -32099 <= code < _LAST_CODE_0_3:
            code = jsonrpc.INTERNAL_ERROR
        answer: dict[str, Any] = {"code": code, "message": error.message}
        if error.details or error.data is not None:
            answer["data"] = error.details or error.data
        return jsonrpc.error_body(request_id, msgspec.json.encode(answer))
    fields = {"code": error.http, "status": error.status, "message": error.message, "details": error.details}
    body: dict[str, Any] = {"error": fields}
    if dialect.version is Version.V0_3:
        # Where the stock 0.3 client looks.
        body |= {"type": _NAMES_0_3.get(error.code, "InternalError"), "message": error.message}
    return msgspec.json.encode(body)


def read_jsonrpc_error(error: object) -> WireError:
    """The `error` member of a JSON-RPC answer, whatever the agent put there."""
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        code = jsonrpc.INTERNAL_ERROR
    kind = _BY_CODE.get(code, _INTERNAL)
    data = fields.get("data")
    if isinstance(data, list) and all(isinstance(item, dict) and "@type" in item for item in data):
        details = data
    else:
        details = [_error_info(kind, {} if data is None else {"data": _as_text(data)})]
    return WireError(code, kind.http, kind.status, str(fields.get("message") or kind.reason), details, data)


def read_rest_error(http_status: int, body: object) -> WireError | None:
    """The error in a body of the HTTP+JSON binding, 1.0 or 0.3; None when it holds none."""
    if not isinstance(body, dict):
        return None
    fields = body.get("error")
    if isinstance(fields, dict) and ("message" in fields or "code" in fields or "details" in fields):
        details = fields.get("details")
        details = [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []
        kind = _kind_by_reason(details) or _BY_HTTP.get(http_status, _INTERNAL)
        message = str(fields.get("message") or kind.reason)
        status = str(fields.get("status") or kind.status)
        return WireError(kind.jsonrpc, http_status, status, message, details or [_error_info(kind, {})])
    if isinstance(body.get("message"), str):
        kind = _A2A_KINDS.get(str(body.get("type"))) or _BY_HTTP.get(http_status, _INTERNAL)
        return WireError(kind.jsonrpc, http_status, kind.status, body["message"], [_error_info(kind, {})])
    return None


def _kind_by_reason(details: list[Any]) -> _Kind | None:
    for detail in details:
        if detail.get("@type") == _ERROR_INFO:
            return _BY_REASON.get(str(detail.get("reason")))
    return None


def _kind_of(error: MeshwayError) -> _Kind:
    if isinstance(error, jsonrpc.EnvelopeInvalid):
        return _A2A_KINDS["InvalidRequestError"]
    return ERROR_TABLE.get(error.code, _INTERNAL)


def _wire_error(error: MeshwayError, kind: _Kind, agent: str | None) -> WireError:
    metadata = {"code": error.code}
    named = error.agent or agent
    if named is not None:
        metadata["agent"] = named
    if error.may_have_acted:
        metadata["mayHaveActed"] = "true"
    # Which limit was met, for programs; what is no text only a problem document can hold.
    metadata |= {name: text for name, text in error.extensions.items() if isinstance(text, str)}
    details: list[Any] = [_error_info(kind, metadata)]
    if error.fields:
        violations = [{"field": fault.field, "description": fault.message} for fault in error.fields]
        details.append({"@type": _BAD_REQUEST, "fieldViolations": violations})
    if error.retry_after_ms is not None:
        details.append({"@type": _RETRY_INFO, "retryDelay": f"{error.retry_after_ms / 1000:g}s"})
    return WireError(kind.jsonrpc, kind.http, kind.status, error.detail, details)


def _error_info(kind: _Kind, metadata: dict[str, str]) -> dict[str, Any]:
    return {"@type": _ERROR_INFO, "reason": kind.reason, "domain": kind.domain, "metadata": metadata}


def _headers(error: MeshwayError, kind: _Kind) -> tuple[tuple[bytes, bytes], ...]:
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_ms is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_ms / 1000))))
    if kind.http == 401:
        headers.append((b"www-authenticate", b'Bearer realm="meshway"'))
    return tuple(headers)


def _as_text(data: object) -> str:
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()
