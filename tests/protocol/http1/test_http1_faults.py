"""Servers that lie, stall, break off or are not there: what the caller is told, and that nothing is left behind."""

import asyncio
import socket

import pytest
from scripted_server import OK_HELLO, CountingMetrics, LoopbackRules, Peer, ScriptedServer, post, running_client, until

from meshway.kernel.errors import (
    DeadlineExceeded,
    EgressDenied,
    UpstreamBroken,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from meshway.upstreams.http1 import Origin

OK = b"HTTP/1.1 200 OK\r\n"

MALFORMED = [
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "broke the rules", id="another protocol"),
    pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", "broke the rules", id="status not a number"),
    pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", "broke the rules", id="status of two digits"),
    pytest.param(b"HTTP/1.1 099 Odd\r\n\r\n", "status 099", id="status below 100"),
    pytest.param(b"HTTP/1.1 600 Odd\r\n\r\n", "status 600", id="status above 599"),
    pytest.param(b"HTTP/1.1 200 OK\n\n", "broke the rules", id="line feeds only"),
    pytest.param(OK + b"Bad Name: x\r\n\r\n", "broke the rules", id="blank in a header name"),
    pytest.param(OK + b"X: a\x00b\r\n\r\n", "broke the rules", id="NUL in a header"),
    pytest.param(OK + b"X: a\r\n folded\r\n\r\n", "broke the rules", id="folded header"),
    pytest.param(OK + b"Content-Length: -1\r\n\r\n", "broke the rules", id="negative length"),
    pytest.param(OK + b"Content-Length: 5, 5\r\n\r\nhello", "broke the rules", id="list of lengths"),
    pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "broke the rules", id="two lengths"),
    pytest.param(
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "broke",
        id="length and chunks",
    ),
    pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer encoding", id="gzip, chunked"),
    pytest.param(OK + b"Transfer-Encoding: identity\r\n\r\nhello", "transfer encoding", id="identity"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "broke the rules", id="chunk size not a number"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20, "broke the rules", id="chunk size overflow"),
    pytest.param(
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05", "switched", id="upgrade"
    ),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + OK_HELLO, "interim", id="interim answers without end"),
    pytest.param(
        b"HTTP/1.1 199 Odd\r\nContent-Length: 2\r\n\r\nhi" + OK_HELLO, "body where none", id="1xx with a body"
    ),
    pytest.param(OK + b"X: y\r\n" * 201 + b"\r\n", "more than 200 headers", id="too many headers"),
    pytest.param(OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "larger than 65536", id="one header too large"),
    pytest.param(OK + b"X: " + b"y" * 400_000, "larger than 65536", id="a header that does not end"),
    pytest.param(b"HTTP/1.1 200 " + b"y" * 400_000, "larger than 65536", id="a status line that does not end"),
    pytest.param(
        OK + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 400_000,
        "chunk extensions",
        id="a chunk extension without end",
    ),
    pytest.param(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 70_000, "trailers", id="trailers without end"
    ),
]


