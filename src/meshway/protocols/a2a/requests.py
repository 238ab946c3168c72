"""Reading what a client asks: only the envelope and the names the hub routes by; everything else stays bytes.

The structs in params_check hold the spellings of both versions, camelCase and the snake_case that ProtoJSON and the 0.3
SDK accept as well: a name that the agent would read must not be invisible to the hub, which checks who owns the task.
"""

from urllib.parse import parse_qsl

import msgspec

from meshway.kernel.errors import (
    ContentTypeUnsupported,
    FieldError,
    InvalidRequest,
    MalformedBody,
    MeshwayError,
    MethodUnknown,
    NotFound,
    VersionUnsupported,
)
from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import (
    JSONRPC_0_3,
    JSONRPC_1_0,
    REST_0_3,
    REST_1_0,
    Dialect,
    Version,
    negotiate_version,
)
from meshway.protocols.a2a.names import check_envelope_names, check_names, check_query_names, is_suspicious
from meshway.protocols.a2a.operations import METHODS_0_3, METHODS_1_0
from meshway.protocols.a2a.params_check import MessageHead, SendParams, TaskParams, find_faults
from meshway.protocols.a2a.rest_paths import RestRoute, match_path
from meshway.protocols.jsonrpc import (
    NULL_ID,
    EnvelopeInvalid,
    is_plain_envelope,
    malformed,
    read_envelope,
    salvage_id,
)

__all__ = ["A2ARequest", "RequestRefused", "is_rest_path", "read_jsonrpc", "read_rest"]

_Op = AgentOperation
_SEND, _STREAM = _Op.SEND_MESSAGE, _Op.STREAM_MESSAGE
_V1_0 = Version.V1_0
_SENDING = frozenset({_SEND, _STREAM})
_WITH_CONFIG_ID = frozenset({_Op.GET_PUSH_CONFIG, _Op.DELETE_PUSH_CONFIG})
_TASKLESS = frozenset({_Op.LIST_TASKS, _Op.GET_EXTENDED_CARD})
# A parser of the agent's may resolve `..` in a path, with or without percent-encoding.
_PATH_SEGMENTS_REFUSED = frozenset({".", ".."})
_MEDIA_TYPES = frozenset({"application/json", "application/a2a+json"})
# More than any operation takes; stops a query of a million parameters.
_QUERY_FIELDS_MAX = 64

_decode_send = msgspec.json.Decoder(SendParams).decode
_decode_task = msgspec.json.Decoder(TaskParams).decode


class _UsualSend(msgspec.Struct):
    jsonrpc: str
    id: msgspec.Raw
    method: str
    params: SendParams


_decode_usual = msgspec.json.Decoder(_UsualSend).decode
_USUAL_METHODS = {_SEND.value: _SEND, _STREAM.value: _STREAM}


class A2ARequest(msgspec.Struct):
    """One request of a client. Byte fields are raw JSON.

    `request_id` is the JSON-RPC id (`null` for REST); `body` what was received; `params` the JSON-RPC params or the
    REST body, empty where there were none; `query` the decoded REST query without `A2A-Version`; `blocking` whether the
    client waits for the end of the turn; `http_method` the client's own.
    """

    dialect: Dialect
    operation: AgentOperation
    request_id: bytes
    body: bytes
    # None: not taken out of the body yet.
    taken_params: bytes | None
    tenant: str | None = None
    task_id: str | None = None
    context_id: str | None = None
    message_id: str | None = None
    config_id: str | None = None
    query: tuple[tuple[str, str], ...] = ()
    extensions: str | None = None
    blocking: bool = True
    http_method: bytes = b"POST"

    @property
    def params(self) -> bytes:
        if self.taken_params is None:
            self.taken_params = bytes(read_envelope(self.body)[0].params)
        return self.taken_params


class RequestRefused(Exception):
    """The request is wrong before any agent was asked. Holds what is needed to say so in the caller's own dialect."""

    def __init__(self, error: MeshwayError, dialect: Dialect, request_id: bytes = NULL_ID) -> None:
        super().__init__(error.detail)
        self.error = error
        self.dialect = dialect
        self.request_id = request_id


