"""One connection: sends a request, parses the answer (llhttp), watches the time. Not where connections come from.

The hot path is one `send` and one `data_received` a call: no task, one future, and no timer, because the one timer of
a connection is only moved forward when it rings.
"""

import asyncio
import math
import select
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from meshway.kernel.errors import DeadlineExceeded, MeshwayError, UpstreamBroken, UpstreamInvalid, UpstreamUnreachable
from meshway.upstreams.http1.origin import Origin
from meshway.upstreams.http1.response import Http1Response
from meshway.upstreams.http1.settings import Http1Settings
from meshway.upstreams.http1.states import ConnectionState

__all__ = ["Connection", "ConnectionBounds", "ConnectionOwner"]

_NEW = ConnectionState.NEW
_READY = ConnectionState.READY
_WAITING = ConnectionState.WAITING
_RECEIVING = ConnectionState.RECEIVING
_CLOSED = ConnectionState.CLOSED

# Timers of the loop count whole milliseconds; a rest below this is over.
_TIMER_RESOLUTION_S = 0.001
# After this time without use the socket itself is asked once more before a request is trusted to it.
_TRUSTED_IDLE_S = 1.0
# 100, 102, 103 come once each, progress a few times; more is a server that never answers.
_INTERIM_ANSWERS_MAX = 32


