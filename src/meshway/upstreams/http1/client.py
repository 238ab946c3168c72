"""The client: one pool per origin, one call at a time on each connection."""

import asyncio
import ssl
from collections.abc import Sequence

from meshway.gateway.ports import EgressRules
from meshway.kernel.errors import DeadlineExceeded, UpstreamBroken, UpstreamUnreachable
from meshway.kernel.metrics import Metrics
from meshway.upstreams.http1.connection import ConnectionBounds
from meshway.upstreams.http1.dialer import Dialer
from meshway.upstreams.http1.origin import Origin
from meshway.upstreams.http1.pool import OriginPool
from meshway.upstreams.http1.response import Http1Response
from meshway.upstreams.http1.settings import Http1Settings

__all__ = ["Http1Client"]

# Aborted sockets are gone after one round of the loop; this only keeps a broken loop from holding up the shutdown.
_CLOSE_TIMEOUT_S = 2.0


class Http1Client:
    """Sends serialised requests and gives the answers back. Belongs to one event loop."""

    def __init__(
        self,
        *,
        settings: Http1Settings,
        egress: EgressRules,
        metrics: Metrics,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._bounds = ConnectionBounds.of(settings)
        self._dialer = Dialer(
            egress=egress, metrics=metrics, ssl_context=ssl_context, address_cache_ms=settings.address_cache_ms
        )
        self._pools: dict[Origin, OriginPool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._emptied = asyncio.Event()
        metrics.gauge_read_from(
            "meshway_pool_connections_idle",
            "Connections to agents that wait for a call.",
            lambda: sum(pool.idle_count for pool in self._pools.values()),
        )
        metrics.gauge_read_from(
            "meshway_pool_connections_busy",
            "Connections to agents that carry a call or are being opened.",
            lambda: sum(pool.busy_count for pool in self._pools.values()),
        )

    async def exchange(
        self,
        origin: Origin,
        wire: bytes | Sequence[bytes],
        *,
        deadline: float | None = None,
        method: bytes = b"POST",
    ) -> Http1Response:
        """Send `wire`, one whole serialised request (see `encode_request`); return when the head of its answer is here.

        `deadline`, in seconds of loop.time(), bounds connecting, the head and, for `read()`, the body; without it the
        settings' timeouts do. The caller must read or close the answer. Interim answers (1xx) are skipped; redirects
        are answers like others. Nothing is ever sent twice. Cancelling it closes the connection.

        Raises: UpstreamUnreachable, EgressDenied (nothing was sent: another instance may be tried), UpstreamBroken,
        UpstreamInvalid (`may_have_acted`), DeadlineExceeded (`may_have_acted` once the request was written).
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        now = loop.time()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded(f"The time was up before the request to {origin} could be sent.")
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._add_pool(origin)
        connection = pool.take(now)
        if connection is None:
            connection = await pool.open(now, deadline)
            now = loop.time()
        answer = connection.send(wire, now, deadline, method=method)
        try:
            return await answer
        except asyncio.CancelledError:
            connection.cancel(answer)
            raise

    async def aclose(self) -> None:
        """Close all connections at once; calls under way fail with UpstreamBroken. Afterwards every call is refused."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.shut_all(
                UpstreamBroken("The hub closed the connection because it is shutting down.", may_have_acted=True)
            )
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while self._pools:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            pass

    def _add_pool(self, origin: Origin) -> OriginPool:
        if self._closed:
            raise UpstreamUnreachable("The hub is shutting down and opens no more connections.")
        pool = OriginPool(origin, self._settings, self._bounds, self._dialer, self._remove_pool)
        self._pools[origin] = pool
        return pool

    def _remove_pool(self, pool: OriginPool) -> None:
        if self._pools.get(pool.origin) is pool:
            del self._pools[pool.origin]
        self._emptied.set()
