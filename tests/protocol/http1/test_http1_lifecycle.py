"""Who holds a connection and for how long: cancellation, closing, back-pressure, pool bounds, TLS, shutdown."""

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable

import pytest
import trustme
from scripted_server import OK_HELLO, CountingMetrics, LoopbackRules, Peer, ScriptedServer, post, running_client, until

from meshway.kernel.errors import UpstreamBroken, UpstreamUnreachable
from meshway.upstreams.http1 import Http1Client, Origin

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_cancelling_a_call_that_waits_for_its_answer_closes_the_connection() -> None:
    waiting = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        waiting.set()
        await peer.gone()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        call = asyncio.create_task(client.exchange(server.origin, post(server.origin)))
        await waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.open == 0)
        assert (metrics.idle, metrics.busy) == (0, 0)


@pytest.mark.parametrize("read", ["read", "chunks"])
async def test_cancelling_a_reader_closes_the_connection(read: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.gone()

    reading = asyncio.Event()

    async def call() -> None:
        answer = await client.exchange(server.origin, post(server.origin))
        reading.set()
        if read == "read":
            await answer.read()
        else:
            [piece async for piece in answer.chunks()]

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        task = asyncio.create_task(call())
        await reading.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.open == 0)
        assert (metrics.idle, metrics.busy) == (0, 0)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_cancelled_at_any_step_a_call_leaves_no_connection_behind(tls: bool) -> None:
    """The call is cancelled after 0, 1, 2, ... rounds of the loop, until one gets through to the end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.send(b"5\r\nworld\r\n")
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async def call() -> bytes:
        answer = await client.exchange(server.origin, post(server.origin))
        return await answer.read()

    authority = trustme.CA()
    server_tls, client_tls = _tls_pair(authority)
    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script, tls=server_tls if tls else None) as server,
        running_client(metrics=metrics, ssl_context=client_tls, idle_per_origin_max=0) as client,
    ):
        finished = 0
        for rounds in (*range(120), *range(120, 20_000, 300)):
            task = asyncio.create_task(call())
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            try:
                assert await task == b"helloworld"
                finished += 1
            except asyncio.CancelledError:
                pass
            await until(lambda: metrics.busy == 0)
            if finished == 3:
                break
        assert finished == 3
        await until(lambda: server.open == 0)
        assert metrics.idle == 0


async def test_closing_an_answer_is_seen_by_the_server_at_once_and_ends_its_reader() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        pieces = answer.chunks()
        assert await anext(pieces) == b"hello"
        reader = asyncio.create_task(anext(pieces))  # type: ignore[arg-type]  # an awaitable, which is a coroutine here
        await asyncio.sleep(0)
        answer.close()
        answer.close()
        with pytest.raises(UpstreamBroken, match="closed before its end"):
            await reader
        await until(lambda: server.open == 0, timeout_s=1)


async def test_closing_a_complete_answer_leaves_its_connection_to_others() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        release.set()
        await asyncio.Event().wait()

    release = asyncio.Event()
    async with ScriptedServer.running(script) as server, running_client() as client:
        first = await client.exchange(server.origin, post(server.origin))
        second = asyncio.create_task(client.exchange(server.origin, post(server.origin)))
        await release.wait()
        first.close()
        assert await first.read() == b"hello"
        assert not second.done()
        assert (server.accepted, server.open) == (1, 1)
        second.cancel()


async def test_leaving_the_loop_over_the_pieces_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        async for piece in answer.chunks():
            assert piece == b"hello"
            break
        gc.collect()  # an iterator nobody closed is closed when it is collected
        await until(lambda: server.open == 0)


async def test_a_slow_reader_makes_the_server_wait_and_memory_stays_bounded() -> None:
    total = 50_000_000
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(OK + b"Content-Length: %d\r\n\r\n" % total)
        while sent < total:
            await peer.send(b"x" * 100_000)
            sent += 100_000
        await peer.request()

    async with (
        ScriptedServer.running(script) as server,
        running_client(unread_bytes_max=65_536) as client,
    ):
        answer = await client.exchange(server.origin, post(server.origin))
        stands_still = await _settled(lambda: sent)
        assert stands_still < 20_000_000  # what the kernel's buffers take
        assert answer.buffered_bytes <= 65_536 + 262_144
        received = largest = 0
        async for piece in answer.chunks():
            received += len(piece)
            largest = max(largest, len(piece))
        assert received == total
        assert largest <= 65_536 + 262_144
        assert answer.complete
        # The connection was paused and resumed often; it must listen again when it is idle.
        second = asyncio.create_task(client.exchange(server.origin, post(server.origin)))
        with pytest.raises(UpstreamBroken):
            await second
        assert server.accepted == 1


async def _settled(read: Callable[[], int]) -> int:
    """The value once it has not changed for 50 rounds of 2 ms."""
    value, same = read(), 0
    while same < 50:
        await asyncio.sleep(0.002)
        same = same + 1 if read() == value else 0
        value = read()
    return value


async def test_a_full_pool_says_so_and_has_room_again_when_a_call_ends() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await go_on.wait()
            await peer.send(OK_HELLO)

    go_on = asyncio.Event()
    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script) as server,
        running_client(metrics=metrics, connections_per_origin_max=2) as client,
    ):
        calls = [asyncio.create_task(client.exchange(server.origin, post(server.origin))) for _ in range(2)]
        await until(lambda: server.open == 2)
        with pytest.raises(UpstreamUnreachable, match="All 2 connections") as caught:
            await client.exchange(server.origin, post(server.origin))
        assert not caught.value.may_have_acted
        assert caught.value.retry_after_ms is not None
        go_on.set()
        for call in calls:
            assert await (await call).read() == b"hello"
        assert await (await client.exchange(server.origin, post(server.origin))).read() == b"hello"
        assert server.accepted == 2


async def test_no_more_connections_than_set_are_kept_idle_and_the_youngest_is_used_first() -> None:
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            numbers.append(peer.number)
            await together.wait()
            await peer.send(OK_HELLO)

    together = asyncio.Event()
    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script) as server,
        running_client(metrics=metrics, idle_per_origin_max=3) as client,
    ):
        calls = [asyncio.create_task(client.exchange(server.origin, post(server.origin))) for _ in range(8)]
        await until(lambda: len(numbers) == 8)
        together.set()
        for call in calls:
            await (await call).read()
        assert (metrics.idle, metrics.busy) == (3, 0)
        await until(lambda: server.open == 3)
        numbers.clear()
        for _ in range(4):
            await (await client.exchange(server.origin, post(server.origin))).read()
        assert len(set(numbers)) == 1


async def test_an_idle_connection_is_closed_by_us_before_a_stock_server_would() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.gone()

    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script) as server,
        running_client(metrics=metrics, keep_alive_ms=50) as client,
    ):
        await (await client.exchange(server.origin, post(server.origin))).read()
        assert metrics.idle == 1
        await until(lambda: metrics.idle == 0 and server.open == 0)


async def test_addresses_are_asked_for_once_in_a_burst_and_again_after_a_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    egress = LoopbackRules()
    async with ScriptedServer.running(script) as server, running_client(egress=egress, idle_per_origin_max=0) as client:
        for _ in range(5):
            await (await client.exchange(server.origin, post(server.origin))).read()
        assert egress.asked == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        origin = Origin(scheme="http", host="127.0.0.1", port=taken.getsockname()[1])
        async with running_client(egress=egress) as client:
            for _ in range(2):
                with pytest.raises(UpstreamUnreachable):
                    await client.exchange(origin, post(origin))
        assert egress.asked == 3


async def test_small_requests_are_not_held_back_by_the_kernel() -> None:
    """TCP_NODELAY is on, whichever loop opened the socket."""

    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client() as client:
        await (await client.exchange(server.origin, post(server.origin))).read()
        connection = next(iter(client._pools[server.origin]._idle))
        assert connection._transport is not None
        plain = connection._transport.get_extra_info("socket")
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_closing_the_client_ends_what_runs_and_refuses_what_comes() -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.request()
            await peer.gone()
        await peer.answer()
        await peer.gone()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        kept = await client.exchange(server.origin, post(server.origin))
        busy = [asyncio.create_task(client.exchange(server.origin, post(server.origin))) for _ in range(3)]
        await until(lambda: metrics.busy == 3 and server.open == 3)
        await client.aclose()
        for call in busy:
            with pytest.raises(UpstreamBroken, match="shutting down"):
                await call
        assert await kept.read() == b"hello"
        with pytest.raises(UpstreamUnreachable, match="shutting down"):
            await client.exchange(server.origin, post(server.origin))
        await until(lambda: server.open == 0)
        assert (metrics.idle, metrics.busy) == (0, 0)
        await client.aclose()


async def test_a_thousand_streams_closed_together_leave_nothing_behind() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answers = [await client.exchange(server.origin, post(server.origin)) for _ in range(1_000)]
        pieces = [answer.chunks() for answer in answers]
        for each in pieces:
            assert await anext(each) == b":\n\n"
        assert server.open == 1_000
        for answer in answers:
            answer.close()
        await until(lambda: server.open == 0)
        assert client._pools == {}


# --- TLS ---


def _tls_pair(authority: trustme.CA, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def _tls_call(client: Http1Client, origin: Origin) -> bytes:
    return await (await client.exchange(origin, post(origin))).read()


async def test_calls_over_tls_share_a_connection_too() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer()

    server_tls, client_tls = _tls_pair(trustme.CA())
    async with (
        ScriptedServer.running(script, tls=server_tls) as server,
        running_client(ssl_context=client_tls) as client,
    ):
        for _ in range(4):
            assert await _tls_call(client, server.origin) == b"hello"
        assert server.accepted == 1


async def test_a_large_tls_answer_is_streamed_whole() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Content-Length: 5000000\r\n\r\n")
        for _ in range(50):
            await peer.send(b"x" * 100_000)

    server_tls, client_tls = _tls_pair(trustme.CA())
    async with (
        ScriptedServer.running(script, tls=server_tls) as server,
        running_client(ssl_context=client_tls) as client,
    ):
        answer = await client.exchange(server.origin, post(server.origin))
        assert sum([len(piece) async for piece in answer.chunks()]) == 5_000_000


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "cut"])
async def test_a_tls_body_without_length_is_whole_only_when_the_server_said_goodbye(orderly: bool) -> None:
    """RFC 9112 9.8: without close_notify somebody on the way may have cut it."""
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhello")
        await arrived.wait()
        if not orderly:
            peer.writer.transport.abort()

    server_tls, client_tls = _tls_pair(trustme.CA())
    async with (
        ScriptedServer.running(script, tls=server_tls) as server,
        running_client(ssl_context=client_tls) as client,
    ):
        answer = await client.exchange(server.origin, post(server.origin))
        arrived.set()
        if orderly:
            assert await answer.read() == b"hello"
        else:
            with pytest.raises(UpstreamBroken, match="in the middle"):
                await answer.read()


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_certificate_that_is_not_trusted_is_refused_with_the_reason(wrong: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    authority = trustme.CA()
    server_tls, client_tls = _tls_pair(authority, "other.example")
    if wrong == "authority":
        client_tls = ssl.create_default_context()
    async with (
        ScriptedServer.running(script, tls=server_tls) as server,
        running_client(ssl_context=client_tls) as client,
    ):
        with pytest.raises(UpstreamUnreachable, match=r"certificate of localhost .* is not trusted") as caught:
            await _tls_call(client, server.origin)
        assert not caught.value.may_have_acted


async def test_https_to_a_server_that_speaks_http_is_explained() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(OK_HELLO)

    async with ScriptedServer.running(script) as server, running_client() as client:
        with pytest.raises(UpstreamUnreachable, match="Does it speak https"):
            await _tls_call(client, Origin(scheme="https", host="localhost", port=server.port))


async def test_a_tls_handshake_that_never_ends_is_given_up_and_leaves_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script) as server,
        running_client(connect_timeout_ms=100, metrics=metrics) as client,
    ):
        with pytest.raises(UpstreamUnreachable, match="did not accept a connection"):
            await _tls_call(client, Origin(scheme="https", host="localhost", port=server.port))
        await until(lambda: server.open == 0)
        assert metrics.busy == 0
