"""One WebSocket connection: frames by `websockets` without its I/O, on the transport the HTTP connection hands over.

Knows nothing of what the messages say. The states are those of RFC 6455: open, then closing (a close frame was sent or
received, or the client broke the protocol), then gone. Time limits are kept by the server's sweep.
"""

import asyncio
from typing import TYPE_CHECKING

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from meshway.edges.http.flow import WriteFlow
from meshway.edges.http.runtime import HttpRuntime
from meshway.edges.http.sockets import SocketListener, SocketServer

if TYPE_CHECKING:
    from uvicorn.server import ServerState

__all__ = ["CLOSE_BOUND_S", "PING_INTERVAL_S", "SILENCES_MAX", "WebSocketConnection"]

# Load balancers cut what is silent for 60 s, some for 30 s.
PING_INTERVAL_S = 15.0
# After so many intervals without a byte the client is gone: two lost pings are bad luck.
SILENCES_MAX = 3
# How long a client may take to answer the close frame, or to close after it.
CLOSE_BOUND_S = 5.0
# Above it whoever sends waits: a client that reads slowly costs this much, and one frame.
_BUFFERED_BYTES_MAX = 262_144
_REASON_BYTES_MAX = 123
# Larger ones are not copied to stand behind their frame's head.
_JOINED_BYTES_MAX = 16_384


