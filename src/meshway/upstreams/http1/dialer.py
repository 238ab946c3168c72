"""How a connection comes to be: addresses through the egress rules, TCP, TLS. Turns every failure into one sentence."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from meshway.gateway.ports import EgressRules
from meshway.kernel.errors import EgressDenied, UpstreamUnreachable
from meshway.kernel.metrics import Metrics
from meshway.upstreams.http1.connection import Connection
from meshway.upstreams.http1.origin import Origin

__all__ = ["Dialer"]

# Origins are registered agents; this many names are remembered at once, the oldest go first.
_CACHED_NAMES_MAX = 4_096


class Dialer:
    """Opens connections for all pools of a client."""

    def __init__(
        self, *, egress: EgressRules, metrics: Metrics, ssl_context: ssl.SSLContext | None, address_cache_ms: int
    ) -> None:
        self._egress = egress
        self._ssl_context = ssl_context
        self._address_cache_s = address_cache_ms / 1000
        self._addresses: dict[tuple[str, int], tuple[float, Sequence[str]]] = {}
        self._connects = metrics.counter(
            "meshway_upstream_connects_total", "Connections opened to agents, by how it ended.", ("outcome",)
        )

    async def connect(self, origin: Origin, make: Callable[[], Connection], until: float) -> Connection:
        """An open connection; `make` gives the protocol object of each attempt.

        The addresses are tried in order, each with its share of the time to `until` (loop.time() seconds), so that one
        that swallows packets does not use up the time of the others.
        Raises: EgressDenied, UpstreamUnreachable.
        """
        loop = asyncio.get_running_loop()
        try:
            addresses = await self._resolve(origin, loop)
        except EgressDenied:
            self._connects.labels("denied").inc()
            raise
        except UpstreamUnreachable:
            self._connects.labels("unresolved").inc()
            raise
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            share_s = (until - loop.time()) / (len(addresses) - index)
            try:
                connection = await self._attempt(origin, address, make(), share_s)
            except OSError as error:  # TimeoutError and ssl.SSLError among them
                failure = error
                self._connects.labels(_outcome(error)).inc()
            else:
                self._connects.labels("connected").inc()
                return connection
        # A cached address may be the reason: ask again next time.
        self._addresses.pop((origin.host, origin.port), None)
        raise UpstreamUnreachable(_explain(origin, addresses, failure)) from failure

    async def _attempt(self, origin: Origin, address: str, connection: Connection, timeout_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                if origin.scheme == "https":
                    await loop.create_connection(
                        lambda: connection, address, origin.port, ssl=self._tls(), server_hostname=origin.host
                    )
                else:
                    await loop.create_connection(lambda: connection, address, origin.port)
        except BaseException:
            # Cancelled or out of time while the socket opened: nobody will ever use it.
            connection.give_up(UpstreamUnreachable(f"Connecting to {origin} was given up."))
            raise
        return connection

    async def _resolve(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> Sequence[str]:
        key = (origin.host, origin.port)
        known = self._addresses.get(key)
        if known is not None and loop.time() < known[0]:
            return known[1]
        addresses = await self._egress.resolve(origin.host, origin.port)
        if not addresses:
            raise UpstreamUnreachable(f"{origin.host} has no address the hub may connect to.")
        if self._address_cache_s > 0:
            self._addresses.pop(key, None)  # so that the order of the dict is the order of age
            while len(self._addresses) >= _CACHED_NAMES_MAX:
                del self._addresses[next(iter(self._addresses))]
            self._addresses[key] = (loop.time() + self._address_cache_s, addresses)
        return addresses

    def _tls(self) -> ssl.SSLContext:
        """Made at first use and shared: reading the system's certificates takes 20 ms."""
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context


def _outcome(error: OSError) -> str:
    match error:
        case ssl.SSLError():
            return "tls_failed"
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case _:
            return "failed"


def _explain(origin: Origin, addresses: Sequence[str], failure: OSError | None) -> str:
    where = (
        origin.host
        if len(addresses) == 1 and addresses[0] == origin.host
        else f"{origin.host} ({', '.join(addresses)})"
    )
    match failure:
        case ssl.SSLCertVerificationError():
            return f"The certificate of {where} is not trusted: {failure.verify_message}."
        case ssl.SSLError():
            return (
                f"No TLS connection with {where} port {origin.port}: {failure.reason or failure}. Does it speak https?"
            )
        case TimeoutError():
            return f"{where} did not accept a connection on port {origin.port} in time."
        case ConnectionRefusedError():
            return f"{where} refused the connection: nothing listens on port {origin.port}."
        case socket.gaierror():
            return f"{origin.host} cannot be resolved: {failure.strerror}."
        case _:
            reason = failure.strerror or str(failure) if failure is not None else "no address"
            return f"No connection to {where} port {origin.port}: {reason}."
