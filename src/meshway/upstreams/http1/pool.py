"""The connections to one origin: which are idle, how many there may be, how new ones are opened."""

import asyncio
from collections.abc import Callable

from meshway.kernel.errors import DeadlineExceeded, MeshwayError, UpstreamUnreachable
from meshway.upstreams.http1.connection import Connection, ConnectionBounds
from meshway.upstreams.http1.dialer import Dialer
from meshway.upstreams.http1.origin import Origin
from meshway.upstreams.http1.settings import Http1Settings

__all__ = ["OriginPool"]

# A caller that finds the pool full has better chances after the time of a short call.
_FULL_RETRY_AFTER_MS = 1_000


class OriginPool:
    """Last used, first taken, so that the spare ones grow old and close. Nobody queues: a full pool says so."""

    def __init__(
        self,
        origin: Origin,
        settings: Http1Settings,
        bounds: ConnectionBounds,
        dialer: Dialer,
        on_empty: Callable[["OriginPool"], None],
    ) -> None:
        self.origin = origin
        self._settings = settings
        self._bounds = bounds
        self._dialer = dialer
        self._on_empty = on_empty
        self._loop = asyncio.get_running_loop()
        # A dict as a stack: popitem takes the youngest, and any other leaves at once when it closes.
        self._idle: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._dialing = 0
        self._dial_slots = asyncio.Semaphore(settings.dials_per_origin_max)
        self._closing: MeshwayError | None = None

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    @property
    def busy_count(self) -> int:
        """Connections that carry a call or are being opened for one."""
        return len(self._open) - len(self._idle) + self._dialing

    def take(self, now: float) -> Connection | None:
        """An idle connection that can be trusted; those that cannot are closed on the way."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.is_usable(now):
                return connection
            connection.shut(self._stale())
        return None

    async def open(self, now: float, deadline: float | None) -> Connection:
        """A new connection, or one that became idle while this call waited for its turn to dial.

        Raises: UpstreamUnreachable (also when the pool is full), EgressDenied, DeadlineExceeded; no byte was sent.
        """
        if self._closing is not None:
            raise UpstreamUnreachable(f"The hub is shutting down and opens no more connections to {self.origin}.")
        if len(self._open) + self._dialing >= self._settings.connections_per_origin_max:
            raise UpstreamUnreachable(
                f"All {self._settings.connections_per_origin_max} connections to {self.origin} are in use.",
                retry_after_ms=_FULL_RETRY_AFTER_MS,
            )
        until = now + self._settings.connect_timeout_ms / 1000
        deadline_first = deadline is not None and deadline < until
        if deadline is not None and deadline_first:
            until = deadline
        self._dialing += 1
        try:
            async with asyncio.timeout_at(until), self._dial_slots:
                connection = self.take(self._loop.time())
                if connection is None:
                    connection = await self._dialer.connect(self.origin, self._make, until)
                return connection
        except (TimeoutError, UpstreamUnreachable) as error:
            out_of_time = isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)
            if deadline_first and out_of_time:
                raise DeadlineExceeded(f"{self.origin} could not be reached in time.") from error
            if isinstance(error, UpstreamUnreachable):
                raise
            raise UpstreamUnreachable(
                f"{self.origin} did not accept a connection within {self._settings.connect_timeout_ms} ms."
            ) from error
        finally:
            self._dialing -= 1
            self._report_if_empty()

    def shut_all(self, failure: MeshwayError) -> None:
        """Close every connection, and those still being opened as soon as they are."""
        self._closing = failure
        for connection in list(self._open):
            connection.shut(failure)

    # --- connection.ConnectionOwner ---

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._closing is not None:
            connection.shut(self._closing)

    def keep(self, connection: Connection) -> bool:
        if len(self._idle) >= self._settings.idle_per_origin_max:
            return False
        self._idle[connection] = None
        return True

    def drop(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._report_if_empty()

    # --- inside ---

    def _make(self) -> Connection:
        return Connection(self, self.origin, self._bounds, self._loop)

    def _report_if_empty(self) -> None:
        if not self._open and not self._dialing:
            self._on_empty(self)

    def _stale(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"The idle connection to {self.origin} was no longer good.")
