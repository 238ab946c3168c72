"""Requests the hub answers itself, and its answers: between any dialect and core, which is A2A 1.0.

Nothing is forwarded here: tasks that the hub owns, recorded streams, notifications it delivers. See `outbound` and
`inbound` for what passes through.
"""

from collections.abc import Callable

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest, UpstreamInvalid
from meshway.kernel.operations import AgentOperation
from meshway.protocols import jsonrpc
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Binding, Dialect, Version
from meshway.protocols.a2a.inbound import WireReply
from meshway.protocols.a2a.params_check import MessageHead
from meshway.protocols.a2a.requests import A2ARequest, read_jsonrpc
from meshway.protocols.a2a.shapes import JSON_0_3, Json, JsonObject, ShapeError, fields_of, list_of, lower_task
from meshway.protocols.a2a.translation import legacy_of, lower_event, lower_result, raise_params
from meshway.tasks.send_terms import SendTerms

__all__ = [
    "TaskQuery",
    "core_request",
    "encode_event",
    "encode_result",
    "lower_core_task",
    "read_push_config",
    "read_send",
    "read_task_query",
    "strip_push_config",
]

_Op = AgentOperation
_JSONRPC = Binding.JSONRPC
_ABSENT = msgspec.Raw(b"")
_JSON = b"application/json"
_A2A_JSON = b"application/a2a+json"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# What ProtoJSON calls a 32-bit integer.
_INTEGER_MAX = 2**31 - 1
_ROLE_NUMBERS = {1: "ROLE_USER", 2: "ROLE_AGENT"}
# What a caller of each dialect knows the inline config as, and the config of a create request.
_INLINE_PATHS = {
    JSONRPC_1_0: "configuration.taskPushNotificationConfig",
    REST_1_0: "configuration.taskPushNotificationConfig",
    JSONRPC_0_3: "configuration.pushNotificationConfig",
    REST_0_3: "configuration.pushNotification",
}
_CREATED_PATHS = {
    JSONRPC_1_0: "",
    REST_1_0: "",
    JSONRPC_0_3: "pushNotificationConfig.",
    REST_0_3: "config.pushNotificationConfig.",
}
# Of all dialects, without underscores, in small letters: there are parsers that do not tell these spellings apart.
_INLINE_NAMES = frozenset({"taskpushnotificationconfig", "pushnotificationconfig", "pushnotification"})

_decode_any = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_head = msgspec.json.Decoder(MessageHead).decode
_encode = msgspec.json.encode


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What GetTask asks for beside the task's id; a `history_length` of None is all of it."""

    history_length: int | None = None


class _Configuration(msgspec.Struct):
    historyLength: msgspec.Raw = _ABSENT  # noqa: N815 - the wire's own name, here and below
    history_length: msgspec.Raw = _ABSENT
    taskPushNotificationConfig: msgspec.Raw = _ABSENT  # noqa: N815
    task_push_notification_config: msgspec.Raw = _ABSENT


class _Send(msgspec.Struct):
    message: msgspec.Raw
    configuration: _Configuration | None = None
    metadata: dict[str, msgspec.Raw] | None = None


class _HistoryLength(msgspec.Struct):
    historyLength: msgspec.Raw = _ABSENT  # noqa: N815
    history_length: msgspec.Raw = _ABSENT


_decode_send = msgspec.json.Decoder(_Send).decode
_decode_history_length = msgspec.json.Decoder(_HistoryLength).decode


# --- Requests ---------------------------------------------------------------------------------------------------------


def lower_core_task(task: bytes) -> bytes:
    """A task of A2A 1.0 as one of 0.3, as its JSON-RPC binding has it. Raises: ShapeError, which is a ValueError."""
    return _encode(lower_task(_decode_any(task), "task", JSON_0_3))


