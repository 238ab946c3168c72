"""The listening server: uvicorn, with our connections and a drain that tells streams about it."""

import asyncio
import contextlib
import functools
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.lifespan.off import LifespanOff

from meshway.edges.http.protocol import HubProtocol
from meshway.edges.http.runtime import HttpRuntime

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["HubServer"]

# A request follows its connection within it, also on a busy machine.
_LINGER_S = 0.5
# As many as a listener has waiting.
_ACCEPT_MAX = 4_096


class HubServer(uvicorn.Server):
    """`on_drain` is called once, as soon as a signal asks the hub to stop, before listeners close.

    `lingers`: other processes listen on the port too. Then it stops to listen first, and for a moment still takes the
    calls of whoever has connected: refused ones would have been served by the others.
    """

    def __init__(
        self, app: "ASGIApp", runtime: HttpRuntime, *, on_drain: Callable[[], None], lingers: bool = False
    ) -> None:
        settings = runtime.settings
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(HubProtocol, runtime=runtime),  # type: ignore[arg-type]  # any factory will do
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_ms // 1000,
                # Longer than the drain itself: uvicorn's own time-out would log running work as an error.
                timeout_graceful_shutdown=settings.drain_timeout_ms // 1000 + 5,
            )
        )
        self.lifespan = LifespanOff(self.config)
        self._runtime = runtime
        self._on_drain = on_drain
        self._lingers = lingers
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._duties: asyncio.TaskGroup
        # A hub inside another program leaves that program's signals alone.
        self.takes_signals = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not captured for uvicorn to raise again: draining to the end is a clean exit, status 0.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        if self._lingers and self._loop is not None and not self._runtime.is_leaving:
            self._runtime.is_leaving = True
            # The handler of a signal runs between any two steps of the loop.
            self._loop.call_soon_threadsafe(self._leave_port)
            return
        self.begin_drain()

    def _leave_port(self) -> None:
        assert self._listener is not None
        # The kernel resets what it has not handed over when the listener closes.
        arrived = _accept_all(self._listener)
        for server in self.servers:
            server.close()
        self._listener.close()
        for connection in arrived:
            self._duties.create_task(self._take(connection))
        asyncio.get_running_loop().call_later(_LINGER_S, self.begin_drain)

    async def _take(self, connection: socket.socket) -> None:
        loop, config = asyncio.get_running_loop(), self.config
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(  # type: ignore[call-arg]  # our own, as uvicorn calls it
                    config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
                ),
                connection,
            )

    def begin_drain(self) -> None:
        """What a signal does: take nothing new, and let `serve_on` return when what runs has ended. Idempotent."""
        if not self._runtime.is_draining:
            self._runtime.drain.give()
            self._on_drain()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if not self.takes_signals:
            yield
            return
        with super().capture_signals():
            yield

    async def serve_on(self, listener: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT, then drain: running calls finish within the bound, streams are told."""
        self._listener, self._loop = listener, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as duties:
            self._duties = duties
            sweep = duties.create_task(self._runtime.run_sweep())
            try:
                await self.serve(sockets=[listener])
            finally:
                sweep.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Not in the signal's handler, which runs between any two steps of the loop. The connections hear of the end in
        # the same turn, so each stream that ends now closes its connection.
        self._runtime.drain.end_waits()
        bound = self._duties.create_task(self._cut_what_outlives_the_drain())
        try:
            await super().shutdown(sockets)
        finally:
            bound.cancel()

    async def _cut_what_outlives_the_drain(self) -> None:
        await asyncio.sleep(self._runtime.settings.drain_timeout_ms / 1000)
        # Handlers see the cancellation, tell their clients, and end.
        for task in tuple(self.server_state.tasks):
            task.cancel("the hub is shutting down")


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    arrived = []
    with contextlib.suppress(OSError):
        for _ in range(_ACCEPT_MAX):
            connection, _ = listener.accept()
            connection.setblocking(False)
            arrived.append(connection)
    return arrived