class ConnectionOwner(Protocol):
    """The pool, as its connections see it."""

    def opened(self, connection: "Connection") -> None:
        """It has a transport now."""

    def keep(self, connection: "Connection") -> bool:
        """May it wait for the next request? False: no room, close it."""

    def drop(self, connection: "Connection") -> None:
        """It is closed and must not be handed out any more; called at once, and once."""

    def lost(self, connection: "Connection") -> None:
        """Its socket is gone; called once for each `opened`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """The settings in the units of the loop, worked out once."""

    keep_alive_s: float
    first_byte_s: float
    idle_s: float
    header_bytes_max: int
    headers_max: int
    body_bytes_max: int
    unread_bytes_max: int

    @classmethod
    def of(cls, settings: Http1Settings) -> "ConnectionBounds":
        return cls(
            keep_alive_s=settings.keep_alive_ms / 1000,
            first_byte_s=settings.first_byte_timeout_ms / 1000,
            idle_s=settings.idle_timeout_ms / 1000,
            header_bytes_max=settings.header_bytes_max,
            headers_max=settings.headers_max,
            body_bytes_max=settings.body_bytes_max,
            unread_bytes_max=settings.unread_bytes_max,
        )


class _ParsingStopped(Exception):
    """Raised inside a parser callback: what follows in this read is not part of the answer."""


class Connection(asyncio.Protocol):
    """Carries one request at a time. Its state moves as `states.MOVES` allows."""

    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_answer",
        "_bounds",
        "_collecting",
        "_complete",
        "_deadline",
        "_due",
        "_head_only",
        "_headers",
        "_interim_answers",
        "_loop",
        "_origin",
        "_owner",
        "_parser",
        "_paused",
        "_quiet_bytes",
        "_ready_since",
        "_response",
        "_reusable",
        "_state",
        "_transport",
    )

    def __init__(
        self, owner: ConnectionOwner, origin: Origin, bounds: ConnectionBounds, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._owner = owner
        self._origin = origin
        self._bounds = bounds
        self._loop = loop
        self._state = _NEW
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        # The timer rings at _alarm_at or before; only when it does is _due looked at. Both are loop.time() seconds.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._due = math.inf
        self._ready_since = 0.0
        # Of the current request.
        self._answer: asyncio.Future[Http1Response] | None = None
        self._response: Http1Response | None = None
        self._deadline: float | None = None
        self._head_only = False
        self._collecting = False
        self._paused = False
        # Of the current answer, as parsed.
        self._headers: list[tuple[bytes, bytes]] = []
        self._interim_answers = 0
        self._complete = False
        self._reusable = False
        # Bytes since the last one that belonged to a body: bounds heads, trailers and chunk extensions alike.
        self._quiet_bytes = 0

    @property
    def state(self) -> ConnectionState:
        return self._state

    # --- for the pool ---

    def is_usable(self, now: float) -> bool:
        """May the next request go here? `now` in loop.time() seconds."""
        transport = self._transport
        idle_s = now - self._ready_since
        # The loop may know already that the socket is dead, and tell us only after the caller has run.
        if transport is None or transport.is_closing() or idle_s >= self._bounds.keep_alive_s:
            return False
        return idle_s < _TRUSTED_IDLE_S or not _has_unread_input(transport)

    def send(
        self, wire: bytes | Sequence[bytes], now: float, deadline: float | None, *, method: bytes
    ) -> asyncio.Future[Http1Response]:
        """Write a request; the future is done when the head of its answer is complete. Times in loop.time() seconds."""
        if self._state is not _READY or self._transport is None:
            raise UpstreamUnreachable(f"{self._origin} closed the connection before the request was sent.")
        self._state = _WAITING
        self._answer = answer = self._loop.create_future()
        self._deadline = deadline
        self._head_only = method == b"HEAD"
        self._collecting = False
        self._complete = False
        self._quiet_bytes = 0
        self._due = due = now + self._bounds.first_byte_s if deadline is None else deadline
        if due < self._alarm_at:
            self._set_alarm(due)
        try:
            if isinstance(wire, bytes):
                self._transport.write(wire)
            else:
                self._transport.writelines(wire)
        except BaseException:
            self.shut(self._abandoned())
            raise
        return answer

    def cancel(self, answer: asyncio.Future[Http1Response]) -> None:
        """The caller of `send` is gone: close, unless the connection already serves somebody else."""
        if self._answer is answer:
            self.shut(self._abandoned())
        elif not answer.cancelled() and answer.exception() is None:
            answer.result().close()

    def shut(self, failure: MeshwayError) -> None:
        """Close now; whoever waits for an answer or its body gets `failure`. Safe to call again."""
        if self._state is _CLOSED:
            return
        self._state = _CLOSED
        self._owner.drop(self)
        self._due = math.inf
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        answer, self._answer = self._answer, None
        response, self._response = self._response, None
        if answer is not None:
            if not answer.done():
                answer.set_exception(failure)
        elif response is not None:
            response.fail(failure)
        # The parser holds bound methods of this object: without this only the garbage collector would free both.
        self._parser = None
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, failure: MeshwayError) -> None:
        """Close a connection whose dialling was broken off, for which uvloop reports no loss in some cases."""
        self.shut(failure)
        self.connection_lost(None)

    # --- for the reader of the body (response.BodySource) ---

    def collect(self) -> None:
        self._collecting = True
        self._watch_body()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
            self._watch_body()

    def abandon(self) -> None:
        self.shut(self._abandoned())

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast because uvloop's and the TLS transport have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        if self._state is _CLOSED:
            self._transport.abort()
            self._transport = None
            return
        self._owner.opened(self)
        if self._state is _CLOSED:
            return
        self._parser = httptools.HttpResponseParser(self)
        self._state = _READY
        self._ready_since = self._loop.time()

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        if self._state is _READY:
            self.shut(self._invalid("sent bytes nobody asked for"))
            return
        self._quiet_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._on_parser_error(error)
            return
        if self._complete:
            self._finish()
        else:
            self._on_part()

    def eof_received(self) -> None:
        response, transport = self._response, self._transport
        if self._state is _RECEIVING and response is not None and transport is not None:
            if _ends_with_connection(response) and _was_closed_orderly(transport):
                self._reusable = False
                self._finish()
        elif self._state is _READY:
            self.shut(self._abandoned())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        if self._state is not _CLOSED:
            before = self._state is _WAITING and self._quiet_bytes == 0
            when = "before it answered" if before else "in the middle of its answer"
            reason = f" ({exc})" if exc is not None else ""
            self.shut(UpstreamBroken(f"{self._origin} closed the connection {when}{reason}.", may_have_acted=True))
        self._transport = None
        self._owner.lost(self)

    # --- httptools callbacks; what they raise comes back from feed_data as the error's __context__ ---

    def on_message_begin(self) -> None:
        if self._complete:
            raise _ParsingStopped

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        bounds = self._bounds
        if len(headers) > bounds.headers_max:
            raise self._invalid(f"sent more than {bounds.headers_max} headers")
        if self._quiet_bytes > bounds.header_bytes_max and _size(headers) > bounds.header_bytes_max:
            raise self._invalid(f"sent headers larger than {bounds.header_bytes_max} bytes")
        codings = [value for name, value in headers if len(name) == 17 and name.lower() == b"transfer-encoding"]
        if codings and b",".join(codings).strip(b" \t").lower() != b"chunked":
            raise self._invalid("used a transfer encoding that was not offered")
        if status < 200 or status > 599:
            self._on_unusual_status(status, headers)
            return
        self._response = Http1Response(status, headers, self, self._loop, bounds.body_bytes_max)
        if self._head_only:
            # llhttp cannot be told that no body follows, so this connection ends here.
            self._complete = True
            self._reusable = False
            raise _ParsingStopped

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is None:
            raise self._invalid("sent a body where none may be")
        self._quiet_bytes = 0
        response.parts.append(body)
        response.buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._headers:
            self._headers = []  # trailers: they say nothing that a relay needs, and must not join the next head
        if self._response is None:
            return  # an interim answer: the real one follows
        assert self._parser is not None
        self._complete = True
        self._interim_answers = 0
        self._reusable = self._parser.should_keep_alive()

    # --- inside ---

    def _on_unusual_status(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if status == 101:
            raise self._invalid("switched protocols, which nobody asked for")
        if status < 100 or status > 599:
            raise self._invalid(f"answered with status {status:03d}; those of HTTP are 100 to 599")
        self._interim_answers += 1
        if self._interim_answers > _INTERIM_ANSWERS_MAX:
            raise self._invalid(f"sent more than {_INTERIM_ANSWERS_MAX} interim answers")

    def _on_part(self) -> None:
        """The answer goes on. The first time its head is complete, the caller gets it."""
        bounds = self._bounds
        response = self._response
        if self._quiet_bytes > bounds.header_bytes_max:
            what = "headers" if response is None else "trailers or chunk extensions"
            self.shut(self._invalid(f"sent {what} larger than {bounds.header_bytes_max} bytes"))
            return
        if response is None:
            return
        answer = self._answer
        if answer is None:
            response.wake()
        elif answer.done():  # cancelled a moment ago
            self.shut(self._abandoned())
            return
        else:
            self._answer = None
            self._state = _RECEIVING
            answer.set_result(response)
        if not self._collecting and response.buffered_bytes > bounds.unread_bytes_max and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._watch_body()

    def _finish(self) -> None:
        """The answer is complete: back to the pool, or close; either way before the caller reads it."""
        response, self._response = self._response, None
        answer, self._answer = self._answer, None
        assert response is not None
        response.finish()
        if answer is not None and not answer.done():
            answer.set_result(response)
        transport = self._transport
        # A request that is still being written when its answer is complete: the other side may not want the rest.
        if self._reusable and transport is not None and not transport.get_write_buffer_size():
            if self._paused:
                self._paused = False
                transport.resume_reading()
            self._state = _READY
            if self._owner.keep(self):
                self._ready_since = now = self._loop.time()
                self._due = due = now + self._bounds.keep_alive_s
                if due < self._alarm_at:
                    self._set_alarm(due)
                return
        self.shut(self._abandoned())

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        if self._complete:
            # The answer itself was whole; what follows it only says that this connection cannot be trusted again.
            self._reusable = False
            self._finish()
            return
        cause = error.__context__
        failure = cause if isinstance(cause, MeshwayError) else self._invalid(f"broke the rules of HTTP/1.1: {error}")
        self.shut(failure)

    def _watch_body(self) -> None:
        """Set when the body is overdue; a reader that takes nothing for so long is given up in the same way."""
        due = self._loop.time() + self._bounds.idle_s
        if self._collecting and self._deadline is not None and self._deadline < due:
            due = self._deadline
        self._due = due
        if due < self._alarm_at:
            self._set_alarm(due)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = math.inf
        now = self._loop.time()
        if self._due - now > _TIMER_RESOLUTION_S:
            self._set_alarm(self._due)
            return
        self.shut(self._overdue(now + _TIMER_RESOLUTION_S))

    def _overdue(self, now: float) -> MeshwayError:
        if self._state is _WAITING and self._deadline is None:
            text = f"{self._origin} did not answer within {self._bounds.first_byte_s:g} s."
            return DeadlineExceeded(text, may_have_acted=True)
        if self._state is _WAITING:
            return DeadlineExceeded(f"{self._origin} did not answer in time.", may_have_acted=True)
        if self._collecting and self._deadline is not None and self._deadline <= now:
            return DeadlineExceeded(f"{self._origin} did not finish its answer in time.", may_have_acted=True)
        if self._paused:
            text = f"Nobody read the answer of {self._origin} for {self._bounds.idle_s:g} s."
        else:
            text = f"{self._origin} sent nothing for {self._bounds.idle_s:g} s in the middle of its answer."
        return UpstreamBroken(text, may_have_acted=True)

    def _invalid(self, what: str) -> UpstreamInvalid:
        return UpstreamInvalid(f"{self._origin} {what}.", may_have_acted=True)

    def _abandoned(self) -> UpstreamBroken:
        return UpstreamBroken(f"The answer of {self._origin} was closed before its end.", may_have_acted=True)


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _ends_with_connection(response: Http1Response) -> bool:
    """RFC 9112 6.3, last rule: neither length nor chunks."""
    return response.header(b"content-length") is None and response.header(b"transfer-encoding") is None


def _was_closed_orderly(transport: asyncio.Transport) -> bool:
    """False when TLS ended without close_notify: somebody on the way may have cut it (RFC 9112 9.8).

    asyncio reports both ends alike, so the TLS object is asked: after close_notify it reads as empty.
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False


def _has_unread_input(transport: asyncio.Transport) -> bool:
    """True when the other side has closed, or sent something, and the loop has not seen it yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
