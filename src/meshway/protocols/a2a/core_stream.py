"""What an agent answers, as core (A2A 1.0), for the hub to number, keep and hand out in any dialect.

Agents of 1.0 are taken at their word: core is the bytes they sent. What is no event of the data model (an error, what
comes after 1.0) has no core form; it stays what `inbound` makes of it for the one client that asked.
"""

from typing import NamedTuple

import msgspec

from meshway.kernel.errors import UpstreamInvalid
from meshway.kernel.operations import AgentOperation
from meshway.protocols import sse
from meshway.protocols.a2a.dialect import REST_1_0, Binding, Dialect
from meshway.protocols.a2a.inbound import (
    StreamTranslator,
    WireReply,
    decode_answer,
    decode_or_none,
    decode_reply,
    source_dialect,
)
from meshway.protocols.a2a.requests import A2ARequest
from meshway.protocols.a2a.shapes import Json, ShapeError
from meshway.protocols.a2a.task_heads import head_reader, seen_in_core
from meshway.protocols.a2a.translation import legacy_of, raise_event, raise_result
from meshway.registry.values import AgentInterface
from meshway.tasks.values import TaskSeen

__all__ = ["CoreEvent", "CoreReply", "CoreTranslator", "core_of_answer", "decode_core_reply"]

_Op = AgentOperation
_NULL = b"null"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
_EVENT_RESULTS = frozenset({_Op.SEND_MESSAGE, _Op.STREAM_MESSAGE, _Op.SUBSCRIBE_TASK})


class CoreEvent(NamedTuple):
    """Either `core`, a StreamResponse of A2A 1.0 as JSON, or `frame`, for the client that asked; the other is empty."""

    frame: bytes
    seen: TaskSeen | None
    core: bytes | None


class CoreReply(NamedTuple):
    """`core` is the result as A2A 1.0 JSON, None for errors and what the data model does not know."""

    core: bytes | None
    reply: WireReply


class _Object(msgspec.Struct):
    """Any object: what is in it is not looked at."""


class _Kinds(msgspec.Struct):
    task: _Object | None = None
    statusUpdate: _Object | None = None  # noqa: N815 - the wire's own name, here and below
    artifactUpdate: _Object | None = None  # noqa: N815
    message: _Object | None = None

    @property
    def is_known(self) -> bool:
        """Whether the event is one of the data model, as far as its name goes."""
        return (self.artifactUpdate or self.statusUpdate or self.task or self.message) is not None


_decode_kinds = msgspec.json.Decoder(_Kinds).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
_read_head = head_reader(_Op.STREAM_MESSAGE, REST_1_0)


class CoreTranslator:
    """The events of one stream, one after the other. After an exception the stream is over."""

    __slots__ = ("_legacy", "_parser", "_usual", "_wraps")

    def __init__(
        self, request: A2ARequest, source: AgentInterface, *, event_bytes_max: int = sse.EVENT_BYTES_MAX
    ) -> None:
        dialect = source_dialect(source)
        self._legacy = legacy_of(dialect)
        self._wraps = dialect.binding is Binding.JSONRPC
        self._usual = StreamTranslator(request, source, event_bytes_max=event_bytes_max)
        self._parser = sse.SseParser(event_bytes_max=event_bytes_max)

    def feed(self, data: bytes) -> list[CoreEvent]:
        """The events completed by these bytes. Raises: UpstreamInvalid (not A2A, or one event beyond the limit)."""
        try:
            events = self._parser.feed(data)
        except sse.SseOverflow as error:
            raise UpstreamInvalid(f"the agent's stream cannot be read: {error}", may_have_acted=True) from None
        return [read for event in events if (read := self._read(event)) is not None]

    def finish(self) -> list[CoreEvent]:
        """At the end of the stream: a last event without its blank line counts if it is whole, else it is dropped."""
        event = self._parser.finish()
        if event is None or not isinstance(decode_or_none(event.data), dict):
            return []
        read = self._read(event)
        return [] if read is None else [read]

    def _read(self, event: sse.SseEvent) -> CoreEvent | None:
        if event.event in (b"", b"message"):
            try:
                data = _in_utf8(event.data)
                read = self._read_1_0(data) if self._legacy is None else self._raise(data)
            except (*_UNREADABLE, ShapeError):
                # Whether it ends the stream is decided below, as for a client that asks for no record.
                read = None
            if read is not None:
                return read
        usual = self._usual.translate(event)
        return None if usual is None else CoreEvent(*usual, None)

    def _read_1_0(self, data: bytes) -> CoreEvent | None:
        core = data
        if self._wraps:
            answer = decode_answer(data)
            if _holds_error(answer.error):
                return None
            core = bytes(answer.result)
        kinds = _decode_kinds(core)
        if kinds.artifactUpdate is not None:
            return CoreEvent(b"", None, core)
        return CoreEvent(b"", _read_head(core).seen(), core) if kinds.is_known else None

    def _raise(self, data: bytes) -> CoreEvent | None:
        assert self._legacy is not None
        if self._wraps:
            answer = decode_answer(data)
            if _holds_error(answer.error):
                return None
            data = answer.result
        core = raise_event(_decode_any(data), self._legacy)
        return CoreEvent(b"", seen_in_core(_Op.STREAM_MESSAGE, core), _encode(core))


def decode_core_reply(
    request: A2ARequest, source: AgentInterface, status: int, content_type: bytes, body: bytes
) -> CoreReply:
    """The answer of `source` as `decode_reply` gives it, and its result in core. Raises: UpstreamInvalid."""
    reply = decode_reply(request, source, status, content_type, body)
    return CoreReply(core_of_answer(request, source, status, body), reply)


def core_of_answer(request: A2ARequest, source: AgentInterface, status: int, body: bytes) -> bytes | None:
    """The result in an answer that `decode_reply` has taken, as core; None for errors and what is not known."""
    try:
        return _core_result(request.operation, source_dialect(source), status, body)
    except (*_UNREADABLE, ShapeError):
        # The client got it as it is, to make of it what it can.
        return None


def _core_result(operation: AgentOperation, source: Dialect, status: int, body: bytes) -> bytes | None:
    if source.binding is Binding.HTTP_JSON:
        if status >= 400:
            return None
        result = body
    else:
        answer = decode_answer(body)
        if _holds_error(answer.error):
            return None
        result = bytes(answer.result)
    if operation is _Op.DELETE_PUSH_CONFIG:
        return _NULL
    result = _in_utf8(result)
    legacy = legacy_of(source)
    if legacy is not None:
        raised: Json = raise_result(operation, _decode_any(result), legacy)
        return _encode(raised) if isinstance(raised, dict) else None
    # Of the other operations too, the result is an object.
    kinds = _decode_kinds(result)
    return result if kinds.is_known or operation not in _EVENT_RESULTS else None


def _holds_error(error: bytes) -> bool:
    return bool(error) and bytes(error) != _NULL


def _in_utf8(data: bytes) -> bytes:
    """What readers of an event stream see: bytes that are no UTF-8 are replaced (WHATWG HTML, 9.2.6).

    Skipped over unread, they would come to light in the store.
    """
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace").encode()
    return data
