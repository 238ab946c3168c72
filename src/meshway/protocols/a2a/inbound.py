"""What an agent answers, for the client: its own bytes where the dialects are the same, else translated.

On the way the head of a task is noticed (`TaskSeen`), so that the hub knows who owns what without reading the rest.
"""

import msgspec

from meshway.kernel.errors import UpstreamInvalid
from meshway.kernel.operations import AgentOperation
from meshway.protocols import jsonrpc, sse
from meshway.protocols.a2a.dialect import Binding, Dialect, Version, dialect_of
from meshway.protocols.a2a.errors import (
    WireError,
    encode_error,
    read_jsonrpc_error,
    read_rest_error,
    stream_error_name,
)
from meshway.protocols.a2a.requests import A2ARequest
from meshway.protocols.a2a.shapes import Json, ShapeError
from meshway.protocols.a2a.task_heads import HeadReader, head_reader, seen_in_core
from meshway.protocols.a2a.translation import legacy_of, lower_event, lower_result, raise_event, raise_result
from meshway.registry.values import AgentInterface
from meshway.tasks.values import TaskSeen

__all__ = ["StreamTranslator", "WireReply", "decode_answer", "decode_or_none", "decode_reply", "source_dialect"]

_Op = AgentOperation
_DELETE_PUSH_CONFIG = _Op.DELETE_PUSH_CONFIG
_HTTP_JSON = Binding.HTTP_JSON
_JSON = b"application/json"
_A2A_JSON = b"application/a2a+json"
_EMPTY = msgspec.Raw(b"")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class WireReply(msgspec.Struct, frozen=True):
    """A whole HTTP answer in the client's dialect."""

    status: int
    content_type: bytes
    body: bytes
    task: TaskSeen | None


class _Answer(msgspec.Struct):
    """A JSON-RPC answer; both empty when it is none."""

    result: msgspec.Raw = _EMPTY
    error: msgspec.Raw = _EMPTY


decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


def decode_reply(
    request: A2ARequest, source: AgentInterface, status: int, content_type: bytes, body: bytes
) -> WireReply:
    """The answer of `source` for the client that sent `request`.

    A JSON-RPC answer is sent with HTTP 200 whatever status it came with: stock clients hide errors behind any other.
    Raises: UpstreamInvalid when the agent answered with something that is not A2A.
    """
    dialect = source_dialect(source)
    if request.operation is _DELETE_PUSH_CONFIG and dialect.binding is not _HTTP_JSON:
        body = _with_result(body)
    if dialect is not request.dialect:
        return _translate_reply(request, dialect, status, body)
    reader = head_reader(request.operation, dialect)
    if dialect.binding is _HTTP_JSON:
        return _same_rest_reply(request, reader, status, content_type, body)
    try:
        head = reader(body)
    except _UNREADABLE as error:
        _check_unusual_answer(error, status, body)
        return WireReply(200, _json_type(content_type), body, None)
    if not head.is_answer:
        raise _not_a2a(status, "neither a result nor an error")
    return WireReply(200, _json_type(content_type), body, head.seen())


def _with_result(body: bytes) -> bytes:
    """The stock 0.3 server leaves out a result of null; JSON-RPC demands the member."""
    envelope = decode_or_none(body)
    if isinstance(envelope, dict) and envelope.get("jsonrpc") == "2.0" and not {"result", "error"} & envelope.keys():
        return _encode(envelope | {"result": None})
    return body


def _check_unusual_answer(error: Exception, status: int, body: bytes) -> None:
    """An answer whose result has another shape than expected is the client's to judge; anything else is no answer."""
    try:
        answer = decode_answer(body)
    except _UNREADABLE:
        raise _not_a2a(status, f"no JSON-RPC: {error}") from None
    if not answer.result and not answer.error:
        raise _not_a2a(status, "neither a result nor an error")


