"""What the hub sends to an agent: the client's own bytes if nothing must change, else the agent's dialect."""

from typing import Any
from urllib.parse import urlencode

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest, OperationUnsupported
from meshway.kernel.operations import AgentOperation
from meshway.protocols import jsonrpc
from meshway.protocols.a2a.dialect import (
    JSONRPC_0_3,
    JSONRPC_1_0,
    REST_0_3,
    REST_1_0,
    Binding,
    Dialect,
    Version,
    dialect_of,
)
from meshway.protocols.a2a.operations import METHOD_NAMES_0_3, is_supported
from meshway.protocols.a2a.requests import A2ARequest
from meshway.protocols.a2a.rest_paths import build_path
from meshway.protocols.a2a.shapes import JsonObject, ShapeError
from meshway.protocols.a2a.translation import legacy_of, lower_params, raise_params
from meshway.registry.values import AgentInterface

__all__ = ["WireRequest", "encode_request"]

_Op = AgentOperation
_SEND, _STREAM, _SUBSCRIBE = _Op.SEND_MESSAGE, _Op.STREAM_MESSAGE, _Op.SUBSCRIBE_TASK
_JSONRPC = Binding.JSONRPC
_Headers = tuple[tuple[bytes, bytes], ...]

_JSON_CONTENT = (b"content-type", b"application/json")
_ACCEPT_JSON = (b"accept", b"application/json")
_ACCEPT_A2A_JSON = (b"accept", b"application/a2a+json, application/json")
# An agent that refuses a stream answers in JSON.
_ACCEPT_EVENTS = (b"accept", b"text/event-stream, application/json")
_VERSION_1_0 = (b"a2a-version", b"1.0")

_HTTP_METHODS = {
    _Op.GET_TASK: b"GET",
    _Op.LIST_TASKS: b"GET",
    _Op.GET_PUSH_CONFIG: b"GET",
    _Op.LIST_PUSH_CONFIGS: b"GET",
    _Op.DELETE_PUSH_CONFIG: b"DELETE",
    _Op.GET_EXTENDED_CARD: b"GET",
}
_BY_TASK = frozenset({_Op.GET_TASK, _Op.CANCEL_TASK, _Op.SUBSCRIBE_TASK})
_BY_CONFIG = frozenset({_Op.CREATE_PUSH_CONFIG, _Op.GET_PUSH_CONFIG, _Op.DELETE_PUSH_CONFIG})
_INTEGERS = frozenset({"historyLength", "pageSize"})
_BOOLEANS = frozenset({"includeArtifacts"})
# Agents want an id, and a client of the HTTP+JSON binding sends none.
_OWN_REQUEST_ID = b"1"

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


class WireRequest(msgspec.Struct, frozen=True):
    """A request to an interface. `path` follows the interface's URL (without a trailing slash); "" is the URL itself.

    `headers` lack host, length, credentials and trace context, which are the transport's.
    """

    method: bytes
    path: str
    query: str
    headers: _Headers
    body: bytes


class _Plan(msgspec.Struct, frozen=True):
    """What is the same for all requests to one kind of interface."""

    dialect: Dialect
    unary: _Headers
    stream: _Headers
    extensions_name: bytes


_PLANS = {
    ("1.0", "JSONRPC"): _Plan(
        JSONRPC_1_0,
        (_JSON_CONTENT, _ACCEPT_JSON, _VERSION_1_0),
        (_JSON_CONTENT, _ACCEPT_EVENTS, _VERSION_1_0),
        b"a2a-extensions",
    ),
    ("0.3", "JSONRPC"): _Plan(
        JSONRPC_0_3, (_JSON_CONTENT, _ACCEPT_JSON), (_JSON_CONTENT, _ACCEPT_EVENTS), b"x-a2a-extensions"
    ),
    ("1.0", "HTTP+JSON"): _Plan(
        REST_1_0,
        (_JSON_CONTENT, _ACCEPT_A2A_JSON, _VERSION_1_0),
        (_JSON_CONTENT, _ACCEPT_EVENTS, _VERSION_1_0),
        b"a2a-extensions",
    ),
    ("0.3", "HTTP+JSON"): _Plan(
        REST_0_3, (_JSON_CONTENT, _ACCEPT_JSON), (_JSON_CONTENT, _ACCEPT_EVENTS), b"x-a2a-extensions"
    ),
}