def read_jsonrpc(
    body: bytes, *, version: str | None, content_type: str | None, extensions: str | None = None
) -> A2ARequest:
    """Read a JSON-RPC request. `version` is the `A2A-Version` header, or the query parameter of that name.

    Raises: RequestRefused, whatever the bytes are.
    """
    if content_type == "application/json" and version == "1.0":
        usual = _read_usual_send(body, extensions)
        if usual is not None:
            return usual
    if content_type != "application/json" and not _is_json(content_type):
        raise _refusal(_wrong_content_type(content_type), body, version)
    try:
        envelope, request_id = read_envelope(body)
    except MalformedBody as error:
        raise _refusal(error, body, version) from None
    try:
        asked = negotiate_version(version)
    except VersionUnsupported as error:
        raise RequestRefused(error, JSONRPC_1_0, request_id) from None
    method = envelope.method
    operation = METHODS_1_0.get(method)
    if operation is not None:
        dialect = JSONRPC_1_0
    elif (operation := METHODS_0_3.get(method)) is not None:
        dialect = JSONRPC_0_3
    else:
        unknown = MethodUnknown(f"there is no method {method[:60]!r} in A2A 1.0 or 0.3")
        raise RequestRefused(unknown, Dialect(asked, JSONRPC_1_0.binding), request_id)
    if asked is not dialect.version:
        raise RequestRefused(_wrong_version(method, dialect.version, version), dialect, request_id)
    params = bytes(envelope.params)
    request = A2ARequest(dialect, operation, request_id, body, params, None, None, None, None, None, (), extensions)
    _read_params(request)
    if not is_plain_envelope(body, envelope, request_id, params):
        _check_envelope(request)
    return request


def read_rest(
    method: str,
    path: str,
    query: str,
    body: bytes,
    *,
    version: str | None,
    content_type: str | None,
    extensions: str | None = None,
) -> A2ARequest:
    """Read a request of the HTTP+JSON binding. `path` is what follows the agent's own, percent-encoded, as sent.

    Raises: RequestRefused; NotFound inside it for a path of no operation.
    """
    route = match_path(path)
    if route is None:
        raise RequestRefused(NotFound(_nothing_at(path)), REST_1_0)
    try:
        fields = _read_query(query)
        asked = negotiate_version(version or dict(fields).get("A2A-Version"))
    except (InvalidRequest, VersionUnsupported) as error:
        raise RequestRefused(error, route.dialect) from None
    operation = route.operations.get(method)
    if operation is None:
        allowed = " or ".join(sorted(route.operations))
        raise RequestRefused(MethodUnknown(f"{path[:120]} takes {allowed}, not {method[:20]}"), route.dialect)
    if asked is not route.dialect.version:
        raise RequestRefused(_wrong_version(path[:120], route.dialect.version, version), route.dialect)
    if body and not _is_json(content_type):
        raise RequestRefused(_wrong_content_type(content_type), route.dialect)
    request = A2ARequest(route.dialect, operation, NULL_ID, body, body, route.tenant)
    request.query = tuple(field for field in fields if field[0] != "A2A-Version")
    request.extensions = extensions
    request.http_method = method.encode()
    _read_rest_params(request, route)
    return request


