"""One raw request and its answer, below ASGI: what a handler of the data plane reads and writes.

A handler answers once: `respond` for a whole answer, or `start_stream`, any number of `send` and `end`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Protocol

from meshway.edges.http.drain import DrainSignal, UntilDrain
from meshway.edges.http.flow import WriteFlow

__all__ = ["STATUS_LINES", "Exchange", "ExchangeHandler", "ExchangeOwner", "HeaderPairs", "RequestHead"]

HeaderPairs = Sequence[tuple[bytes, bytes]]

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}

_OK, _ACCEPTED = STATUS_LINES[200], STATUS_LINES[202]


class ExchangeOwner(Protocol):
    """The connection an exchange belongs to."""

    def default_header_lines(self) -> bytes:
        """Header lines of every answer (date), each ended by CRLF."""

    @property
    def drain_signal(self) -> DrainSignal:
        """Told when the hub begins to shut down."""

    def exchange_finished(self, exchange: "Exchange") -> None:
        """The answer is written; the next request may start."""


class RequestHead:
    """What a request says before its body. Clients repeat themselves: requests alike share one head per connection.

    `headers` have lower-case names and trimmed values, the last of a repeated one, without Content-Length; `path` is
    still percent-encoded. `memo` is the handler's own: what it made of this head the first time.
    """

    __slots__ = ("expects_continue", "handler", "headers", "is_http_10", "memo", "method", "path", "query")

    def __init__(
        self, method: bytes, path: bytes, query: bytes, headers: dict[bytes, bytes], handler: "ExchangeHandler"
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.handler = handler
        self.is_http_10 = False
        self.expects_continue = False
        self.memo: object = None


class Exchange:
    """One request, its body whole, and the one answer to it."""

    __slots__ = (
        "_chunked",
        "_flow",
        "_owner",
        "_transport",
        "body",
        "head",
        "is_feed",
        "keep_alive",
        "last_write",
        "response_complete",
        "response_started",
    )

    def __init__(self, owner: ExchangeOwner, transport: asyncio.Transport, flow: WriteFlow, head: RequestHead) -> None:
        self._owner = owner
        self._transport = transport
        self._flow = flow
        self._chunked = True
        self.head = head
        self.body = b""
        self.keep_alive = True
        # Server-sent events are under way: in silence the server's sweep sends comments.
        self.is_feed = False
        self.response_started = False
        self.response_complete = False
        self.last_write = 0.0

    def respond(self, status: int, content_type: bytes, body: bytes, headers: HeaderPairs = ()) -> None:
        """Send a whole answer. Does nothing when the client is gone."""
        self.response_started = True
        if self._owner.drain_signal.is_given:
            # Also for what ends before the connection has heard of it: clients know by this that they go on elsewhere.
            self.keep_alive = False
        if not headers and self.keep_alive and (status == 200 or status == 202) and self.head.method == b"POST":
            # The usual answers of relay and channels, in one formatting.
            lines = self._owner.default_header_lines()
            parts = (_OK if status == 200 else _ACCEPTED, lines, content_type, len(body), body)
            self._transport.write(b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % parts)
        else:
            self._transport.write(self._whole_answer(status, content_type, body, headers))
        self._finish()

    def _whole_answer(self, status: int, content_type: bytes, body: bytes, headers: HeaderPairs) -> bytes:
        lines = [STATUS_LINES[status], self._owner.default_header_lines()]
        if content_type:
            lines.append(b"content-type: %b\r\n" % content_type)
        lines.extend(b"%b: %b\r\n" % pair for pair in headers)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self._owner.drain_signal.is_given:
            # For clients behind a proxy, which keeps the connection's own headers to itself.
            lines.append(b"meshway-draining: 1\r\n")
        if status != 304:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if self.head.method != b"HEAD" and status not in (204, 304):
            lines.append(body)
        return b"".join(lines)

    @property
    def is_draining(self) -> bool:
        """The hub is shutting down: what would wait answers with what there is."""
        return self._owner.drain_signal.is_given

    def until_drain(self) -> UntilDrain:
        """A block of the handler that ends, without an error, when the hub begins to shut down."""
        return UntilDrain(self._owner.drain_signal)

    def start_stream(
        self, status: int, content_type: bytes, headers: HeaderPairs = (), *, content_length: int | None = None
    ) -> None:
        """Send the head of an answer that goes on; without a length, HTTP/1.0 clients get it close-delimited.

        Who gives a length sends exactly so many bytes before `end`, or calls `abort`.
        """
        self.response_started = True
        self.is_feed = content_type == b"text/event-stream"
        if content_length is not None:
            self._chunked = False
            headers = (*headers, (b"content-length", b"%d" % content_length))
        elif self.head.is_http_10:
            self._chunked = False
            self.keep_alive = False
        lines = [STATUS_LINES[status], self._owner.default_header_lines(), b"content-type: %b\r\n" % content_type]
        lines.extend(b"%b: %b\r\n" % pair for pair in headers)
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._transport.write(b"".join(lines))

    def send(self, chunk: bytes) -> None:
        """Send a part of a stream; call `drain` before the next one where `must_drain` says so."""
        if self.response_complete or not chunk:
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)
        self.last_write = self._flow.now()

    @property
    def must_drain(self) -> bool:
        """The client is slower than the agent: stop reading until `drain` returns."""
        return self._flow.paused

    async def drain(self) -> None:
        """Wait until the client has taken what was written. The server's sweep cuts clients that never do."""
        await self._flow.drained()

    def end(self) -> None:
        """End a stream. Idempotent."""
        if self.response_complete:
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._finish()

    def abort(self) -> None:
        """Cut the connection: the only honest end of a stream that broke after its head."""
        self.keep_alive = False
        self.response_complete = True
        self._transport.abort()

    def _finish(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._owner.exchange_finished(self)


ExchangeHandler = Callable[[Exchange], Awaitable[None]]