def encode_request(request: A2ARequest, target: AgentInterface, *, context_id: str | None = None) -> WireRequest:
    """The request for one interface of the agent.

    `context_id` is filled in where the client named only the task. The body is the client's own object where dialect,
    tenant and context need no change. Raises: OperationUnsupported (the interface cannot express it), InvalidRequest
    (params that cannot be translated; only where the dialects differ).
    """
    plan = _PLANS.get((target.version, target.binding)) or _plan_of(target)
    operation = request.operation
    streams = operation is _STREAM or operation is _SUBSCRIBE
    headers = plan.stream if streams else plan.unary
    if request.extensions is not None:
        headers = (*headers, (plan.extensions_name, request.extensions.encode("latin-1", "ignore")))
    tenant = target.tenant or request.tenant
    fills_context = context_id is not None and request.context_id is None
    if plan.dialect is request.dialect and not fills_context and tenant == request.tenant:
        if plan.dialect.binding is _JSONRPC:
            return WireRequest(b"POST", "", "", headers, request.body)
        return _same_rest(request, headers)
    if not is_supported(operation, plan.dialect):
        raise _unsupported(
            f"{operation.value} does not exist in A2A {plan.dialect.version.value}, which this agent speaks"
        )
    sends = operation is _SEND or operation is _STREAM
    try:
        params = _params_for(request, plan.dialect, context_id if fills_context and sends else None)
        if plan.dialect.binding is _JSONRPC:
            return WireRequest(b"POST", "", "", headers, _jsonrpc_body(request, plan.dialect, params, target.tenant))
        return _rest_request(request, plan.dialect, params, tenant, headers)
    except ShapeError as error:
        path = error.path.removeprefix("params.")
        raise InvalidRequest(
            f"invalid params: {path} {error.message}", fields=[FieldError(path, error.message)]
        ) from None
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        message = f"cannot be translated for an agent that speaks A2A {plan.dialect.version.value}: {error}"
        raise InvalidRequest(f"the params {message}", fields=[FieldError("params", message)]) from None


def _plan_of(target: AgentInterface) -> _Plan:
    dialect = dialect_of(target)
    if dialect is None:
        raise _unsupported(f"the hub does not speak {target.binding} {target.version}, which this instance offers")
    return _PLANS[(dialect.version.value, dialect.binding.value)]


def _unsupported(detail: str) -> OperationUnsupported:
    return OperationUnsupported(detail)


# --- Params ---------------------------------------------------------------------------------------------------------


def _params_for(request: A2ARequest, dialect: Dialect, context_id: str | None) -> JsonObject:
    """Params in the target's shape, with ids where JSON-RPC has them. Values stay raw where the shapes are the same."""
    source, target = legacy_of(request.dialect), legacy_of(dialect)
    same_shape = source is target
    params: JsonObject = {}
    if request.params:
        params = _decode_fields(request.params) if same_shape else _object(_decode_any(request.params))
    if request.dialect.binding is Binding.HTTP_JSON:
        params = _query_params(request) | params
    if not same_shape and source is not None:
        params = raise_params(request.operation, params, source, request.task_id)
    if request.dialect.binding is Binding.HTTP_JSON and dialect != request.dialect:
        params |= _ids(request)
    if not same_shape and target is not None:
        params = lower_params(request.operation, params, target)
    if context_id is not None:
        _fill_context(params, "message" if "message" in params else "request", context_id)
    return params


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise ShapeError("params", "must be an object")
    return value