def _read_usual_send(body: bytes, extensions: str | None) -> A2ARequest | None:
    """A SendMessage of 1.0 with nothing odd about it, decoded in one pass; None for everything else, wrong or not.

    Odd is whatever two parsers could read differently: a name given twice, in snake_case, in other letters.
    """
    try:
        envelope = _decode_usual(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    message = envelope.params.message
    operation = _USUAL_METHODS.get(envelope.method)
    request_id = bytes(envelope.id)
    if not request_id.isdigit() and request_id[:1] != b'"':
        return None
    if operation is None or envelope.jsonrpc != "2.0" or message is None or not message.is_whole(JSONRPC_1_0):
        return None
    if message.task_id is not None or message.context_id is not None or _has_odd_names(body, message):
        return None
    configuration = envelope.params.configuration
    blocking = configuration is None or not (configuration.returnImmediately or configuration.return_immediately)
    return A2ARequest(
        JSONRPC_1_0, operation, request_id, body, None, envelope.params.tenant or None,
        message.taskId, message.contextId, message.messageId or message.message_id, None, (), extensions, blocking,
    )  # fmt: skip


def _has_odd_names(body: bytes, message: MessageHead) -> bool:
    folded = body.lower()
    if folded.count(b'"params"') != 1 or folded.count(b'"method"') != 1 or folded.count(b'"message"') != 1:
        return True
    if folded.count(b'"id"') != 1 or folded.count(b'"jsonrpc"') != 1 or (b"\\" in body and b"\\u" in body):
        return True
    if folded.count(b'contextid"') != (message.contextId is not None):
        return True
    return not body.isascii() or is_suspicious(body, message.taskId)


def _nothing_at(path: str) -> str:
    if path == "/":
        return "POST JSON-RPC requests to an agent's own address; its card is below it at .well-known/agent-card.json"
    return f"no operation of the HTTP+JSON binding has the path {path[:120]!r}"


def is_rest_path(path: str) -> bool:
    """Whether this path, below the agent's own, is one of the HTTP+JSON binding."""
    return match_path(path) is not None


def _read_params(request: A2ARequest) -> None:
    """Fill in what the hub routes by. Raises: RequestRefused."""
    operation = request.operation
    try:
        if operation is _SEND or operation is _STREAM:
            _take_send(request, _decode_send(request.params))
            if is_suspicious(request.params, request.task_id):
                check_names(request.params, operation, request.dialect)
        elif request.params or operation not in _TASKLESS:
            _take_task(request, _decode_task(request.params))
            check_names(request.params, operation, request.dialect)
    except InvalidRequest as error:
        raise RequestRefused(error, request.dialect, request.request_id) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        broken = malformed(request.params) if request.params else None
        refused = broken or _params_invalid(request)
        raise RequestRefused(refused, request.dialect, request.request_id) from None


def _read_rest_params(request: A2ARequest, route: RestRoute) -> None:
    """The path names the task; a body that names another one is refused."""
    if request.body and (error := _not_utf8(request.body)):
        raise RequestRefused(error, request.dialect)
    if request.body and request.http_method == b"POST" and request.operation is not _Op.SUBSCRIBE_TASK:
        _read_params(_with_path_ids(request, route))
        return
    if request.operation in _SENDING:
        request.taken_params = b""
        raise RequestRefused(_params_invalid(request), request.dialect)
    request.task_id, request.config_id = route.task_id, route.config_id
    try:
        _check_ids(request)
        if request.task_id is not None:
            check_query_names(request.query, request.task_id, request.config_id)
    except InvalidRequest as error:
        raise RequestRefused(error, request.dialect) from None


def _with_path_ids(request: A2ARequest, route: RestRoute) -> A2ARequest:
    request.task_id, request.config_id = route.task_id, route.config_id
    return request


def _not_utf8(body: bytes) -> MeshwayError | None:
    if body.isascii():
        return None
    try:
        body.decode()
    except UnicodeDecodeError:
        return MalformedBody("the body is not valid UTF-8")
    return None


def _take_send(request: A2ARequest, params: SendParams) -> None:
    message = params.message
    if request.dialect is REST_0_3 and params.request is not None:
        if message is not None:
            fault = FieldError("message", "is given twice, also as 'request'")
            raise InvalidRequest("invalid params: message is given twice", fields=[fault])
        message = params.request
    if message is None or not message.is_whole(request.dialect):
        raise _params_invalid(request)
    request.message_id = message.messageId or message.message_id
    if message.taskId is not None or message.task_id is not None:
        request.task_id = _one_of(message.taskId, message.task_id, "message.taskId")
    if message.contextId is not None or message.context_id is not None:
        request.context_id = _one_of(message.contextId, message.context_id, "message.contextId")
    if params.tenant:
        request.tenant = _same("tenant", request.tenant, params.tenant)
    configuration = params.configuration
    if configuration is not None:
        if request.dialect.version is _V1_0:
            request.blocking = not (configuration.returnImmediately or configuration.return_immediately)
        else:
            # Absent means to wait, as in the stock SDK, but ProtoJSON leaves out what is false.
            request.blocking = configuration.blocking is not False
            if configuration.blocking is None and request.dialect is REST_0_3:
                request.blocking = False


def _take_task(request: A2ARequest, params: TaskParams) -> None:
    """Ids of a task-scoped operation, wherever the dialect puts them."""
    if request.dialect is REST_1_0 or request.dialect is REST_0_3:
        _take_rest_task(request, params)
        return
    request.tenant = params.tenant or None
    operation = request.operation
    own = params.id or None
    named = _one_of(params.taskId, params.task_id, "taskId")
    if request.dialect is JSONRPC_0_3:
        if operation is _Op.CREATE_PUSH_CONFIG:
            request.task_id = named
            config = params.pushNotificationConfig or params.push_notification_config
            request.config_id = (config.id or None) if config else None
        else:
            request.task_id = own
            request.config_id = _one_of(
                params.pushNotificationConfigId, params.push_notification_config_id, "pushNotificationConfigId"
            )
    elif operation in _WITH_CONFIG_ID or operation is _Op.CREATE_PUSH_CONFIG:
        request.task_id, request.config_id = named, own
    elif operation is _Op.LIST_PUSH_CONFIGS:
        request.task_id = named
    elif operation not in _TASKLESS:
        request.task_id = own
    _check_ids(request)


def _take_rest_task(request: A2ARequest, params: TaskParams) -> None:
    """The body may repeat what the path says (the stock client does), but not contradict it."""
    request.tenant = _same("tenant", request.tenant, params.tenant)
    if request.dialect is REST_1_0:
        in_body = (
            params.id if request.operation is _Op.CANCEL_TASK else _one_of(params.taskId, params.task_id, "taskId")
        )
        _same("id", request.task_id, in_body)
        if request.operation is _Op.CREATE_PUSH_CONFIG:
            request.config_id = params.id or None
    elif request.operation is _Op.CREATE_PUSH_CONFIG:
        request.config_id = _one_of(params.configId, params.config_id, "configId")
        for name in (params.parent, params.name):
            if name:
                _same("parent", f"tasks/{request.task_id}", name)
    _check_ids(request)


def _check_ids(request: A2ARequest) -> None:
    faults: list[FieldError] = []
    pushing_1_0 = request.dialect is JSONRPC_1_0 and request.operation in _WITH_CONFIG_ID
    if request.task_id is None and request.operation not in _TASKLESS:
        named = pushing_1_0 or request.operation in (_Op.CREATE_PUSH_CONFIG, _Op.LIST_PUSH_CONFIGS)
        faults.append(FieldError("taskId" if named and request.dialect is JSONRPC_1_0 else "id", "is required"))
    if request.config_id is None and (pushing_1_0 or request.operation is _Op.DELETE_PUSH_CONFIG):
        faults.append(FieldError("id" if pushing_1_0 else "pushNotificationConfigId", "is required"))
    faults.extend(
        FieldError("id", f"{value!r} is no id")
        for value in (request.task_id, request.config_id)
        if value in _PATH_SEGMENTS_REFUSED
    )
    if faults:
        raise InvalidRequest(f"invalid params: {faults[0].field} {faults[0].message}", fields=faults)


def _check_envelope(request: A2ARequest) -> None:
    try:
        check_envelope_names(request.body)
    except MalformedBody as error:
        raise RequestRefused(error, request.dialect, request.request_id) from None


def _one_of(camel: str | None, snake: str | None, field: str) -> str | None:
    """A value under either spelling of its name; empty means absent, as in ProtoJSON."""
    if camel and snake and camel != snake:
        raise InvalidRequest(f"{field} is given twice", fields=[FieldError(field, "is given in both spellings")])
    return camel or snake or None


def _same(field: str, in_path: str | None, in_body: str | None) -> str | None:
    if in_path and in_body and in_path != in_body:
        message = f"{field} of the body does not match the path"
        raise InvalidRequest(message, fields=[FieldError(field, "does not match the path")])
    return in_path or in_body or None


def _params_invalid(request: A2ARequest) -> InvalidRequest:
    faults = find_faults(request.params, request.operation, request.dialect)
    return InvalidRequest(f"invalid params: {faults[0].field} {faults[0].message}", fields=faults)


def _read_query(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX, errors="strict")
    except ValueError:
        raise InvalidRequest("the query string has too many parameters or is not UTF-8") from None


def _is_json(content_type: str | None) -> bool:
    """Absent passes: it was never demanded of those who send nothing but JSON."""
    if content_type is None or content_type in _MEDIA_TYPES:
        return True
    return content_type.partition(";")[0].strip().lower() in _MEDIA_TYPES


def _wrong_content_type(content_type: str | None) -> ContentTypeUnsupported:
    return ContentTypeUnsupported(f"send application/json or application/a2a+json, not {(content_type or '')[:80]!r}")


def _wrong_version(what: str, wanted: Version, header: str | None) -> VersionUnsupported:
    sent = f"the request says {header[:20]!r}" if header else "the request has none, which means 0.3"
    return VersionUnsupported(f"{what} is A2A {wanted.value}: send the header 'A2A-Version: {wanted.value}'; {sent}")


def _refusal(error: MeshwayError, body: bytes, version: str | None) -> RequestRefused:
    """For requests whose method is not known: the version header alone says how the caller wants to be answered."""
    try:
        dialect = Dialect(negotiate_version(version), JSONRPC_1_0.binding)
    except VersionUnsupported:
        dialect = JSONRPC_1_0
    readable = isinstance(error, EnvelopeInvalid | ContentTypeUnsupported)
    return RequestRefused(error, dialect, salvage_id(body) if readable else NULL_ID)