@pytest.mark.parametrize(("sent", "told"), MALFORMED)
async def test_a_malformed_answer_is_refused_and_its_connection_closed(sent: bytes, told: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(sent)
        await peer.gone()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        with pytest.raises(UpstreamInvalid, match=told) as caught:
            await (await client.exchange(server.origin, post(server.origin))).read()
        assert caught.value.may_have_acted
        assert str(server.origin) in caught.value.detail
        await until(lambda: server.open == 0)
        assert (metrics.idle, metrics.busy) == (0, 0)


async def test_a_head_just_below_the_limit_is_taken_even_when_a_large_body_follows_at_once() -> None:
    head = OK + b"X: " + b"y" * 65_000 + b"\r\nContent-Length: 200000\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.answer(head + b"z" * 200_000)

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert len(await answer.read()) == 200_000


@pytest.mark.parametrize("framing", [b"Content-Length: 3001\r\n\r\n", b"\r\n"], ids=["announced", "unannounced"])
async def test_a_body_above_the_limit_is_refused(framing: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + framing)
        await peer.send(b"x" * 3_000)
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client(body_bytes_max=2_000) as client:
        with pytest.raises(UpstreamInvalid, match="larger than 2000 bytes"):
            await (await client.exchange(server.origin, post(server.origin))).read()
        await until(lambda: server.open == 0)


async def test_a_whole_small_answer_above_the_limit_is_refused_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    async with ScriptedServer.running(script) as server, running_client(body_bytes_max=4) as client:
        answer = await client.exchange(server.origin, post(server.origin))
        with pytest.raises(UpstreamInvalid, match="larger than 4 bytes"):
            await answer.read()


BROKEN = [
    pytest.param(b"", "before it answered", id="nothing"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-", "in the middle", id="half a head"),
    pytest.param(OK + b"Content-Length: 500\r\n\r\nhel", "in the middle", id="half a body"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "in the middle", id="half a chunk"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "in the middle", id="no last chunk"),
]


@pytest.mark.parametrize("ending", ["close", "half_close", "reset"])
@pytest.mark.parametrize(("sent", "told"), BROKEN)
async def test_an_answer_that_breaks_off_is_an_error_and_never_a_short_body(
    sent: bytes, told: str, ending: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(sent)
        if ending == "half_close":
            peer.half_close()
            await peer.gone()
        elif ending == "reset":
            peer.reset()

    async with ScriptedServer.running(script) as server, running_client() as client:
        with pytest.raises(UpstreamBroken) as caught:
            await (await client.exchange(server.origin, post(server.origin))).read()
        assert caught.value.may_have_acted
        # A reset may overtake what was sent before it.
        assert told in caught.value.detail or ending == "reset"
        await until(lambda: server.open == 0)


async def test_a_stream_that_is_reset_gives_what_came_and_then_the_error() -> None:
    seen_by_client = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await seen_by_client.wait()
        peer.reset()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        seen = []

        async def read() -> None:
            async for piece in answer.chunks():
                seen.append(piece)
                seen_by_client.set()

        with pytest.raises(UpstreamBroken, match="in the middle"):
            await read()
        assert seen == [b"hello"]


async def test_an_idle_connection_that_the_server_closes_is_not_used_again() -> None:
    close_now = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 1:
            await close_now.wait()
        else:
            await peer.answer()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        await (await client.exchange(server.origin, post(server.origin))).read()
        assert metrics.idle == 1
        close_now.set()
        await until(lambda: metrics.idle == 0)
        await (await client.exchange(server.origin, post(server.origin))).read()
        assert server.accepted == 2


async def test_an_idle_connection_that_receives_bytes_is_closed() -> None:
    say_more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        await say_more.wait()
        await peer.send(OK_HELLO)
        await peer.gone()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        await (await client.exchange(server.origin, post(server.origin))).read()
        say_more.set()
        await until(lambda: metrics.idle == 0 and server.open == 0)


async def test_a_connection_closed_under_a_request_is_broken_and_the_request_not_repeated() -> None:
    requests = 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        await peer.answer()
        requests += 1
        await peer.request()
        requests += 1

    async with ScriptedServer.running(script) as server, running_client() as client:
        await (await client.exchange(server.origin, post(server.origin))).read()
        with pytest.raises(UpstreamBroken, match="before it answered") as caught:
            await client.exchange(server.origin, post(server.origin))
        assert caught.value.may_have_acted
        await until(lambda: server.open == 0)
        assert (requests, server.accepted) == (2, 1)


async def test_a_refused_connection_is_unreachable_and_nothing_was_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused for sure, and nobody else gets the port
        origin = Origin(scheme="http", host="agent.example", port=taken.getsockname()[1])
        metrics = CountingMetrics()
        async with running_client(metrics=metrics) as client:
            with pytest.raises(UpstreamUnreachable, match=r"agent\.example \(127\.0\.0\.1\) refused") as caught:
                await client.exchange(origin, post(origin))
            assert not caught.value.may_have_acted
            assert metrics.counters["meshway_upstream_connects_total"].values == {("refused",): 1}
            assert (metrics.idle, metrics.busy) == (0, 0)


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    egress = LoopbackRules(["127.0.0.99", "127.0.0.1"])
    async with ScriptedServer.running(script) as server, running_client(egress=egress) as client:
        origin = Origin(scheme="http", host="agent.example", port=server.port)
        assert await (await client.exchange(origin, post(origin))).read() == b"hello"


async def test_an_address_that_swallows_packets_leaves_time_for_the_next() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    with socket.socket() as full, socket.socket() as filler:
        async with ScriptedServer.running(script) as server:
            # A listener whose accept queue is full drops further SYNs: connecting to it hangs.
            full.bind(("127.0.0.2", server.port))
            full.listen(0)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", server.port))
            egress = LoopbackRules(["127.0.0.2", "127.0.0.1"])
            async with running_client(egress=egress, connect_timeout_ms=600) as client:
                origin = Origin(scheme="http", host="agent.example", port=server.port)
                assert await (await client.exchange(origin, post(origin))).read() == b"hello"


async def test_denied_addresses_and_unknown_names_are_told_as_they_are_and_not_remembered() -> None:
    egress = LoopbackRules([])
    origin = Origin(scheme="http", host="agent.example", port=80)
    async with running_client(egress=egress) as client:
        with pytest.raises(UpstreamUnreachable, match="cannot be resolved"):
            await client.exchange(origin, post(origin))
        egress.failure = EgressDenied("169.254.169.254 is off limits.")
        with pytest.raises(EgressDenied):
            await client.exchange(origin, post(origin))
        assert egress.asked == 2


async def test_no_answer_in_time_is_a_deadline_that_may_have_acted() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        await peer.gone()

    loop = asyncio.get_running_loop()
    async with ScriptedServer.running(script) as server, running_client() as client:
        before = loop.time()
        with pytest.raises(DeadlineExceeded, match="did not answer in time") as caught:
            await client.exchange(server.origin, post(server.origin), deadline=loop.time() + 0.05)
        assert caught.value.may_have_acted
        assert 0.045 <= loop.time() - before < 1
        await until(lambda: server.open == 0)


async def test_without_a_deadline_the_first_byte_timeout_counts() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client(first_byte_timeout_ms=50) as client:
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            await client.exchange(server.origin, post(server.origin))
        await until(lambda: server.open == 0)


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    loop = asyncio.get_running_loop()
    async with ScriptedServer.running(script) as server, running_client() as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.exchange(server.origin, post(server.origin), deadline=loop.time())
        assert not caught.value.may_have_acted
        assert server.accepted == 0


async def test_a_deadline_that_passes_while_connecting_has_not_acted() -> None:
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        origin = Origin(scheme="http", host="127.0.0.1", port=full.getsockname()[1])
        loop = asyncio.get_running_loop()
        async with running_client(connect_timeout_ms=100) as client:
            with pytest.raises(DeadlineExceeded, match="could not be reached in time") as caught:
                await client.exchange(origin, post(origin), deadline=loop.time() + 0.05)
            assert not caught.value.may_have_acted
            with pytest.raises(UpstreamUnreachable, match="did not accept a connection") as unreachable:
                await client.exchange(origin, post(origin), deadline=loop.time() + 60)
            assert not unreachable.value.may_have_acted


async def test_the_deadline_counts_for_a_body_that_is_read_whole() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Content-Length: 500\r\n\r\nhel")
        await peer.gone()

    loop = asyncio.get_running_loop()
    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin), deadline=loop.time() + 0.3)
        with pytest.raises(DeadlineExceeded, match="did not finish its answer in time"):
            await answer.read()
        await until(lambda: server.open == 0)


async def test_a_stream_outlives_the_deadline_of_its_call() -> None:
    deadline_over = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhel")
        await deadline_over.wait()
        await peer.send(b"lo")

    loop = asyncio.get_running_loop()
    async with ScriptedServer.running(script) as server, running_client() as client:
        deadline = loop.time() + 0.3
        pieces = (await client.exchange(server.origin, post(server.origin), deadline=deadline)).chunks()
        assert await anext(pieces) == b"hel"
        loop.call_at(deadline + 0.05, deadline_over.set)
        assert [piece async for piece in pieces] == [b"lo"]


async def test_a_stalled_body_is_given_up_after_the_idle_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhel")
        await peer.gone()

    loop = asyncio.get_running_loop()
    async with ScriptedServer.running(script) as server, running_client(idle_timeout_ms=50) as client:
        answer = await client.exchange(server.origin, post(server.origin), deadline=loop.time() + 60)
        with pytest.raises(UpstreamBroken, match=r"sent nothing for 0\.05 s") as caught:
            [piece async for piece in answer.chunks()]
        assert caught.value.may_have_acted
        await until(lambda: server.open == 0)


async def test_a_body_that_keeps_coming_is_not_idle() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\n")
        for _ in range(12):
            await asyncio.sleep(0.05)  # the pace is what is tested
            await peer.send(b"x")

    async with ScriptedServer.running(script) as server, running_client(idle_timeout_ms=400) as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert b"".join([piece async for piece in answer.chunks()]) == b"x" * 12


async def test_an_answer_nobody_reads_does_not_hold_its_connection_for_ever() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\n" + b"x" * 200_000)
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client(idle_timeout_ms=50) as client:
        answer = await client.exchange(server.origin, post(server.origin))
        await until(lambda: server.open == 0)
        with pytest.raises(UpstreamBroken, match="Nobody read"):
            await answer.read()