def _ids(request: A2ARequest) -> JsonObject:
    """The ids of a REST path as core params hold them."""
    if request.operation in _BY_TASK:
        return {"id": request.task_id}
    if request.operation in _BY_CONFIG:
        ids: JsonObject = {"taskId": request.task_id}
        return ids | ({"id": request.config_id} if request.config_id else {})
    return {"taskId": request.task_id} if request.operation is _Op.LIST_PUSH_CONFIGS else {}


def _query_params(request: A2ARequest) -> JsonObject:
    """The query as JSON-RPC params have it: numbers and booleans in their own types."""
    params: JsonObject = {}
    for name, text in request.query:
        if name in _INTEGERS:
            if not text.lstrip("-").isdecimal() or len(text) > 18:
                raise ShapeError(name, "must be an integer")
            params[name] = int(text)
        elif name in _BOOLEANS:
            params[name] = text.lower() == "true"
        else:
            params[name] = text
    return params


def _fill_context(params: JsonObject, name: str, context_id: str) -> None:
    message = params[name]
    fields: JsonObject = _decode_fields(message) if isinstance(message, msgspec.Raw) else dict(message)
    fields.pop("context_id", None)
    fields["contextId"] = context_id
    params[name] = fields


# --- Bindings -------------------------------------------------------------------------------------------------------


def _jsonrpc_body(request: A2ARequest, dialect: Dialect, params: JsonObject, tenant: str | None) -> bytes:
    if tenant is not None:
        params["tenant"] = tenant
    elif request.tenant is not None and request.dialect.binding is Binding.HTTP_JSON:
        params.setdefault("tenant", request.tenant)
    operation = request.operation
    method = METHOD_NAMES_0_3[operation] if dialect.version is Version.V0_3 else operation.value
    if request.dialect.binding is Binding.HTTP_JSON:
        return jsonrpc.request_body(method, _OWN_REQUEST_ID, msgspec.json.encode(params))
    envelope: dict[str, Any] = _decode_fields(request.body)
    envelope["method"] = method
    if params or request.params:
        envelope["params"] = params
    return msgspec.json.encode(envelope)


def _same_rest(request: A2ARequest, headers: _Headers) -> WireRequest:
    path = build_path(
        request.operation,
        request.dialect.version,
        tenant=request.tenant,
        task_id=request.task_id or "",
        config_id=request.config_id or "",
    )
    return WireRequest(request.http_method, path, urlencode(request.query), _trim(headers, request.body), request.body)


def _rest_request(
    request: A2ARequest, dialect: Dialect, params: JsonObject, tenant: str | None, headers: _Headers
) -> WireRequest:
    operation = request.operation
    # The stock SDK names a task's only config after the task.
    config_id = request.config_id or request.task_id or ""
    path = build_path(operation, dialect.version, tenant=tenant, task_id=request.task_id or "", config_id=config_id)
    params.pop("tenant", None)
    method = request.http_method if dialect is request.dialect else _HTTP_METHODS.get(operation, b"POST")
    if method != b"POST":
        for name in ("id", "taskId", "pushNotificationConfigId", "task_id"):
            params.pop(name, None)
        return WireRequest(method, path, urlencode(_query_fields(params)), _trim(headers, b""), b"")
    if operation is _Op.SUBSCRIBE_TASK:
        return WireRequest(method, path, "", _trim(headers, b""), b"")
    if operation is _Op.CANCEL_TASK and dialect is REST_0_3:
        params.pop("id", None)
    body = msgspec.json.encode(params)
    return WireRequest(method, path, "", headers, body)


def _query_fields(params: JsonObject) -> list[tuple[str, str]]:
    """Scalars of the params as a query; the binding has no place for more."""
    fields: list[tuple[str, str]] = []
    for name, value in params.items():
        plain = _decode_any(value) if isinstance(value, msgspec.Raw) else value
        if isinstance(plain, bool):
            fields.append((name, "true" if plain else "false"))
        elif isinstance(plain, str | int | float):
            fields.append((name, str(plain)))
    return fields


def _trim(headers: _Headers, body: bytes) -> _Headers:
    """No content type where there is no content."""
    return headers if body else headers[1:]
