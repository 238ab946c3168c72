"""WebSocket connections on real sockets: handshakes, frames that break the rules, silence, slowness and the end."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping

import msgspec
import pytest
from websockets.asyncio.client import connect

from meshway.edges.http.settings import HttpSettings
from meshway.edges.http.sockets import Socket, SocketServer
from meshway.edges.http.websocket import CLOSE_BOUND_S, PING_INTERVAL_S, WebSocketConnection
from meshway.kernel.errors import Unauthenticated
from support.raw_websocket import (
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    frame,
    handshake,
    read_head,
)
from support.socket_site import SocketSite, socket_site

SETTINGS = HttpSettings(body_bytes_max=200_000, drain_timeout_ms=500, connections_max=40, write_stall_ms=400)


class Echo:
    """Sends back what it gets; some words make it do something else."""

    def __init__(self) -> None:
        self.socket: Socket | None = None
        self.got: list[bytes] = []
        self.ended = asyncio.Event()
        self.drains: list[int] = []
        self.sweeps = 0

    def admit(self, headers: Mapping[bytes, bytes]) -> SocketServer:
        if headers.get(b"authorization") == b"Bearer wrong":
            raise Unauthenticated("This key is not one of the hub's.")
        return self.serve

    async def serve(self, socket: Socket) -> None:
        self.socket = socket
        socket.listen(self)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()

    def text_received(self, text: bytes) -> None:
        assert self.socket is not None
        self.got.append(text)
        match text:
            case b"crash":
                raise ValueError("planted")
            case b"close":
                self.socket.close(4000, "as you wish " * 30)
            case _:
                self.socket.send(text)

    def drain_begun(self, *, within_ms: int) -> None:
        self.drains.append(within_ms)
        assert self.socket is not None
        self.socket.send(b"draining")

    def swept(self, now: float, heard_at: float) -> None:
        self.sweeps += 1


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def site(echo: Echo) -> AsyncIterator[SocketSite]:
    async with socket_site({b"/v1/ws": echo}, SETTINGS) as site:
        yield site


@contextlib.asynccontextmanager
async def raw(site: SocketSite, head: bytes | None = None) -> AsyncIterator[RawWebSocket]:
    client = await RawWebSocket.open(site.port, head)
    try:
        yield client
    finally:
        client.abort()


async def refusal(site: SocketSite, head: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head)
    status, headers = await read_head(reader)
    body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return status, headers, msgspec.json.decode(body)


def connection_of(site: SocketSite) -> WebSocketConnection:
    (connection,) = [each for each in site.runtime.connections if isinstance(each, WebSocketConnection)]
    return connection


# --- the handshake ---


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (handshake(Sec_WebSocket_Key=None), 400, "invalid_request"),
        (handshake(Sec_WebSocket_Key="short"), 400, "invalid_request"),
        (handshake(Sec_WebSocket_Version="8"), 400, "invalid_request"),
        (handshake(Sec_WebSocket_Version=None), 400, "invalid_request"),
        (handshake(Content_Length="5"), 400, "invalid_request"),
        (handshake(Transfer_Encoding="chunked"), 400, "invalid_request"),
        (handshake(Authorization="Bearer wrong"), 401, "unauthenticated"),
        (handshake(Origin="https://evil.example"), 403, "forbidden"),
        (handshake(Host="evil.example"), 403, "forbidden"),
        (handshake(method="POST"), 405, "http_error"),
        (handshake(Upgrade=None, Connection=None), 426, "http_error"),
        (handshake(Upgrade="h2c"), 426, "http_error"),
        (handshake(Connection="keep-alive"), 426, "http_error"),
        (handshake(version="1.0"), 505, "http_error"),
    ],
)
async def test_a_handshake_that_is_none_gets_an_ordinary_answer(
    site: SocketSite, head: bytes, status: int, code: str
) -> None:
    answered, headers, problem = await refusal(site, head)
    assert (answered, problem["code"]) == (status, code)
    assert headers["connection"] == "close"
    if status == 426:
        assert headers["upgrade"] == "websocket"
    if status == 401:
        assert headers["www-authenticate"].startswith("Bearer")
    if code == "invalid_request":
        assert problem["detail"]


async def test_a_version_the_hub_does_not_speak_is_answered_with_the_one_it_does(site: SocketSite) -> None:
    _, headers, _ = await refusal(site, handshake(Sec_WebSocket_Version="8"))
    assert headers["sec-websocket-version"] == "13"


async def test_an_upgrade_elsewhere_is_ignored(site: SocketSite) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(handshake("/app"))
    status, _ = await read_head(reader)
    assert status == 200
    writer.close()


async def test_a_stock_client_talks_and_leaves(site: SocketSite, echo: Echo) -> None:
    async with connect(f"ws://127.0.0.1:{site.port}/v1/ws?x=1") as client:
        await client.send("grüße")
        assert await client.recv() == "grüße"
        for size in (125, 126, 16_000, 20_000, 65_535, 65_536, 190_000):
            await client.send("x" * size)
            assert len(await client.recv()) == size
    assert client.close_code == 1000
    async with asyncio.timeout(5):
        await echo.ended.wait()
    assert not site.crashes


async def test_compression_is_declined(site: SocketSite) -> None:
    async with connect(f"ws://127.0.0.1:{site.port}/v1/ws", compression="deflate") as client:
        assert not client.protocol.extensions


async def test_a_request_before_the_handshake_on_its_connection_is_answered_as_ever(site: SocketSite) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /raw/quick HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await read_head(reader))[0] == 200
    assert await reader.readexactly(3) == b"raw"
    writer.write(handshake())
    assert (await read_head(reader))[0] == 101
    client = RawWebSocket(reader, writer)
    client.send(b"hello")
    assert await client.receive() == (TEXT, b"hello")
    client.abort()


async def test_a_handshake_pipelined_behind_an_open_request_is_refused(site: SocketSite, echo: Echo) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /raw/slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + handshake() + frame(b"smuggled"))
    async with asyncio.timeout(5):
        while not site.runtime.connections:  # noqa: ASYNC110  no event says that it was read
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    site.release.set()
    status, headers = await read_head(reader)
    assert status == 200
    assert headers["connection"] == "close"
    assert await reader.read() == b"raw"
    assert echo.got == []


async def test_what_follows_the_head_belongs_to_the_socket(site: SocketSite, echo: Echo) -> None:
    request = b"GET /raw/quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with raw(site, handshake() + frame(b"early") + frame(request)) as client:
        assert await client.receive() == (TEXT, b"early")
        # What looks like a request is a message like any other.
        assert await client.receive() == (TEXT, request)
    assert echo.got == [b"early", request]


async def test_plain_bytes_behind_the_handshake_are_not_read_as_a_request(site: SocketSite) -> None:
    smuggled = b"GET /raw/quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with raw(site, handshake() + smuggled) as client:
        assert await client.closed() == 1002
        assert await client.ended()


async def test_a_handshake_may_arrive_byte_by_byte(site: SocketSite) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for byte in handshake():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await read_head(reader))[0] == 101
    writer.close()


async def test_a_refused_handshake_reads_nothing_of_what_follows(site: SocketSite, echo: Echo) -> None:
    head = handshake(Sec_WebSocket_Key=None)
    status, _, _ = await refusal(site, head + frame(b"x") + b"GET /raw/quick HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status == 400
    assert echo.got == []


# --- frames ---


async def test_fragments_are_joined_and_pings_between_them_answered(site: SocketSite) -> None:
    async with raw(site) as client:
        client.send(b"one ", fin=False)
        client.send(b"p", opcode=PING)
        client.send(b"two ", opcode=CONT, fin=False)
        client.send(b"three", opcode=CONT)
        answers = {await client.receive(), await client.receive()}
    assert answers == {(PONG, b"p"), (TEXT, b"one two three")}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"x", masked=False), 1002),
        (frame(b"x", opcode=CONT), 1002),
        (frame(b"x", opcode=3), 1002),
        (bytes([0xC1, 0x80, 0, 0, 0, 0]), 1002),
        (frame(b"x" * 126, opcode=PING), 1002),
        (frame(b"a", fin=False) + frame(b"b"), 1002),
        (frame(b"x", opcode=2), 1003),
        (frame(b"x" * 200_001), 1009),
        (frame(b"x" * 150_000, fin=False) + frame(b"x" * 60_000, opcode=CONT), 1009),
        # The length alone is enough: nothing is read of what it promises.
        (b"\x81\xff" + struct.pack("!Q", 2**40), 1009),
        (frame(b"close"), 4000),
        (frame(b"", opcode=CLOSE) + frame(b"after the end"), 1005),
    ],
    # Frames are masked by chance, and names of tests must not be.
    ids=map(str, range(13)),
)
async def test_what_breaks_the_protocol_closes_with_its_code(
    site: SocketSite, echo: Echo, sent: bytes, code: int
) -> None:
    async with raw(site) as client:
        client.writer.write(sent)
        if code == 1005:
            assert await client.receive() == (CLOSE, b"")
        else:
            assert await client.closed() == code
        assert echo.got in ([], [b"close"])
        if code in (4000, 1003):
            client.send(struct.pack("!H", code), opcode=CLOSE)
        assert await client.ended()
    async with asyncio.timeout(5):
        await echo.ended.wait()


async def test_a_fault_of_ours_closes_and_is_reported(site: SocketSite, echo: Echo) -> None:
    async with raw(site) as client:
        client.send(b"crash")
        assert await client.closed() == 1011
    assert len(site.crashes) == 1


async def test_a_client_killed_within_a_frame_is_gone(site: SocketSite, echo: Echo) -> None:
    client = await RawWebSocket.open(site.port)
    client.writer.write(frame(b"x" * 5_000)[:2_000])
    await client.writer.drain()
    client.abort()
    async with asyncio.timeout(5):
        await echo.ended.wait()
        while site.runtime.connections or site.server.server_state.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not site.crashes


async def test_half_a_connection_is_none(site: SocketSite, echo: Echo) -> None:
    async with raw(site) as client:
        client.writer.write_eof()
        assert await client.ended()
    async with asyncio.timeout(5):
        await echo.ended.wait()


# --- time ---


async def test_silence_is_pinged_and_then_cut(site: SocketSite, echo: Echo) -> None:
    async with raw(site) as client:
        client.send(b"here")
        assert await client.receive() == (TEXT, b"here")
        connection, now = connection_of(site), asyncio.get_running_loop().time()
        connection.sweep(now + PING_INTERVAL_S - 1)
        connection.sweep(now + PING_INTERVAL_S + 1)
        connection.sweep(now + PING_INTERVAL_S + 2)
        assert await client.receive() == (PING, b"")
        connection.sweep(now + 3 * PING_INTERVAL_S - 1)
        assert await client.receive() == (PING, b"")
        connection.sweep(now + 3 * PING_INTERVAL_S + 1)
        assert await client.ended()
    assert echo.sweeps >= 4


async def test_an_answered_ping_keeps_the_connection(site: SocketSite) -> None:
    async with raw(site) as client:
        connection, now = connection_of(site), asyncio.get_running_loop().time()
        connection.sweep(now + PING_INTERVAL_S + 1)
        assert await client.receive() == (PING, b"")
        client.send(b"", opcode=PONG)
        client.send(b"alive")
        assert await client.receive() == (TEXT, b"alive")
        connection.sweep(asyncio.get_running_loop().time() + PING_INTERVAL_S - 1)
        client.send(b"still")
        assert await client.receive() == (TEXT, b"still")


async def test_a_client_that_never_answers_the_close_is_cut(site: SocketSite) -> None:
    async with raw(site) as client:
        client.send(b"close")
        assert await client.closed() == 4000
        connection = connection_of(site)
        connection.sweep(asyncio.get_running_loop().time() + CLOSE_BOUND_S + 1)
        assert await client.ended()


async def test_a_client_that_takes_nothing_is_cut_and_costs_a_bounded_buffer(site: SocketSite, echo: Echo) -> None:
    async with raw(site) as client:
        client.send(b"hello")
        assert await client.receive() == (TEXT, b"hello")
        assert echo.socket is not None
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not echo.socket.must_drain:
            echo.socket.send(b"x" * 60_000)
        async with asyncio.timeout(5):
            # The sweep's own time limit, 400 ms here; whoever waits to send is released.
            await echo.socket.drain()
            await echo.ended.wait()
        while site.runtime.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_connections_are_counted_with_all_others(site: SocketSite) -> None:
    clients = [await RawWebSocket.open(site.port) for _ in range(SETTINGS.connections_max)]
    status, _, problem = await refusal(site, handshake())
    assert (status, problem["code"]) == (503, "too_many_in_flight")
    for client in clients:
        client.abort()


# --- the drain ---


async def test_a_drain_is_told_and_cuts_at_its_bound(site: SocketSite, echo: Echo) -> None:
    async with raw(site) as client:
        client.send(b"here")
        assert await client.receive() == (TEXT, b"here")
        site.begin_drain()
        assert await client.receive() == (TEXT, b"draining")
        # Work may go on within the bound.
        client.send(b"one more")
        assert await client.receive() == (TEXT, b"one more")
        assert await client.closed() == 1012
        client.send(struct.pack("!H", 1012), opcode=CLOSE)
        assert await client.ended()
        async with asyncio.timeout(5):
            await site.serving
    assert echo.drains == [500]


async def test_no_handshake_is_accepted_once_the_hub_drains(site: SocketSite) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(handshake()[:20])
    await asyncio.sleep(0)
    site.runtime.drain.give()
    writer.write(handshake()[20:])
    assert (await read_head(reader))[0] == 503
    writer.close()
