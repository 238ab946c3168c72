"""The connection: uvicorn's httptools protocol, entered below ASGI for the data plane.

Requests whose first path segment has a raw handler become an `Exchange`; all others go on to the ASGI application
through uvicorn's own code. Both share one parser, one pipeline and the limits (docs/internals/http-server.md).
A WebSocket handshake on a path that has one ends the HTTP here: the transport goes to a `WebSocketConnection`.
"""

import asyncio
from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from meshway.edges.http.drain import DrainSignal
from meshway.edges.http.early import EARLY_STATUS, PROBLEM_TYPE, early_problem
from meshway.edges.http.exchange import STATUS_LINES, Exchange, RequestHead
from meshway.edges.http.flow import WriteFlow
from meshway.edges.http.handshake import HandshakeRefusal, answer_handshake
from meshway.edges.http.runtime import HttpRuntime
from meshway.edges.http.sockets import SocketHandler, SocketServer
from meshway.edges.http.websocket import WebSocketConnection
from meshway.kernel.errors import Draining, Forbidden, InvalidRequest, MeshwayError, PayloadTooLarge, TooManyInFlight

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["HubProtocol"]

# How long a refused request may go on sending, so that its client gets to read the answer.
_LINGER_S = 2.0
_SINGLE = (b"host", b"origin", b"authorization", b"x-api-key", b"transfer-encoding")
_OF_UPGRADES = (b"upgrade", b"http2-settings")