def _same_rest_reply(
    request: A2ARequest, reader: HeadReader, status: int, content_type: bytes, body: bytes
) -> WireReply:
    if status >= 400:
        if _rest_error_of(status, body) is None:
            raise _not_a2a(status, "an error, but not one of A2A")
        return WireReply(status, _json_type(content_type), body, None)
    if status >= 300:
        raise _not_a2a(status, "a redirect, which the hub does not follow")
    if request.operation is _Op.DELETE_PUSH_CONFIG:
        return WireReply(status, _json_type(content_type), body, None)
    task: TaskSeen | None = None
    try:
        task = reader(body).seen()
    except msgspec.ValidationError:
        if not isinstance(decode_or_none(body), dict):
            raise _not_a2a(status, "not a JSON object") from None
    except _UNREADABLE as error:
        raise _not_a2a(status, str(error)) from None
    return WireReply(status, _json_type(content_type), body, task)


# --- Translation ------------------------------------------------------------------------------------------------------


def _translate_reply(request: A2ARequest, source: Dialect, status: int, body: bytes) -> WireReply:
    try:
        outcome = _outcome(request, source, status, body)
        if isinstance(outcome, WireError):
            http = outcome.http if request.dialect.binding is Binding.HTTP_JSON else 200
            return WireReply(http, _JSON, encode_error(outcome, request.dialect, request.request_id), None)
        core = _raise_any(request.operation, outcome, source)
        if not isinstance(core, dict) and request.operation is not _Op.DELETE_PUSH_CONFIG:
            raise ShapeError("result", "must be an object")
        task = seen_in_core(request.operation, core)
        result = _encode(_lower_any(request.operation, core, request.dialect))
    except ShapeError as error:
        raise _not_a2a(status, f"{error.path} {error.message}") from None
    except (*_UNREADABLE, OverflowError) as error:
        raise _not_a2a(status, str(error)) from None
    if request.dialect.binding is Binding.JSONRPC:
        return WireReply(200, _JSON, jsonrpc.result_body(request.request_id, result), task)
    if request.operation is _Op.DELETE_PUSH_CONFIG:
        result = b"{}"
    return WireReply(200, _A2A_JSON if request.dialect.version is Version.V1_0 else _JSON, result, task)


def _outcome(request: A2ARequest, source: Dialect, status: int, body: bytes) -> Json:
    """The decoded result, or the error, of a whole answer."""
    if source.binding is Binding.HTTP_JSON:
        if status >= 400:
            error = _rest_error_of(status, body)
            if error is None:
                raise _not_a2a(status, "an error, but not one of A2A")
            return error
        if status >= 300:
            raise _not_a2a(status, "a redirect, which the hub does not follow")
        return None if request.operation is _Op.DELETE_PUSH_CONFIG else _decode_any(body)
    answer = decode_answer(body)
    if answer.error and bytes(answer.error) != b"null":
        return read_jsonrpc_error(_decode_any(answer.error))
    if not answer.result:
        raise _not_a2a(status, "neither a result nor an error")
    return _decode_any(answer.result)


def _raise_any(operation: AgentOperation, value: Json, source: Dialect) -> Json:
    legacy = legacy_of(source)
    return value if legacy is None else raise_result(operation, value, legacy)


def _lower_any(operation: AgentOperation, value: Json, target: Dialect) -> Json:
    legacy = legacy_of(target)
    if operation is _Op.DELETE_PUSH_CONFIG:
        return None
    return value if legacy is None else lower_result(operation, value, legacy)


# --- Streams ----------------------------------------------------------------------------------------------------------


