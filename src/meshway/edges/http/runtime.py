"""What all connections of the server share: routes, limits, the gate and the sweep."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from meshway.edges.http.drain import DrainSignal
from meshway.edges.http.exchange import ExchangeHandler
from meshway.edges.http.settings import HttpSettings
from meshway.edges.http.sockets import SocketHandler
from meshway.kernel.metrics import Metrics

__all__ = ["DataRoute", "HttpRuntime", "RequestGate", "SweptConnection"]

# Method and path (still percent-encoded) of a request to its raw handler; None where the control plane answers.
DataRoute = Callable[[bytes, bytes], ExchangeHandler | None]

# Twice a second: a keep-alive comment due at 4 s leaves by 4.5 s, before the stock client's 5 s are over.
_SWEEP_INTERVAL_S = 0.5


class RequestGate(Protocol):
    """Host and Origin checks, on every path and before anything else is looked at."""

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Header names in lower case. Raises: Forbidden with a text that says which setting admits the host."""


class SweptConnection(Protocol):
    def sweep(self, now: float) -> None:
        """Apply the time limits; `now` is the loop's time in seconds."""


class HttpRuntime:
    """`routes` maps the first path segment (`a2a`) to the raw handler of everything below it.

    `data_route` is asked about all other requests; those it has no handler for go on to the ASGI application.
    `sockets` maps whole paths that speak WebSocket and nothing else.
    """

    def __init__(
        self,
        *,
        routes: Mapping[bytes, ExchangeHandler],
        gate: RequestGate,
        settings: HttpSettings,
        metrics: Metrics,
        report_crash: Callable[[str, BaseException], None],
        data_route: DataRoute | None = None,
        sockets: Mapping[bytes, SocketHandler] | None = None,
    ) -> None:
        self._routes = routes
        self._data_route = data_route
        self.sockets = sockets or {}
        self.gate = gate
        self.settings = settings
        self.report_crash = report_crash
        self.connections: set[SweptConnection] = set()
        self.drain = DrainSignal()
        # Nobody can connect any more; whoever is connected gets an answer, and the end of the connection with it.
        self.is_leaving = False
        self._date_source: object = None
        self._date_lines = b""
        metrics.gauge_read_from(
            "meshway_http_connections", "Open inbound HTTP connections.", lambda: float(len(self.connections))
        )

    @property
    def is_draining(self) -> bool:
        return self.drain.is_given

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may be used again."""
        return not (self.is_leaving or self.is_draining)

    def handler_of(self, method: bytes, path: bytes) -> ExchangeHandler | None:
        """The raw handler of a request; None when it belongs to the ASGI application."""
        handler = self._routes.get(path[1:].partition(b"/")[0])
        if handler is None and self._data_route is not None:
            handler = self._data_route(method, path)
        return handler

    def default_header_lines(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The server's default headers as bytes, joined once per change (uvicorn renews the date every second)."""
        if default_headers is not self._date_source:
            self._date_source = default_headers
            self._date_lines = b"".join(b"%b: %b\r\n" % pair for pair in default_headers)
        return self._date_lines

    async def run_sweep(self) -> None:
        """Cut slow and stale connections, keep silent streams alive; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            now = loop.time()
            for connection in tuple(self.connections):
                connection.sweep(now)