def core_request(operation: AgentOperation, params: bytes) -> A2ARequest:
    """A request of the hub's own, A2A 1.0 over JSON-RPC; `params` as of that version."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"%b","params":%b}' % (operation.value.encode(), params)
    return read_jsonrpc(body, version="1.0", content_type=None)


def read_send(request: A2ARequest) -> SendTerms:
    """The terms of a message, from the params of any dialect. Raises: InvalidRequest naming the field."""
    try:
        params = _decode_send(_core_params(request))
        message = bytes(params.message)
        if _has_odd_names(head := _decode_head(message)):
            message = _encode(_usual_message(_decode_any(message), head))
        configuration = params.configuration or _Configuration()
        push_config = configuration.taskPushNotificationConfig or configuration.task_push_notification_config
        config = _decode_any(push_config) if push_config else None
        if config is not None:
            config = _checked_config(config, _INLINE_PATHS[request.dialect])
            config.pop("taskId", None)
    except ShapeError as error:
        raise _invalid(error.path.removeprefix("params."), error.message) from None
    except (*_UNREADABLE, OverflowError) as error:
        raise _invalid("params", f"cannot be read: {error}") from None
    history_length = configuration.historyLength or configuration.history_length
    return SendTerms(
        message=message,
        message_id=request.message_id or "",
        task_id=request.task_id,
        context_id=request.context_id,
        blocking=request.blocking,
        history_length=_read_history_length(history_length, "configuration.historyLength"),
        push_config=None if config is None else _encode(config),
        extensions=request.extensions,
        metadata=_encode(params.metadata) if params.metadata else None,
    )


def read_task_query(request: A2ARequest) -> TaskQuery:
    """The wishes of a GetTask request of either binding. Raises: InvalidRequest naming the field."""
    if request.dialect.binding is _JSONRPC:
        try:
            params = _decode_history_length(request.params or b"{}")
        except _UNREADABLE as error:
            raise _invalid("params", f"cannot be read: {error}") from None
        raw: bytes = params.historyLength or params.history_length
    else:
        query = dict(request.query)
        raw = _encode(query.get("historyLength") or query.get("history_length"))
    length = _read_history_length(raw, "historyLength")
    if length == 0 and request.dialect.version is Version.V0_3:
        # It meant "all" there, and means "none" in 1.0.
        length = None
    return TaskQuery(history_length=length)


def read_push_config(request: A2ARequest) -> bytes:
    """The TaskPushNotificationConfig (A2A 1.0 JSON) of a create request, `taskId` set and, where one was given, `id`.

    Raises: InvalidRequest naming the field.
    """
    try:
        config = _checked_config(_decode_any(_core_params(request)), _CREATED_PATHS[request.dialect].removesuffix("."))
    except ShapeError as error:
        raise _invalid(error.path.removeprefix("params."), error.message) from None
    except (*_UNREADABLE, OverflowError) as error:
        raise _invalid("params", f"cannot be read: {error}") from None
    config["taskId"] = request.task_id
    if request.config_id:
        config["id"] = request.config_id
    return _encode(config)


def strip_push_config(request: A2ARequest) -> A2ARequest:
    """The same sending request without its inline push notification config; the same object when it has none.

    The hub delivers notifications itself: the agent must not, too.
    """
    folded = request.body.lower()
    if b"push" not in folded and b"\\u" not in folded:
        return request
    params = _decode_fields(request.params)
    kept = {name: _without_push(raw) if name.lower() == "configuration" else raw for name, raw in params.items()}
    if all(kept[name] is raw for name, raw in params.items()) and jsonrpc.has_unique_names(request.params):
        return request
    raw_params = _encode(kept)
    if request.dialect.binding is not _JSONRPC:
        return msgspec.structs.replace(request, body=raw_params, taken_params=raw_params)
    envelope = _decode_fields(request.body) | {"params": msgspec.Raw(raw_params)}
    return msgspec.structs.replace(request, body=_encode(envelope), taken_params=raw_params)


def _without_push(raw: msgspec.Raw) -> msgspec.Raw:
    if bytes(raw) == b"null":
        return raw
    configuration = _decode_fields(raw)
    kept = {name: value for name, value in configuration.items() if name.replace("_", "").lower() not in _INLINE_NAMES}
    # Of two members with one name the agent may read the other one than the hub.
    if len(kept) == len(configuration) and jsonrpc.has_unique_names(bytes(raw)):
        return raw
    return msgspec.Raw(_encode(kept))


def _core_params(request: A2ARequest) -> bytes:
    """Params in the shape of 1.0; those of 1.0 as they came. Raises: ShapeError, what a decoder raises."""
    legacy = legacy_of(request.dialect)
    if legacy is None:
        return request.params
    return _encode(raise_params(request.operation, _decode_any(request.params), legacy, request.task_id))


def _has_odd_names(head: MessageHead) -> bool:
    """Whether the message is spelled as only ProtoJSON parsers understand it."""
    snake = head.message_id is not None or head.task_id is not None or head.context_id is not None
    return snake or not isinstance(head.role, str)


def _usual_message(value: Json, head: MessageHead) -> JsonObject:
    message = fields_of(value, "message")
    if isinstance(head.role, int):
        message["role"] = _ROLE_NUMBERS[head.role]
    parts = enumerate(list_of(message.get("parts"), "message.parts"))
    return message | {"parts": [fields_of(part, f"message.parts.{index}") for index, part in parts]}


def _checked_config(value: Json, path: str) -> JsonObject:
    """A core config in its usual spelling, with what nothing can be delivered without. Raises: ShapeError."""
    config = fields_of(value, path or "params")
    prefix = f"{path}." if path else ""
    if not isinstance(config.get("url"), str) or not config["url"]:
        raise ShapeError(f"{prefix}url", "is required and must be a string")
    for name in ("id", "token"):
        if not isinstance(config.get(name, ""), str):
            raise ShapeError(f"{prefix}{name}", "must be a string")
    if "authentication" in config:
        authentication = fields_of(config["authentication"], f"{prefix}authentication")
        for name in ("scheme", "credentials"):
            if not isinstance(authentication.get(name, ""), str):
                raise ShapeError(f"{prefix}authentication.{name}", "must be a string")
        config["authentication"] = authentication
    return config


def _read_history_length(raw: bytes, field: str) -> int | None:
    """A number, or one in a string: queries have nothing else, and ProtoJSON allows it."""
    value: object = _decode_any(raw) if raw else None
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _INTEGER_MAX:
        raise _invalid(field, f"must be an integer from 0 to {_INTEGER_MAX}")
    return value


def _invalid(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"invalid params: {field} {message}", fields=[FieldError(field, message)])


# --- Answers ----------------------------------------------------------------------------------------------------------


def encode_result(request: A2ARequest, core: bytes) -> WireReply:
    """The whole answer to an operation, given its result in A2A 1.0 JSON.

    SendMessage has `{"task":...}` or `{"message":...}`, GetTask and CancelTask the bare Task, the operations on configs
    a config, `{"configs":[...]}` or `null`. Raises: UpstreamInvalid for what the caller's dialect has no words for.
    """
    operation, dialect = request.operation, request.dialect
    legacy = legacy_of(dialect)
    result = core
    if legacy is not None:
        result = _lowered(core, lambda value: lower_result(operation, value, legacy), dialect)
    if dialect.binding is _JSONRPC:
        return WireReply(200, _JSON, jsonrpc.result_body(request.request_id, result), None)
    if operation is _Op.DELETE_PUSH_CONFIG:
        result = b"{}"
    return WireReply(200, _A2A_JSON if dialect.version is Version.V1_0 else _JSON, result, None)


def encode_event(request: A2ARequest, core: bytes, number: int | None) -> bytes:
    """One framed event of a stream, given as A2A 1.0 JSON; `number` becomes its `id:`.

    Raises: UpstreamInvalid for what the caller's dialect has no words for.
    """
    legacy = legacy_of(request.dialect)
    if legacy is not None:
        result = _lowered(core, lambda value: lower_event(value, legacy), request.dialect)
    elif b"\n" in core or b"\r" in core:
        result = _on_one_line(core, request.dialect)
    else:
        result = core
    if request.dialect.binding is _JSONRPC:
        if number is None:
            return b'data: {"jsonrpc":"2.0","id":%b,"result":%b}\n\n' % (request.request_id, result)
        return b'id: %d\ndata: {"jsonrpc":"2.0","id":%b,"result":%b}\n\n' % (number, request.request_id, result)
    return b"data: %b\n\n" % result if number is None else b"id: %d\ndata: %b\n\n" % (number, result)


def _on_one_line(core: bytes, dialect: Dialect) -> bytes:
    """Line ends are only between tokens: strings hold none. A frame is one line of data."""
    try:
        return msgspec.json.format(core, indent=-1)
    except _UNREADABLE as error:
        text = f"this cannot be said in A2A {dialect.version.value}: {error}"
        raise UpstreamInvalid(text, may_have_acted=True) from None


def _lowered(core: bytes, lower: Callable[[Json], Json], dialect: Dialect) -> bytes:
    try:
        return _encode(lower(_decode_any(core)))
    except ShapeError as error:
        why = f"{error.path} {error.message}"
    except (*_UNREADABLE, OverflowError) as error:
        why = str(error)
    raise UpstreamInvalid(f"this cannot be said in A2A {dialect.version.value}: {why}", may_have_acted=True)