class HubProtocol(HttpToolsProtocol):
    """One client connection. uvicorn makes it; `runtime` is bound by assembly with functools.partial."""

    # An exchange stands in uvicorn's pipeline where its own cycles do: both say `response_complete` and `keep_alive`.
    cycle: Exchange | RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn knows its own cycle only

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        runtime: HttpRuntime,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.runtime = runtime
        self.limits = runtime.settings
        self.write_flow = WriteFlow(self.loop)
        # The raw request whose body is being read.
        self._incoming: Exchange | None = None
        self._body_parts: list[bytes] = []
        self._body_bytes = 0
        # What is being answered; `cycle` is the last one begun, and stands behind it when the client pipelines.
        self._answering: Exchange | RequestResponseCycle | None = None
        # Raw exchanges whose answers are not complete: one, or more when the client pipelines.
        self._open: list[Exchange] = []
        # The head of the last raw request, and the lines it was read from (see _repeats).
        self._head: RequestHead | None = None
        self._head_url = b""
        self._head_lines: list[tuple[bytes, bytes]] = []
        self._length_at = 0
        # One task serves the raw exchanges of a connection one after the other; idle, it waits for the next.
        self._worker: asyncio.Task[None] | None = None
        self._worker_waits: asyncio.Future[Exchange] | None = None
        self._worker_next: Exchange | None = None
        # The head of a request that asks for an upgrade, without that wish: to be parsed in its place.
        self._plain_head = b""
        # A handshake that was accepted: the head of its answer, and who serves from there.
        self._socket: tuple[bytes, SocketServer] | None = None
        # A request has begun and is not whole yet: since when, and how many bytes of head it has had.
        self._message_begun = False
        self._head_complete = False
        self._head_bytes = 0
        self._since = 0.0
        self._rejected = False
        self._lingering_since = 0.0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._since = self.loop.time()
        connections = self.runtime.connections
        connections.add(self)
        if len(connections) > self.limits.connections_max:
            text = (
                f"The hub has its maximum of {self.limits.connections_max} connections open ([http] connections_max)."
            )
            self._reject(503, TooManyInFlight(text))

    def connection_lost(self, exc: Exception | None) -> None:
        self.runtime.connections.discard(self)
        for exchange in self._open:
            exchange.response_complete = True
        self._open.clear()
        if self._worker is not None:
            self._worker.cancel()
        self.write_flow.resume()
        # uvicorn tells the last cycle only, and whoever answers an earlier one would never hear of it.
        if isinstance(self._answering, RequestResponseCycle):
            self._tell_gone(self._answering)
        self._answering = None
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.write_flow.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.write_flow.resume()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject_unreadable(error)
        else:
            if self._message_begun:
                self._count_unfinished(len(data))

    def _read_after_upgrade(self, data: bytes) -> None:
        """`data` is what stands behind a head that asked for an upgrade."""
        data = self._read_without_upgrade(data)
        if self._socket is not None and not self._rejected:
            self._hand_over(*self._socket, data)

    def _read_without_upgrade(self, data: bytes) -> bytes:
        """Go on with what follows heads that asked for an upgrade, which a server may ignore (RFC 9110, 7.8).

        Gives back what follows a head whose wish was granted.

        The parser believes that the bytes behind such a head are the other protocol's. Taken at its word, the body of a
        POST (JDK clients ask for h2c with each) would be lost, or read as the next request.
        """
        while self._plain_head and not self._rejected:
            data, self._plain_head = self._plain_head + data, b""
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._reject_unreadable(error)
            else:
                if self._message_begun:
                    self._count_unfinished(len(data))
        return data

    def _count_unfinished(self, received: int) -> None:
        if not self._since:
            self._since = self.loop.time()
        if self._head_complete:
            return
        self._head_bytes += received
        if self._head_bytes > self.limits.header_bytes_max:
            self._reject(431, self._head_too_large())

    # --- httptools callbacks ---

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._message_begun = True
        self._head_complete = False
        self._head_bytes = 0
        self._since = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        if self._rejected:
            return
        head = self._head
        if head is None or not self._repeats(head):
            head = self._read_head()
            if head is None:
                return
        self._begin_raw(head)

    def _repeats(self, head: RequestHead) -> bool:
        """Is this the head of the raw request before, to the byte, but for the value of Content-Length?"""
        lines, known, at = self.headers, self._head_lines, self._length_at
        if self.url != self._head_url or len(lines) != len(known) or self.parser.get_method() != head.method:
            return False
        if (self.parser.get_http_version() == "1.0") is not head.is_http_10:
            return False
        if lines == known:
            return True
        return (
            at < len(lines)
            and lines[at][0] == known[at][0]
            and lines[:at] == known[:at]
            and lines[at + 1 :] == known[at + 1 :]
        )

    def _read_head(self) -> RequestHead | None:
        """Check a head and find its handler; None when it was refused, or went on to the ASGI application."""
        lines, limits = self.headers, self.limits
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in lines)
        if len(lines) > limits.headers_max or head_bytes > limits.header_bytes_max:
            self._reject(431, self._head_too_large())
            return None
        plain = [(name.lower(), value.strip()) for name, value in lines]
        headers = dict(plain)
        if not self._admit(plain, headers):
            return None
        path, _, query = self._target().partition(b"?")
        socket_handler = self.runtime.sockets.get(path)
        if socket_handler is not None:
            self._begin_socket(socket_handler, plain, headers)
            return None
        if self.parser.should_upgrade():
            self._plain_head = self._without_upgrade(plain)
            return None
        handler = self.runtime.handler_of(self.parser.get_method(), path)
        expects_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        if handler is None:
            self._begin_asgi(plain, expects_continue)
            return None
        head = RequestHead(self.parser.get_method(), path, query, headers, handler)
        head.is_http_10 = self.parser.get_http_version() == "1.0"
        head.expects_continue = expects_continue
        headers.pop(b"content-length", None)
        self._head, self._head_url, self._head_lines = head, self.url, lines
        names = [name for name, _ in plain]
        self._length_at = names.index(b"content-length") if b"content-length" in names else len(names)
        return head

    def _without_upgrade(self, lines: list[tuple[bytes, bytes]]) -> bytes:
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in lines:
            if name == b"connection":
                wishes = [wish for wish in value.split(b",") if wish.strip().lower() not in _OF_UPGRADES]
                if wishes:
                    head.append(b"connection: %b\r\n" % b",".join(wishes).strip())
            elif name not in _OF_UPGRADES:
                head.append(b"%b: %b\r\n" % (name, value))
        head.append(b"\r\n")
        return b"".join(head)

    def _admit(self, lines: list[tuple[bytes, bytes]], headers: dict[bytes, bytes]) -> bool:
        if len(headers) != len(lines) and (twice := _given_twice(lines)) is not None:
            self._reject(400, InvalidRequest(f"The {twice.decode()} header came twice; readers could disagree on it."))
            return False
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            self._reject(400, InvalidRequest("The only transfer coding the hub reads is chunked, once."))
            return False
        if not self.url.startswith(b"/") and not self._names_own_host(headers):
            self._reject(400, InvalidRequest("The request's target names another host than its Host header."))
            return False
        try:
            self.runtime.gate.check(headers)
        except Forbidden as error:
            self._reject(403, error)
            return False
        return True

    def on_body(self, body: bytes) -> None:
        if self._rejected:
            return
        if self._incoming is None:
            super().on_body(body)
            return
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes_max:
            self._reject(413, self._body_too_large())
            return
        self._body_parts.append(body)

    def on_message_complete(self) -> None:
        self._message_begun = False
        self._since = 0.0
        if self._rejected or self._plain_head or self._socket is not None:
            return
        exchange = self._incoming
        if exchange is None:
            super().on_message_complete()
            return
        self._incoming = None
        parts = self._body_parts
        exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        previous = self.cycle
        self.cycle = exchange
        self._open.append(exchange)
        if previous is None or previous.response_complete:
            self._start_raw(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]  # _start_asgi_task tells them apart

    # --- from a parsed head to a running handler ---

    def _begin_asgi(self, headers: list[tuple[bytes, bytes]], expects_continue: bool) -> None:  # noqa: FBT001  a fact
        url = self.url
        super().on_message_begin()
        self.url = url
        self.headers = headers
        self.scope["headers"] = headers
        self.expect_100_continue = expects_continue
        super().on_headers_complete()

    def _begin_raw(self, head: RequestHead) -> None:
        exchange = Exchange(self, self.transport, self.write_flow, head)
        exchange.keep_alive = self.parser.should_keep_alive() and self.runtime.keeps_connections
        if self._length_at < len(self.headers):
            declared = self.headers[self._length_at][1].strip()
            # llhttp has seen to it that it is a number.
            if len(declared) > 12 or int(declared) > self.limits.body_bytes_max:
                self._reject(413, self._body_too_large())
                return
        self._incoming = exchange
        self._body_bytes = 0
        # Not into an earlier answer; who hears nothing sends the body all the same (RFC 9110, 10.1.1).
        if head.expects_continue and (self._answering is None or self._answering.response_complete):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin_socket(
        self, handler: SocketHandler, lines: list[tuple[bytes, bytes]], headers: dict[bytes, bytes]
    ) -> None:
        """Accept the handshake, or answer it as an ordinary request and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._reject(400, InvalidRequest("A WebSocket handshake came before the answer to an earlier request."))
            return
        if not self.runtime.keeps_connections:
            self._reject(503, Draining("This hub is shutting down; connect to another one, or again in a moment."))
            return
        answer = answer_handshake(self.parser.get_method(), self.url, self.parser.get_http_version(), lines)
        if isinstance(answer, HandshakeRefusal):
            self._reject(answer.status, answer.error, answer.lines)
            return
        try:
            self._socket = answer, handler.admit(headers)
        except MeshwayError as error:
            challenge = b'www-authenticate: Bearer realm="meshway"\r\n' if error.code == "unauthenticated" else b""
            self._reject(EARLY_STATUS.get(error.code, 503), error, challenge)

    def _hand_over(self, answer: bytes, server: SocketServer, early: bytes) -> None:
        """Leave the transport to a WebSocket; `early` are frames of a client that did not wait for the answer."""
        self.connections.discard(self)
        self.runtime.connections.discard(self)
        if self._worker is not None:
            self._worker.cancel()
        # It and this object hold each other, and nobody else holds them any more.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when a connection is lost
        self.transport.write(answer)
        connection = WebSocketConnection(self.transport, self.runtime, self.server_state)
        self.transport.set_protocol(connection)
        if early:
            connection.data_received(early)
        serving = self.loop.create_task(connection.run(server))
        self.tasks.add(serving)
        serving.add_done_callback(self.tasks.discard)

    def _start_asgi_task(self, cycle: Exchange | RequestResponseCycle, app: "ASGI3Application") -> None:
        if isinstance(cycle, Exchange):
            self._start_raw(cycle)
        else:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)

    def _start_raw(self, exchange: Exchange) -> None:
        self._answering = exchange
        waits = self._worker_waits
        if waits is not None:
            self._worker_waits = None
            if not waits.done():
                waits.set_result(exchange)
        elif self._worker is None:
            self._worker = self.loop.create_task(self._work(exchange))
            # The server owns the tasks of its connections: it waits for them when draining, then cancels them.
            self.tasks.add(self._worker)
            self._worker.add_done_callback(self.tasks.discard)
        else:
            # Pipelined: the worker is about to leave the exchange before this one.
            self._worker_next = exchange

    async def _work(self, exchange: Exchange) -> None:
        while True:
            try:
                await exchange.head.handler(exchange)
            except Exception as error:  # noqa: BLE001  the boundary of a request: a bad handler must not stop the server
                self.runtime.report_crash(exchange.head.path.decode("ascii", "replace"), error)
                self._fail(exchange)
            else:
                if not exchange.response_complete:
                    self._fail(exchange)
            following, self._worker_next = self._worker_next, None
            if following is None:
                self._worker_waits = self.loop.create_future()
                following = await self._worker_waits
            exchange = following

    def _fail(self, exchange: Exchange) -> None:
        if exchange.response_started:
            exchange.abort()
        elif not exchange.response_complete:
            exchange.keep_alive = False
            exchange.respond(500, PROBLEM_TYPE, early_problem(500, "The hub failed on this request; its log says why."))

    # --- ExchangeOwner ---

    def default_header_lines(self) -> bytes:
        return self.runtime.default_header_lines(self.server_state.default_headers)

    @property
    def drain_signal(self) -> DrainSignal:
        return self.runtime.drain

    def exchange_finished(self, exchange: Exchange) -> None:
        if exchange in self._open:
            self._open.remove(exchange)
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._message_begun:
            self._since = self.loop.time()

    # --- limits ---

    def sweep(self, now: float) -> None:
        """Cut what is too slow, keep silent streams alive; called twice a second for every connection."""
        if self._lingering_since:
            if now - self._lingering_since > _LINGER_S:
                self.transport.abort()
            return
        if self.write_flow.paused:
            if now - self.write_flow.paused_since > self.limits.write_stall_ms / 1000:
                self.transport.abort()
            return
        if self._open:
            for exchange in self._open:
                if exchange.is_feed and now - exchange.last_write > self.limits.sse_keep_alive_ms / 1000 - 0.25:
                    exchange.send(b": keep-alive\n\n")
        elif self._since:
            self._sweep_reading(now - self._since)

    def _sweep_reading(self, waited: float) -> None:
        if not self._message_begun:
            if waited > self.limits.keep_alive_ms / 1000 and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()
        elif not self._head_complete:
            if waited > self.limits.header_timeout_ms / 1000:
                self._reject(408, f"The request's headers took longer than {self.limits.header_timeout_ms} ms.")
        elif waited > self.limits.body_timeout_ms / 1000:
            self._reject(408, f"The request's body took longer than {self.limits.body_timeout_ms} ms.")

    def _reject_unreadable(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        refusal = cause if isinstance(cause, MeshwayError) else InvalidRequest("This is no HTTP/1.1 the hub can read.")
        self._reject(EARLY_STATUS.get(refusal.code, 400), refusal)

    def _reject(self, status: int, error: MeshwayError | str, lines: bytes = b"") -> None:
        """Answer and close, unless an earlier answer is still on its way: then only close after it."""
        if self._rejected or self.transport.is_closing():
            return
        self._rejected = True
        busy = self._answering
        if isinstance(busy, RequestResponseCycle) and busy is self.cycle and busy.more_body:
            # The application waits for a body of which no more will be read.
            self._tell_gone(busy)
            if busy.response_complete:
                self._close_gently()
                return
            if busy.response_started:
                self.transport.abort()
                return
        elif busy is not None and not busy.response_complete:
            # What stands behind it in the pipeline is dropped with the connection.
            busy.keep_alive = False
            return
        body = early_problem(status, error)
        head = b"%b%b%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (
            STATUS_LINES[status], self.default_header_lines(), lines, PROBLEM_TYPE, len(body),
        )  # fmt: skip
        self.transport.write(head + body)
        self._close_gently()

    def _close_gently(self) -> None:
        if self._message_begun and self.transport.can_write_eof():
            # Closing on bytes that nobody read resets the connection, and the answer is lost (RFC 9112, 9.6).
            self._lingering_since = self.loop.time()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _tell_gone(self, cycle: RequestResponseCycle) -> None:
        """The application's next read says that the client left, and what it still writes goes nowhere."""
        cycle.disconnected = not cycle.response_complete
        cycle.message_event.set()

    def _names_own_host(self, headers: dict[bytes, bytes]) -> bool:
        """RFC 9112, 3.2.2: an absolute target counts more than Host. The gate looks at Host, so they must agree."""
        parsed = httptools.parse_url(self.url)
        authority = (parsed.host or b"") + (b":%d" % parsed.port if parsed.port else b"")
        return authority.lower() == headers.get(b"host", b"").lower()

    def _target(self) -> bytes:
        if self.url.startswith(b"/"):
            return self.url
        parsed = httptools.parse_url(self.url)
        query = b"?" + parsed.query if parsed.query else b""
        return (parsed.path or b"/") + query

    def _head_too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The request's headers exceed {self.limits.header_bytes_max} bytes or {self.limits.headers_max} lines."
        )

    def _body_too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body exceeds {self.limits.body_bytes_max} bytes ([http] body_bytes_max).")


def _given_twice(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """A header that decides about access and was sent more than once."""
    names = [name for name, _ in headers]
    return next((name for name in _SINGLE if names.count(name) > 1), None)