class WebSocketConnection(asyncio.Protocol):
    """See `sockets.Socket`. The HTTP connection makes it, after the 101, and starts `run` as a task of the server."""

    def __init__(self, transport: asyncio.Transport, runtime: HttpRuntime, server_state: "ServerState") -> None:
        self._loop = asyncio.get_running_loop()
        self.transport = transport
        self._runtime = runtime
        self._server_state = server_state
        self._frames = ServerProtocol(state=State.OPEN, max_size=runtime.settings.body_bytes_max)
        # Its debug lines show payloads.
        self._frames.debug = False
        self._flow = WriteFlow(self._loop)
        self._listener: SocketListener | None = None
        # What came before anybody listened.
        self._early = b""
        # Fragments of a message so far, in one piece: as objects, two bytes each would take twenty times their size.
        self._message = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._holds_reading = False
        self._reading_paused = False
        self._received_at = self._pinged_at = self._loop.time()
        self._closing_since = 0.0
        self._ended = False
        transport.set_write_buffer_limits(high=_BUFFERED_BYTES_MAX)
        runtime.connections.add(self)
        server_state.connections.add(self)  # type: ignore[arg-type]  # asked for nothing but shutdown()

    async def run(self, server: SocketServer) -> None:
        """Serve until the connection ends, then close it where that has not been done."""
        self._task = asyncio.current_task()
        try:
            if not self._ended:
                await server(self)
        except asyncio.CancelledError:
            # By the end of the connection, or at the bound of the drain.
            if self._ended:
                return
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a connection: its fault must not stop the server
            self._report(error)
        finally:
            self.close(CloseCode.SERVICE_RESTART, "The hub is shutting down; connect again.")

    # --- sockets.Socket ---

    def listen(self, listener: SocketListener) -> None:
        self._listener = listener
        early, self._early = self._early, b""
        if early:
            self._read(early)

    def send(self, text: bytes) -> None:
        if self._frames.state is not State.OPEN:
            return
        # Frames of a server are neither masked nor, here, fragmented or compressed: all that is left is the length.
        size = len(text)
        if size < 126:
            self.transport.write(b"\x81%c%b" % (size, text))
        elif size <= _JOINED_BYTES_MAX:
            self.transport.write(b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), text))
        else:
            head = b"\x81\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x81\x7f" + size.to_bytes(8, "big")
            self.transport.writelines((head, text))

    @property
    def must_drain(self) -> bool:
        return self._flow.paused

    async def drain(self) -> None:
        await self._flow.drained()

    def hold_reading(self) -> None:
        self._holds_reading = True
        self._settle_reading()

    def release_reading(self) -> None:
        self._holds_reading = False
        self._settle_reading()

    def close(self, code: int, reason: str) -> None:
        if self._frames.state is State.OPEN:
            self._frames.send_close(code, reason.encode()[:_REASON_BYTES_MAX].decode("utf-8", "ignore"))
            self._flush()
        self._end()

    # --- asyncio.Protocol ---

    def data_received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        if self._listener is None and not self._ended:
            self._early += data
        else:
            self._read(data)

    def eof_received(self) -> bool:
        """Half a connection is none: the transport closes."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._runtime.connections.discard(self)
        self._server_state.connections.discard(self)
        self._frames.receive_eof()
        self._flow.resume()
        self._end()

    def pause_writing(self) -> None:
        self._flow.pause()
        # Answers, pongs among them, must not pile up behind what the client does not read.
        self._settle_reading()

    def resume_writing(self) -> None:
        self._flow.resume()
        self._settle_reading()

    # --- of the server ---

    def shutdown(self) -> None:
        """uvicorn asks it of every connection when the hub drains."""
        if self._listener is None:
            self.close(CloseCode.SERVICE_RESTART, "The hub is shutting down; connect again.")
        elif not self._ended:
            try:
                self._listener.drain_begun(within_ms=self._runtime.settings.drain_timeout_ms)
            except Exception as error:  # noqa: BLE001  the boundary of a connection: the others must hear of the drain
                self._report(error)

    def sweep(self, now: float) -> None:
        """Cut what is closing too slowly, takes nothing or says nothing; ping what is silent."""
        if self._closing_since:
            if now - self._closing_since > CLOSE_BOUND_S:
                self.transport.abort()
            return
        if self._flow.paused and now - self._flow.paused_since > self._runtime.settings.write_stall_ms / 1000:
            self.transport.abort()
            return
        heard_at = self._received_at
        if self._reading_paused:
            # Who is not heard is not silent.
            self._received_at = now
        silent = now - self._received_at
        if silent > SILENCES_MAX * PING_INTERVAL_S:
            self.transport.abort()
            return
        if silent > PING_INTERVAL_S and now - self._pinged_at > PING_INTERVAL_S:
            self._pinged_at = now
            self._frames.send_ping(b"")
            self._flush()
        if self._listener is not None:
            try:
                self._listener.swept(now, heard_at)
            except Exception as error:  # noqa: BLE001  the boundary of a connection: the sweep visits all others
                self._report(error)

    # --- frames ---

    def _read(self, data: bytes) -> None:
        frames = self._frames
        frames.receive_data(data)
        for event in frames.events_received():
            if isinstance(event, Frame) and not self._ended:
                self._take(event)
        self._flush()
        if frames.state is not State.OPEN:
            self._end()

    def _take(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT if frame.fin:
                self._tell(bytes(frame.data))
            case Opcode.TEXT:
                self._message += frame.data
            case Opcode.CONT:
                self._message += frame.data
                if frame.fin:
                    text, self._message = bytes(self._message), bytearray()
                    self._tell(text)
            case Opcode.BINARY:
                self.close(CloseCode.UNSUPPORTED_DATA, "Frames are JSON in text messages.")
            case _:
                pass

    def _tell(self, text: bytes) -> None:
        assert self._listener is not None, "nothing is read before somebody listens"
        try:
            self._listener.text_received(text)
        except Exception as error:  # noqa: BLE001  the boundary of a connection, as in run
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._runtime.report_crash("websocket", error)
        self.close(CloseCode.INTERNAL_ERROR, "The hub failed on this connection; its log says why.")

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            if data != SEND_EOF:
                self.transport.write(data)
            elif self.transport.can_write_eof() and not self.transport.is_closing():
                # Closing on bytes that nobody read resets the connection, and the close frame is lost with it.
                self.transport.write_eof()

    def _settle_reading(self) -> None:
        paused = (self._holds_reading or self._flow.paused) and not self._ended
        if paused == self._reading_paused or self.transport.is_closing():
            return
        self._reading_paused = paused
        if paused:
            self.transport.pause_reading()
        else:
            self._received_at = self._loop.time()
            self.transport.resume_reading()

    def _end(self) -> None:
        """Closing or gone: nobody is told anything any more, and who serves is cancelled."""
        if self._ended:
            return
        self._ended = True
        self._closing_since = self._loop.time()
        self._message.clear()
        self._settle_reading()
        if self._task is not None:
            self._task.cancel("the connection has ended")
