"""`/v1/ws`: who may connect, and the life of each connection."""

import asyncio
from collections.abc import Mapping
from functools import partial

from meshway.edges.http.sockets import Socket, SocketServer
from meshway.edges.http.websocket import PING_INTERVAL_S
from meshway.edges.link.codec import encode_frame
from meshway.edges.link.limits import SUBSCRIPTIONS_MAX
from meshway.edges.link.pumps import PumpPlaces
from meshway.edges.link.services import LinkServices
from meshway.edges.link.session import LinkSession
from meshway.edges.link.verbs import LinkVerbs
from meshway.gateway.ports import Credentials
from meshway.protocols.link.frames import PROTOCOL_VERSION, Welcome

__all__ = ["LINK_PATH", "LinkEdge"]

LINK_PATH = b"/v1/ws"


class LinkEdge:
    """A `SocketHandler`."""

    def __init__(self, services: LinkServices) -> None:
        self._services = services
        self._verbs = LinkVerbs(services.channels)
        self._connections = 0
        self._welcome = encode_frame(
            Welcome(
                protocol=PROTOCOL_VERSION,
                hub=f"meshway/{services.hub_version}",
                ping_interval_ms=round(PING_INTERVAL_S * 1000),
                frame_bytes_max=services.frame_bytes_max,
                subscriptions_max=SUBSCRIPTIONS_MAX,
            )
        )
        services.metrics.gauge_read_from(
            "meshway_socket_connections", "Open WebSocket connections.", lambda: float(self._connections)
        )

    def admit(self, headers: Mapping[bytes, bytes]) -> SocketServer:
        """See SocketHandler. What the key allows is decided frame by frame. Raises: Unauthenticated."""
        credentials = self._services.credentials_of(headers)
        self._services.authenticate(credentials)
        return partial(self._serve, credentials)

    async def _serve(self, credentials: Credentials, socket: Socket) -> None:
        services = self._services
        principal = services.authenticate(credentials)
        self._connections += 1
        session: LinkSession | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                places = PumpPlaces(services, principal, socket)
                session = LinkSession(
                    places, self._verbs, tasks, still_welcome=partial(services.authenticate, credentials)
                )
                socket.send(self._welcome)
                socket.listen(session)
                # The connection cancels this task, and with it the group, when it ends.
                await asyncio.get_running_loop().create_future()
        finally:
            self._connections -= 1
            if session is not None:
                session.ended()
