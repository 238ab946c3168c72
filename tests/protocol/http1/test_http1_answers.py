"""Answers of every legal shape, and what the next request on the same connection sees."""

import asyncio

import pytest
from scripted_server import OK_HELLO, CountingMetrics, Peer, ScriptedServer, post, running_client, until

from meshway.upstreams.http1 import Origin, encode_request


async def test_calls_in_a_row_share_one_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        for _ in range(5):
            answer = await client.exchange(server.origin, post(server.origin))
            assert answer.complete
            assert (answer.status, await answer.read()) == (200, b"hello")
        assert server.accepted == 1
        assert (metrics.idle, metrics.busy) == (1, 0)
        assert metrics.counters["meshway_upstream_connects_total"].values == {("connected",): 1}


async def test_the_request_arrives_byte_for_byte_also_when_given_in_pieces() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.answer())

    async with ScriptedServer.running(script) as server, running_client() as client:
        wire = post(server.origin, b"x" * 300_000)
        await (await client.exchange(server.origin, wire)).read()
        await (await client.exchange(server.origin, [wire[:100], wire[100:5000], wire[5000:]])).read()
    assert seen == [wire, wire]


async def test_a_body_that_came_with_the_head_is_read_without_suspending() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        reading = answer.read()
        with pytest.raises(StopIteration) as stopped:
            reading.send(None)
        assert stopped.value.value == b"hello"
        assert await answer.read() == b"hello"


async def test_header_names_are_lower_case_and_values_trimmed_and_repeated_ones_kept() -> None:
    lines = (
        b"HTTP/1.1 200 OK",
        b"X-One: \t a b \t ",
        b"SET-COOKIE: a",
        b"Set-Cookie: b",
        b"X-Empty:",
        b"Content-Length: 0",
    )
    head = b"\r\n".join(lines) + b"\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.answer(head)

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
    assert answer.headers == [
        (b"x-one", b"a b"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"x-empty", b""),
        (b"content-length", b"0"),
    ]
    assert answer.header(b"set-cookie") == b"a"
    assert answer.header(b"x-none") is None


REUSED = [
    pytest.param(OK_HELLO, b"hello", id="content-length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello", id="chunked"
    ),
    pytest.param(
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED \r\n\r\n5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n',
        b"hello",
        id="chunk extensions",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"hello",
        id="trailers",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
    pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", id="304 with the length of another"),
    pytest.param(b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", b"", id="no reason phrase"),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="1.0 kept"
    ),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK_HELLO, b"hello", id="100 before it"),
    pytest.param(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK_HELLO,
        b"hello",
        id="103, 102",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        id="h2c offer",
    ),
    pytest.param(b"\r\n" + OK_HELLO, b"hello", id="an empty line too many before it"),
]


@pytest.mark.parametrize(("answer", "body"), REUSED)
async def test_after_a_whole_answer_the_connection_is_used_again(answer: bytes, body: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(answer)

    async with ScriptedServer.running(script) as server, running_client() as client:
        first = await client.exchange(server.origin, post(server.origin))
        assert await first.read() == body
        await until(lambda: first.complete)
        second = await client.exchange(server.origin, post(server.origin))
        assert await second.read() == body
        assert second.headers == first.headers
        assert server.accepted == 1


NOT_REUSED = [
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n",
        b"hello",
        id="framing in a trailer",
    ),
    pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="close"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="1.0"),
    pytest.param(OK_HELLO + b"garbage", b"hello", id="trailing garbage"),
    pytest.param(OK_HELLO + b"HTTP/1.", b"hello", id="the beginning of another answer"),
    pytest.param(OK_HELLO + OK_HELLO.replace(b"hello", b"wrong"), b"hello", id="pipelined answer"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello" + OK_HELLO,
        b"hello",
        id="close and more",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", b"", id="204 with a body"),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", id="1.0 chunked"
    ),
]


@pytest.mark.parametrize(("answer", "body"), NOT_REUSED)
async def test_a_connection_that_cannot_be_trusted_is_closed_after_its_answer(answer: bytes, body: bytes) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(answer)
        await peer.gone()
        closed.set()

    metrics = CountingMetrics()
    async with ScriptedServer.running(script) as server, running_client(metrics=metrics) as client:
        first = await client.exchange(server.origin, post(server.origin))
        assert await first.read() == body
        await asyncio.wait_for(closed.wait(), 5)
        assert await (await client.exchange(server.origin, post(server.origin))).read() == body
        assert server.accepted == 2
        assert metrics.idle == 0


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await peer.send(b"lo")

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert await answer.read() == b"hello"
        again = await client.exchange(server.origin, post(server.origin))
        assert b"".join([piece async for piece in again.chunks()]) == b"hello"
        assert server.accepted == 2


async def test_a_half_closed_connection_still_gives_its_body() -> None:
    """The server ends its side and goes on reading: the body ends, and so does our side."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        peer.half_close()
        await peer.gone()
        gone.set()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert await answer.read() == b"hello"
        await asyncio.wait_for(gone.wait(), 5)


async def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        await peer.gone()

    async with ScriptedServer.running(script) as server, running_client() as client:
        wire = post(server.origin, b"", method=b"HEAD")
        answer = await client.exchange(server.origin, wire, method=b"HEAD")
        assert answer.complete
        assert await answer.read() == b""
        assert answer.header(b"content-length") == b"500"
        assert (await client.exchange(server.origin, wire, method=b"HEAD")).status == 200


async def test_redirects_are_answers_like_others() -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert (answer.status, answer.header(b"location")) == (307, b"http://127.0.0.1:1/")
        assert server.accepted == 1


async def test_an_answer_before_the_request_is_fully_sent_is_given_and_the_connection_closed() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        with_rest = 0
        while piece := await peer.reader.read(65536):
            with_rest += len(piece)
        assert with_rest < 30_000_000
        gone.set()

    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script, receive_buffer=16_384) as server,
        running_client(metrics=metrics) as client,
    ):
        answer = await client.exchange(server.origin, post(server.origin, b"x" * 30_000_000))
        assert (answer.status, await answer.read()) == (413, b"large")
        assert metrics.idle == 0
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_streamed_answer_is_handed_on_piece_by_piece() -> None:
    next_piece = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            await next_piece.wait()
            next_piece.clear()
            await peer.send(b"9\r\ndata: %d\n\n\r\n" % number)
        await peer.send(b"0\r\n\r\n")
        await peer.answer()

    async with ScriptedServer.running(script) as server, running_client() as client:
        answer = await client.exchange(server.origin, post(server.origin))
        assert (answer.status, answer.complete) == (200, False)
        next_piece.set()
        seen = []
        async for piece in answer.chunks():
            seen.append(piece)
            next_piece.set()
        assert seen == [b"data: %d\n\n" % number for number in range(5)]
        assert answer.complete
        assert await (await client.exchange(server.origin, post(server.origin))).read() == b"hello"
        assert server.accepted == 1


async def test_two_thousand_calls_at_once_all_get_their_own_answer() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            body = request.split(b"\r\n\r\n")[1]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def call(number: int, origin: Origin) -> None:
        body = b"%d" % number
        answer = await client.exchange(origin, encode_request(b"POST", b"/", origin.host_header, [], body))
        assert await answer.read() == body

    metrics = CountingMetrics()
    async with (
        ScriptedServer.running(script) as server,
        running_client(metrics=metrics, connect_timeout_ms=20_000) as client,
    ):
        async with asyncio.TaskGroup() as group:
            for number in range(2_000):
                group.create_task(call(number, server.origin))
        assert metrics.busy == 0
        assert metrics.idle <= 1_024
