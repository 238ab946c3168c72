"""The HTTP server with WebSocket paths and nothing behind it but what a test puts there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from meshway.edges.http.exchange import Exchange
from meshway.edges.http.runtime import HttpRuntime
from meshway.edges.http.server import HubServer
from meshway.edges.http.settings import HttpSettings
from meshway.edges.http.sockets import SocketHandler
from meshway.kernel.errors import Forbidden
from meshway.kernel.metrics import NullMetrics

__all__ = ["SocketSite", "socket_site"]


class SocketSite:
    def __init__(self, sockets: Mapping[bytes, SocketHandler], settings: HttpSettings) -> None:
        self.crashes: list[BaseException] = []
        self.release = asyncio.Event()
        self.runtime = HttpRuntime(
            routes={b"raw": self._raw},
            gate=self,
            settings=settings,
            metrics=NullMetrics(),
            report_crash=lambda path, error: self.crashes.append(error),
            sockets=sockets,
        )
        app = Starlette(routes=[Route("/app", self._app)])
        self.server = HubServer(app, self.runtime, on_drain=lambda: None)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.serving: asyncio.Task[None] | None = None

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        if b"evil" in headers.get(b"origin", b"") or b"evil" in headers.get(b"host", b""):
            raise Forbidden("This origin is not one of the hub's.")

    async def _raw(self, exchange: Exchange) -> None:
        if exchange.head.path == b"/raw/slow":
            await self.release.wait()
        exchange.respond(200, b"text/plain", b"raw")

    async def _app(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("app")

    def begin_drain(self) -> None:
        self.server.handle_exit(15, None)


@asynccontextmanager
async def socket_site(
    sockets: Mapping[bytes, SocketHandler], settings: HttpSettings | None = None
) -> AsyncIterator[SocketSite]:
    site = SocketSite(sockets, settings or HttpSettings(drain_timeout_ms=1_000))
    async with asyncio.TaskGroup() as group:
        site.serving = group.create_task(site.server.serve_on(site.listener))
        try:
            async with asyncio.timeout(5):
                while not site.server.started:  # noqa: ASYNC110  uvicorn has a flag, no event
                    await asyncio.sleep(0)
            yield site
        finally:
            site.server.should_exit = True
            site.server.force_exit = True
            for connection in tuple(site.server.server_state.connections):
                connection.transport.abort()
            await site.serving
