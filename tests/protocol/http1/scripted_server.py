"""A server on a loopback socket that misbehaves exactly as told, and what a client under test needs beside it."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from meshway.kernel.errors import UpstreamUnreachable
from meshway.upstreams.http1 import Http1Client, Http1Settings, Origin, encode_request

__all__ = ["OK_HELLO", "CountingMetrics", "LoopbackRules", "Peer", "ScriptedServer", "post", "running_client", "until"]

OK_HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


async def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Return once the condition holds; an error after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        await asyncio.sleep(0.002)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number  # from 1, in the order accepted

    async def request(self) -> bytes:
        """The next whole request. Raises: IncompleteReadError when the client closed instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head + await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes = OK_HELLO) -> bytes:
        request = await self.request()
        await self.send(data)
        return request

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the client has closed its side."""
        while await self.reader.read(65536):
            pass


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Runs `script` for each connection and closes it afterwards."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.open = 0
        self.port = 0
        self.failures: list[BaseException] = []
        self.scheme = "http"

    @property
    def origin(self) -> Origin:
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return Origin(scheme=self.scheme, host=host, port=self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        try:
            await self._script(Peer(reader, writer, self.accepted))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass  # the test is over
        except Exception as error:  # noqa: BLE001 -- kept, so that the test can look at it
            self.failures.append(error)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, script: Script, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> "AsyncIterator[ScriptedServer]":
        server = cls(script)
        listener = socket.socket()
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        server.port = listener.getsockname()[1]
        server.scheme = "https" if tls is not None else "http"
        server._server = await asyncio.start_server(server._serve, sock=listener, ssl=tls, backlog=2048)
        try:
            yield server
        finally:
            server._server.close()
            for task in list(server._tasks):
                task.cancel()
            await until(lambda: not server._tasks)
        assert not server.failures


class LoopbackRules:
    """Egress rules that lead every name to given addresses and count how often they are asked."""

    def __init__(self, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        self.addresses = addresses
        self.asked = 0
        self.failure: Exception | None = None

    def check_url(self, url: str, *, field: str = "url") -> None:
        pass

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if not self.addresses:
            raise UpstreamUnreachable(f"{host} cannot be resolved.")
        return self.addresses


class _Count:
    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def labels(self, *values: str) -> "_Bound":
        return _Bound(self, values)

    def inc(self, amount: float = 1) -> None:
        self.labels().inc(amount)


class _Bound:
    def __init__(self, count: _Count, key: tuple[str, ...]) -> None:
        self._count = count
        self._key = key

    def inc(self, amount: float = 1) -> None:
        self._count.values[self._key] = self._count.values.get(self._key, 0) + amount


class CountingMetrics:
    """Keeps what was counted, for looking at."""

    def __init__(self) -> None:
        self.counters: dict[str, _Count] = {}
        self.gauges: dict[str, Callable[[], float]] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> _Count:
        return self.counters.setdefault(name, _Count())

    def gauge_read_from(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self.gauges[name] = read

    @property
    def idle(self) -> float:
        return self.gauges["meshway_pool_connections_idle"]()

    @property
    def busy(self) -> float:
        return self.gauges["meshway_pool_connections_busy"]()


@contextlib.asynccontextmanager
async def running_client(
    *,
    egress: LoopbackRules | None = None,
    metrics: CountingMetrics | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **settings: int,
) -> AsyncIterator[Http1Client]:
    client = Http1Client(
        settings=Http1Settings(**settings),
        egress=egress or LoopbackRules(),
        metrics=metrics or CountingMetrics(),  # type: ignore[arg-type]  # only what the client uses
        ssl_context=ssl_context,
    )
    try:
        yield client
    finally:
        await client.aclose()


def post(origin: Origin, body: bytes = b"{}", *, method: bytes = b"POST") -> bytes:
    return encode_request(method, b"/rpc", origin.host_header, [(b"content-type", b"application/json")], body)