class StreamTranslator:
    """The events of one stream, one after the other. After an exception the stream is over."""

    __slots__ = ("_parser", "_reader", "_request", "_same", "_source")

    def __init__(
        self, request: A2ARequest, source: AgentInterface, *, event_bytes_max: int = sse.EVENT_BYTES_MAX
    ) -> None:
        self._request = request
        self._source = source_dialect(source)
        self._same = self._source is request.dialect
        self._reader = head_reader(_Op.STREAM_MESSAGE, self._source)
        self._parser = sse.SseParser(event_bytes_max=event_bytes_max)

    def feed(self, data: bytes) -> list[tuple[bytes, TaskSeen | None]]:
        """Whole events, framed, in the client's dialect; those of its own dialect are the bytes that came.

        Comments are dropped: the hub sends its own. Raises: UpstreamInvalid (not A2A, or one event beyond the limit).
        """
        try:
            events = self._parser.feed(data)
        except sse.SseOverflow as error:
            raise UpstreamInvalid(f"the agent's stream cannot be read: {error}", may_have_acted=True) from None
        if self._same:
            return [self._pass(event) for event in events]
        return [translated for event in events if (translated := self._translate(event)) is not None]

    def finish(self) -> list[tuple[bytes, TaskSeen | None]]:
        """At the end of the stream: a last event without its blank line counts if it is whole, else it is dropped."""
        event = self._parser.finish()
        if event is None or not isinstance(decode_or_none(event.data), dict):
            return []
        translated = self.translate(event)
        return [] if translated is None else [translated]

    def translate(self, event: sse.SseEvent) -> tuple[bytes, TaskSeen | None] | None:
        """What `feed` gives for this event; None for one that the client is not to see. Raises: UpstreamInvalid."""
        return self._pass(event) if self._same else self._translate(event)

    def _pass(self, event: sse.SseEvent) -> tuple[bytes, TaskSeen | None]:
        if event.event and event.event != b"message":
            return event.raw, None
        try:
            return event.raw, self._reader(event.data).seen()
        except msgspec.ValidationError as error:
            if not isinstance(decode_or_none(event.data), dict):
                raise _broken_event(str(error)) from None
            # An object of a shape the hub does not know: what comes after 1.0 passes.
            return event.raw, None
        except _UNREADABLE as error:
            raise _broken_event(str(error)) from None

    def _translate(self, event: sse.SseEvent) -> tuple[bytes, TaskSeen | None] | None:
        if event.event not in (b"", b"message", b"error"):
            return None
        target = self._request.dialect
        try:
            outcome = self._event_outcome(event)
            if isinstance(outcome, WireError):
                body = encode_error(outcome, target, self._request.request_id)
                return sse.frame(body, id=event.id, event=stream_error_name(target)), None
            legacy = legacy_of(self._source)
            core = outcome if legacy is None else raise_event(outcome, legacy)
            if not isinstance(core, dict):
                raise ShapeError("event", "must be an object")
            legacy = legacy_of(target)
            result = _encode(core if legacy is None else lower_event(core, legacy))
        except ShapeError as error:
            raise _broken_event(f"{error.path} {error.message}") from None
        except (*_UNREADABLE, OverflowError) as error:
            raise _broken_event(str(error)) from None
        if target.binding is Binding.JSONRPC:
            result = jsonrpc.result_body(self._request.request_id, result)
        return sse.frame(result, id=event.id), seen_in_core(_Op.STREAM_MESSAGE, core)

    def _event_outcome(self, event: sse.SseEvent) -> Json:
        """The decoded payload of one event, or its error."""
        if self._source.binding is Binding.JSONRPC:
            answer = decode_answer(event.data)
            if answer.error and bytes(answer.error) != b"null":
                return read_jsonrpc_error(_decode_any(answer.error))
            if not answer.result:
                raise ShapeError("event", "holds neither a result nor an error")
            return _decode_any(answer.result)
        value = _decode_any(event.data)
        if event.event == b"error" or (isinstance(value, dict) and isinstance(value.get("error"), dict)):
            code = (
                value["error"].get("code") if isinstance(value, dict) and isinstance(value.get("error"), dict) else None
            )
            error = read_rest_error(code if isinstance(code, int) and 400 <= code <= 599 else 500, value)
            if error is None:
                raise ShapeError("event", "is an error, but not one of A2A")
            return error
        return value


def _broken_event(why: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"the agent sent an event that is not A2A: {why}", may_have_acted=True)


# --- Small things -----------------------------------------------------------------------------------------------------


def source_dialect(source: AgentInterface) -> Dialect:
    """How to read what the interface sends. Raises: UpstreamInvalid."""
    dialect = dialect_of(source)
    if dialect is None:
        raise UpstreamInvalid(f"the hub does not speak {source.binding} {source.version}")
    return dialect


def _rest_error_of(status: int, body: bytes) -> WireError | None:
    return read_rest_error(status, decode_or_none(body))


def decode_or_none(body: bytes) -> Json:
    """What this JSON says; None where it is none."""
    try:
        return _decode_any(body)
    except _UNREADABLE:
        return None


def _json_type(content_type: bytes) -> bytes:
    """The agent's own where it says JSON; the body was checked, so anything else is a slip."""
    return content_type if b"json" in content_type else _JSON


def _not_a2a(status: int, why: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"the agent's answer (HTTP {status}) is not A2A: {why}", may_have_acted=True)
