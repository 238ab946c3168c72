"""What stands between a WebSocket connection and whoever serves it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

__all__ = ["Socket", "SocketHandler", "SocketListener", "SocketServer"]


class SocketListener(Protocol):
    """Told by the connection what happens; synchronous, in order, never again after the connection has ended."""

    def text_received(self, text: bytes) -> None:
        """One whole text message; not yet known to be UTF-8."""

    def drain_begun(self, *, within_ms: int) -> None:
        """The hub is shutting down; what is open then is cut."""

    def swept(self, now: float, heard_at: float) -> None:
        """Twice a second, for time limits; `now` is the loop's time in seconds, `heard_at` when bytes came last."""


class Socket(Protocol):
    """An open connection, as the one who serves it sees it."""

    def listen(self, listener: SocketListener) -> None:
        """Begin to be told; what came before is told now."""

    def send(self, text: bytes) -> None:
        """Send one text message; nothing happens once the connection is closing. Look at `must_drain` before more."""

    @property
    def must_drain(self) -> bool:
        """The client is slower than the hub: wait for `drain` before sending more."""

    async def drain(self) -> None:
        """Wait until the client has taken what was sent. Clients that never do are cut."""

    def hold_reading(self) -> None:
        """Read no further messages; those that were read already are still told."""

    def release_reading(self) -> None:
        """Read on."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake and cancel the server's task. `reason` is cut at 123 bytes. Idempotent."""


# Serves one connection until it is cancelled, which is how it learns of the end.
SocketServer = Callable[[Socket], Awaitable[None]]


class SocketHandler(Protocol):
    """The WebSocket side of one path."""

    def admit(self, headers: Mapping[bytes, bytes]) -> SocketServer:
        """Who asks, and may they? Before the handshake is answered; header names in lower case.

        Raises: Unauthenticated, Forbidden, Draining, TooManyInFlight.
        """
