"""The HTTP server on real sockets: limits, pipelining, slow and vanished clients. Raw bytes in, raw bytes out."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from meshway.edges.http.exchange import Exchange
from meshway.edges.http.runtime import HttpRuntime
from meshway.edges.http.server import HubServer
from meshway.edges.http.settings import HttpSettings
from meshway.kernel.errors import Forbidden
from meshway.kernel.metrics import NullMetrics

SETTINGS = HttpSettings(
    header_bytes_max=2_000,
    headers_max=20,
    body_bytes_max=10_000,
    header_timeout_ms=600,
    body_timeout_ms=600,
    keep_alive_ms=1_500,
    write_stall_ms=600,
    sse_keep_alive_ms=600,
    connections_max=50,
    drain_timeout_ms=500,
)


class Gate:
    def check(self, headers: Mapping[bytes, bytes]) -> None:
        if headers.get(b"host") == b"evil.example":
            raise Forbidden("Host evil.example is not one of this hub's names.")


class Site:
    """The server under test; its raw handler does what the path says."""

    def __init__(self, *, lingers: bool = False) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.crashes: list[str] = []
        self.draining = False
        self.runtime = HttpRuntime(
            routes={b"raw": self.raw},
            gate=Gate(),
            settings=SETTINGS,
            metrics=NullMetrics(),
            report_crash=lambda path, error: self.crashes.append(path),
            data_route=lambda method, path: self.wait if (method, path) == (b"GET", b"/feed/wait") else None,
        )
        app = Starlette(routes=[Route("/app", self.app, methods=["GET", "POST"]), Route("/feed", self.feed)])
        self.server = HubServer(app, self.runtime, on_drain=self.note_drain, lingers=lingers)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def note_drain(self) -> None:
        self.draining = True

    async def app(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"app {len(await request.body())}")

    async def feed(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._feed())

    async def _feed(self) -> AsyncIterator[bytes]:
        self.entered.set()
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.01)
        finally:
            self.cancelled.set()

    async def wait(self, exchange: Exchange) -> None:
        """A feed that knows of the drain."""
        with exchange.until_drain() as wait:
            exchange.start_stream(200, b"text/event-stream")
            await self._slow(exchange)
        assert wait.ended
        exchange.end()

    async def raw(self, exchange: Exchange) -> None:
        match exchange.head.path:
            case b"/raw/slow":
                await self._slow(exchange)
            case b"/raw/stream":
                exchange.start_stream(200, b"text/event-stream")
                for n in range(3):
                    exchange.send(b"data: %d\n\n" % n)
                exchange.end()
            case b"/raw/silent":
                exchange.start_stream(200, b"text/event-stream")
                await self._slow(exchange)
            case b"/raw/flood":
                exchange.start_stream(200, b"text/event-stream")
                await self._flood(exchange)
            case b"/raw/crash":
                raise ValueError("planted")
            case b"/raw/mute":
                pass
            case _:
                exchange.respond(200, b"text/plain", b"raw %d %b" % (len(exchange.body), exchange.head.query))

    async def _slow(self, exchange: Exchange) -> None:
        self.entered.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled.set()
            if exchange.is_feed:
                exchange.send(b"data: cut\n\n")
                exchange.end()
            raise

    async def _flood(self, exchange: Exchange) -> None:
        try:
            while True:
                exchange.send(b"data: " + b"x" * 65_536 + b"\n\n")
                if exchange.must_drain:
                    await exchange.drain()
                else:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with served(Site()) as site:
        yield site


@contextlib.asynccontextmanager
async def served(site: Site) -> AsyncIterator[Site]:
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(site.server.serve_on(site.listener))
        try:
            async with asyncio.timeout(5):
                while not site.server.started:  # noqa: ASYNC110  uvicorn has a flag, no event
                    await asyncio.sleep(0)
            yield site
        finally:
            site.server.should_exit = True
            site.server.force_exit = True
            for connection in tuple(site.runtime.connections):
                connection.transport.abort()
            await serving


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One response with a Content-Length or chunks."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {}
        for line in head[1:-2]:
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(head[0].split()[1]), headers, body

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return await self.reader.read(-1)


@contextlib.asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Client]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: hub", *lines, "", ""]).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    return (
        "\r\n".join([f"POST {path} HTTP/1.1", "host: hub", f"content-length: {len(body)}", *lines, "", ""]).encode()
        + body
    )


async def test_raw_and_asgi_requests_share_one_connection(site: Site) -> None:
    async with connected(site) as client:
        for _ in range(3):
            client.send(post("/raw/x?q=1", b"four"))
            assert (await client.answer())[2] == b"raw 4 q=1"
            client.send(post("/app", b"hello"))
            assert (await client.answer())[2] == b"app 5"


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    async with connected(site) as client:
        client.send(
            post("/raw/a?1", b"") + post("/app", b"22") + get("/raw/stream") + post("/raw/a?4", b"") + get("/app")
        )
        bodies = [(await client.answer())[2] for _ in range(5)]
    assert bodies == [b"raw 0 1", b"app 2", b"data: 0\n\ndata: 1\n\ndata: 2\n\n", b"raw 0 4", b"app 0"]


async def test_request_in_single_bytes_is_understood(site: Site) -> None:
    async with connected(site) as client:
        for byte in post("/raw/a", b"body"):
            client.send(bytes([byte]))
            await client.writer.drain()
        assert (await client.answer())[2] == b"raw 4 "


async def test_chunked_request_body_is_joined(site: Site) -> None:
    async with connected(site) as client:
        client.send(
            b"POST /raw/a HTTP/1.1\r\nhost: hub\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert (await client.answer())[2] == b"raw 5 "


async def test_expect_100_continue_is_answered_before_the_body(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"POST /raw/a HTTP/1.1\r\nhost: hub\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ok")
        assert (await client.answer())[2] == b"raw 2 "


async def test_head_request_gets_no_body(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"HEAD /raw/a HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n")
        answer = await client.rest()
    assert b"content-length: 6" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_http_10_client_gets_a_close_delimited_stream(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"GET /raw/stream HTTP/1.0\r\nhost: hub\r\n\r\n")
        answer = await client.rest()
    assert answer.endswith(b"\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n")


@pytest.mark.parametrize(
    "request_bytes",
    [get("/raw/a", "x: " + "y" * 3_000), get("/raw/" + "a" * 3_000), get("/app", *(f"x{n}: y" for n in range(30)))],
    ids=["value", "target", "lines"],
)
async def test_oversized_head_is_refused(site: Site, request_bytes: bytes) -> None:
    async with connected(site) as client:
        client.send(request_bytes)
        assert (await client.rest()).startswith(b"HTTP/1.1 431")


async def test_endless_header_is_cut_while_it_arrives(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"GET /raw/a HTTP/1.1\r\nhost: hub\r\nx: ")
        for _ in range(5):
            client.send(b"y" * 1_000)
            with contextlib.suppress(OSError):
                await client.writer.drain()
        assert (await client.rest()).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_oversized_body_is_refused(site: Site, chunked: bool) -> None:
    async with connected(site) as client:
        if chunked:
            head = b"POST /raw/a HTTP/1.1\r\nhost: hub\r\ntransfer-encoding: chunked\r\n\r\n"
            client.send(head + b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n")
        else:
            client.send(b"POST /raw/a HTTP/1.1\r\nhost: hub\r\ncontent-length: 20000\r\n\r\n")
        status, headers, body = await client.answer()
    assert status == 413
    assert headers[b"content-type"] == b"application/problem+json"
    assert b"payload_too_large" in body


async def test_slow_head_is_cut(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"GET /raw/a HTTP/1.1\r\nhost:")
        assert (await client.rest()).startswith(b"HTTP/1.1 408")


async def test_slow_body_is_cut(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"POST /raw/a HTTP/1.1\r\nhost: hub\r\ncontent-length: 9\r\n\r\nfour")
        assert (await client.rest()).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("first", [b"", get("/raw/a"), get("/app")], ids=["nothing", "raw", "asgi"])
async def test_idle_connection_is_closed(site: Site, first: bytes) -> None:
    async with connected(site) as client:
        client.send(first)
        if first:
            await client.answer()
        assert await client.rest() == b""


async def test_garbage_gets_a_400(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400")


async def test_two_hosts_are_refused(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/a", "host: other"))
        assert (await client.rest()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(("target", "status"), [("http://hub/raw/a", 200), ("http://evil.example/raw/a", 400)])
async def test_absolute_target_must_name_the_same_host_as_the_host_header(site: Site, target: str, status: int) -> None:
    async with connected(site) as client:
        client.send(get(target))
        assert (await client.answer())[0] == status


@pytest.mark.parametrize("path", ["/raw/a", "/app"])
async def test_foreign_host_is_refused_on_every_path(site: Site, path: str) -> None:
    async with connected(site) as client:
        client.send(f"GET {path} HTTP/1.1\r\nhost: evil.example\r\n\r\n".encode())
        status, _, body = await client.answer()
    assert status == 403
    assert b"evil.example" in body


async def test_client_that_leaves_cancels_its_handler_within_a_second(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/slow"))
        await site.entered.wait()
        client.writer.transport.abort()
        async with asyncio.timeout(1):
            await site.cancelled.wait()


async def test_client_that_reads_nothing_is_cut_and_its_handler_freed(site: Site) -> None:
    async with connected(site) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.reader._transport.pause_reading()  # the only way to keep asyncio from draining the socket
        client.send(get("/raw/flood"))
        async with asyncio.timeout(5):
            await site.cancelled.wait()


async def test_silent_stream_is_kept_alive_by_comments(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/silent"))
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(2):
            assert await client.reader.readuntil(b"\n\n\r\n") == b"e\r\n: keep-alive\n\n\r\n"


async def test_handler_that_crashes_is_a_500_and_reported(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/crash"))
        status, _, body = await client.answer()
    assert status == 500
    assert b"planted" not in body
    assert site.crashes == ["/raw/crash"]


async def test_handler_that_answers_nothing_is_a_500(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/mute"))
        assert (await client.answer())[0] == 500


async def test_connections_beyond_the_maximum_are_refused(site: Site) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(SETTINGS.connections_max):
            client = await stack.enter_async_context(connected(site))
            client.send(get("/raw/a"))
            await client.answer()
        refused = await stack.enter_async_context(connected(site))
        assert (await refused.rest()).startswith(b"HTTP/1.1 503")


async def test_drain_finishes_what_runs_and_tells_streams_at_its_bound(site: Site) -> None:
    async with connected(site) as stream, connected(site) as idle:
        idle.send(get("/raw/a"))
        await idle.answer()
        stream.send(get("/raw/silent"))
        await stream.reader.readuntil(b"\r\n\r\n")
        site.server.handle_exit(15, None)
        assert site.draining
        assert await idle.rest() == b""
        assert b"data: cut" in await stream.rest()


async def test_slow_body_of_an_asgi_request_is_cut(site: Site) -> None:
    async with connected(site) as client:
        client.send(post("/app", b"0123456789")[:-5])
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 408 "), answer


async def test_asgi_body_that_breaks_off_is_answered(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"POST /app HTTP/1.1\r\nhost: hub\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await asyncio.sleep(0)
        client.send(b"no chunk\r\n")
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


async def test_answer_under_way_is_not_cut_by_what_a_closing_client_sends_behind_it(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/app", "connection: close") + b"\x00\x01garbage\r\n\r\n")
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert answer.count(b"HTTP/1.1") == 1, answer


@pytest.mark.parametrize("behind", [get("/app"), get("/raw/x")], ids=["asgi", "raw"])
async def test_client_that_leaves_is_noticed_though_another_request_waits_behind(site: Site, behind: bytes) -> None:
    async with connected(site) as client:
        client.send(get("/feed"))
        await site.entered.wait()
        client.send(behind)
    async with asyncio.timeout(2):
        await site.cancelled.wait()


async def test_head_that_differs_in_the_http_version_alone_is_read_anew(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/stream"))
        await client.answer()
        client.send(get("/raw/stream").replace(b"HTTP/1.1", b"HTTP/1.0"))
        old = await client.rest()
    assert b"transfer-encoding" not in old
    assert old.endswith(b"\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"), old


async def test_interim_answer_never_stands_inside_a_stream(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/raw/silent"))
        await site.entered.wait()
        client.send(post("/raw/x", b"body", "expect: 100-continue"))
        async with asyncio.timeout(5):
            received = await client.reader.readuntil(b": keep-alive\n\n\r\n")
    assert b"100 Continue" not in received, received


@pytest.mark.parametrize("path", ["/raw/x", "/app"])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_upgrade_the_server_does_not_know_is_ignored_and_the_body_stays_a_body(
    site: Site, path: str, upgrade: str
) -> None:
    inner = get("/raw/smuggled")
    lines = (f"upgrade: {upgrade}", "connection: Upgrade, HTTP2-Settings", "http2-settings: AAMAAABk")
    outer = post(path, inner, *lines)
    async with connected(site) as client:
        client.send(outer + outer)  # in one read
        first, second = await client.answer(), await client.answer()
        client.send(outer[: -len(inner)])  # head and body apart
        for _ in range(50):  # turns of the loop that server and client share
            await asyncio.sleep(0)
        client.send(inner)
        third = await client.answer()
        client.send(get("/raw/next", "connection: close"))
        rest = await client.rest()
    assert [answer[0] for answer in (first, second, third)] == [200, 200, 200]
    assert all(str(len(inner)).encode() in answer[2] for answer in (first, second, third))
    assert rest.count(b"HTTP/1.1") == 1


async def test_client_that_wants_to_upgrade_and_close_is_closed(site: Site) -> None:
    async with connected(site) as client:
        client.send(post("/raw/x", b"body", "upgrade: h2c", "connection: close, Upgrade"))
        answer = await client.rest()
    assert answer.endswith(b"\r\n\r\nraw 4 "), answer


async def test_tunnel_is_refused(site: Site) -> None:
    async with connected(site) as client:
        client.send(b"CONNECT agent.example:443 HTTP/1.1\r\nhost: hub\r\n\r\n")
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


@pytest.mark.parametrize("lines", ["gzip, chunked", "identity\r\ntransfer-encoding: chunked"])
async def test_transfer_coding_other_than_chunked_is_refused(site: Site, lines: str) -> None:
    async with connected(site) as client:
        client.send(f"POST /raw/x HTTP/1.1\r\nhost: hub\r\ntransfer-encoding: {lines}\r\n\r\n0\r\n\r\n".encode())
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


async def test_data_route_is_asked_by_method_and_path(site: Site) -> None:
    async with connected(site) as client:
        client.send(post("/feed/wait", b""))
        assert (await client.answer())[0] == 404
        client.send(get("/feed/wait"))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_feed_ends_as_soon_as_the_hub_drains(site: Site) -> None:
    async with connected(site) as stream, connected(site) as late:
        stream.send(get("/feed/wait"))
        await site.entered.wait()
        late.send(get("/raw/silent"))
        await late.reader.readuntil(b"\r\n\r\n")
        site.server.handle_exit(15, None)
        assert (await stream.rest()).endswith(b"0\r\n\r\n")
        assert late.reader._buffer == b""  # the one that does not listen goes on to the bound


async def test_client_that_leaves_a_feed_frees_it_though_the_feed_waits_for_the_drain(site: Site) -> None:
    async with connected(site) as client:
        client.send(get("/feed/wait"))
        await site.entered.wait()
    async with asyncio.timeout(1):
        await site.cancelled.wait()
    assert site.crashes == []


async def connect_for_ever(site: Site) -> None:
    while True:
        async with connected(site):
            await asyncio.sleep(0)


async def test_server_that_shares_its_port_answers_whoever_has_connected_when_it_stops_to_listen() -> None:
    async with served(Site(lingers=True)) as site, connected(site) as kept, connected(site) as fresh:
        kept.send(get("/raw/a"))
        assert b"connection" not in (await kept.answer())[1]
        site.server.handle_exit(15, None)
        with pytest.raises(ConnectionError):
            await connect_for_ever(site)
        for client in (kept, fresh):
            client.send(get("/raw/a"))
            status, headers, _ = await client.answer()
            assert (status, headers[b"connection"]) == (200, b"close")
            assert await client.rest() == b""
        assert not site.draining
        async with asyncio.timeout(5):
            while not site.draining:  # noqa: ASYNC110  the hub is told, not its connections
                await asyncio.sleep(0.01)


async def test_second_signal_ends_the_lingering() -> None:
    async with served(Site(lingers=True)) as site:
        site.server.handle_exit(15, None)
        assert not site.draining
        site.server.handle_exit(15, None)
        assert site.draining
