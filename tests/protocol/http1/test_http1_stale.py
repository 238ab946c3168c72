"""An idle connection that went bad while the loop was not looking: noticed before a request is trusted to it."""

import asyncio
import socket

from scripted_server import OK_HELLO, CountingMetrics, running_client

from meshway.upstreams.http1 import Http1Client, Http1Response, Origin, encode_request


class SilentServer:
    """A listening socket that the test works by hand, so that nothing happens between two lines of it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.origin = Origin(scheme="http", host="127.0.0.1", port=self.listener.getsockname()[1])
        self.sockets: list[socket.socket] = []

    async def call(self, client: Http1Client) -> Http1Response:
        """A call answered on a new connection; its connection is chosen before the loop runs again."""
        serving = asyncio.create_task(self._serve())
        try:
            return await client.exchange(self.origin, self.wire(), deadline=asyncio.get_running_loop().time() + 5)
        finally:
            serving.cancel()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(self.listener)
        self.sockets.append(accepted)
        await loop.sock_recv(accepted, 65536)
        await loop.sock_sendall(accepted, OK_HELLO)

    def wire(self) -> bytes:
        return encode_request(b"POST", b"/", self.origin.host_header, [], b"")

    def close(self) -> None:
        for each in (*self.sockets, self.listener):
            each.close()


def _make_idle_for(client: Http1Client, origin: Origin, seconds: float) -> None:
    """As if the loop had not run for so long: no alarm rang, no end of the connection was seen."""
    for connection in client._pools[origin]._idle:
        connection._ready_since -= seconds


async def test_a_connection_that_died_unseen_is_replaced() -> None:
    server = SilentServer()
    metrics = CountingMetrics()
    async with running_client(metrics=metrics) as client:
        await server.call(client)
        _make_idle_for(client, server.origin, 1.5)
        server.sockets[0].close()
        assert metrics.idle == 1
        assert (await server.call(client)).status == 200
        assert len(server.sockets) == 2
    server.close()


async def test_a_connection_idle_too_long_is_replaced_even_when_its_alarm_is_late() -> None:
    server = SilentServer()
    async with running_client(keep_alive_ms=60_000) as client:
        await server.call(client)
        _make_idle_for(client, server.origin, 61)
        assert (await server.call(client)).status == 200
        assert len(server.sockets) == 2
    server.close()


async def test_a_connection_the_loop_is_closing_already_is_replaced() -> None:
    server = SilentServer()
    async with running_client() as client:
        await server.call(client)
        connection = next(iter(client._pools[server.origin]._idle))
        assert connection._transport is not None
        connection._transport.abort()
        assert (await server.call(client)).status == 200
        assert len(server.sockets) == 2
    server.close()
