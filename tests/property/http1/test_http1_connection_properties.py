"""Whatever the sockets do and however the bytes are cut: the same answers, and only the allowed moves."""

import asyncio
from collections.abc import Coroutine, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshway.kernel.errors import MeshwayError
from meshway.upstreams.http1 import Http1Response, Http1Settings, Origin, encode_request
from meshway.upstreams.http1.connection import Connection, ConnectionBounds
from meshway.upstreams.http1.states import MOVES, ConnectionState

ORIGIN = Origin(scheme="http", host="agent.example", port=80)
BOUNDS = ConnectionBounds.of(Http1Settings(unread_bytes_max=16))
REQUEST = b"POST / HTTP/1.1\r\nhost: agent.example\r\ncontent-length: 0\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Sends nowhere, and says once that it is gone when it is aborted."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written: list[bytes] = []
        self.reading = True
        self.closing = False
        self.unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class FakeOwner:
    """A pool that keeps everything and counts what it is told."""

    def __init__(self) -> None:
        self.idle: set[Connection] = set()
        self.opened_count = self.dropped = self.lost_count = 0

    def opened(self, connection: Connection) -> None:
        self.opened_count += 1

    def keep(self, connection: Connection) -> bool:
        self.idle.add(connection)
        return True

    def drop(self, connection: Connection) -> None:
        self.idle.discard(connection)
        self.dropped += 1

    def lost(self, connection: Connection) -> None:
        self.lost_count += 1


class WatchedConnection(Connection):
    """Checks each move of the state against the table."""

    __slots__ = ("moves",)

    @property
    def _state(self) -> ConnectionState:
        return Connection._state.__get__(self)  # type: ignore[attr-defined]  # the slot beneath

    @_state.setter
    def _state(self, state: ConnectionState) -> None:
        try:
            before = Connection._state.__get__(self)  # type: ignore[attr-defined]  # the slot beneath
        except AttributeError:
            assert state is ConnectionState.NEW
        else:
            assert state in MOVES[before], f"{before} -> {state}"
        Connection._state.__set__(self, state)  # type: ignore[attr-defined]  # the slot beneath


def run_at_once(coroutine: Coroutine[object, object, bytes]) -> bytes:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    coroutine.close()
    raise AssertionError("it suspended")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def chunked(pieces: list[bytes], extension: bytes, trailer: bytes) -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nX-A:  b \r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


@given(
    pieces=PIECES,
    extension=st.sampled_from([b"", b";a", b';a="b c"']),
    trailer=st.sampled_from([b"", b"X-Sum: 1\r\n"]),
    interim=st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"]),
    cuts=st.lists(st.integers(0, 600), max_size=12) | st.just(list(range(600))),
    framed=st.sampled_from(["chunked", "length"]),
)
def test_an_answer_cut_anywhere_is_the_same_answer(
    loop: asyncio.AbstractEventLoop,
    pieces: list[bytes],
    extension: bytes,
    trailer: bytes,
    interim: bytes,
    cuts: list[int],
    framed: str,
) -> None:
    body = b"".join(pieces)
    if framed == "chunked":
        wire = interim + chunked(pieces, extension, trailer)
    else:
        wire = interim + b"HTTP/1.1 200 OK\r\nX-A:  b \r\nContent-Length: %d\r\n\r\n" % len(body) + body
    owner = FakeOwner()
    connection = WatchedConnection(owner, ORIGIN, BOUNDS, loop)
    transport = FakeTransport(connection)
    connection.connection_made(transport)
    for _ in range(2):  # the second answer shows that nothing of the first is left
        answer = connection.send(REQUEST, loop.time(), None, method=b"POST")
        at = 0
        for cut in [*sorted(set(cuts)), len(wire)]:
            if at < cut <= len(wire):
                connection.data_received(wire[at:cut])
                at = cut
        response = answer.result()
        assert response.complete
        assert run_at_once(response.read()) == body
        assert response.header(b"x-a") == b"b"
        assert len(response.headers) == 2
        assert connection.state is ConnectionState.READY
        assert transport.reading
        assert owner.idle == {connection}
    connection.shut(MeshwayError("done"))


@given(garbage=st.binary(min_size=1, max_size=200))
def test_no_bytes_make_the_parser_fail_in_another_way_than_it_should(
    loop: asyncio.AbstractEventLoop, garbage: bytes
) -> None:
    for before in (
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
    ):
        connection = WatchedConnection(FakeOwner(), ORIGIN, BOUNDS, loop)
        connection.connection_made(FakeTransport(connection))
        answer = connection.send(REQUEST, loop.time(), None, method=b"POST")
        connection.data_received(before + garbage)
        connection.connection_lost(None)
        assert connection.state is ConnectionState.CLOSED
        assert answer.done()
        if (error := answer.exception()) is not None:
            assert isinstance(error, MeshwayError)


@given(
    headers=st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=8),
            st.binary(max_size=16),
        ),
        max_size=4,
    ),
    body=st.binary(max_size=20),
)
def test_what_is_encoded_has_exactly_the_headers_given(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    try:
        wire = encode_request(b"POST", b"/", b"agent.example", headers, body)
    except MeshwayError:
        return
    head, _, rest = wire.partition(b"\r\n\r\n")
    assert rest == body
    lines = head.split(b"\r\n")
    assert lines[2:-1] == [name + b": " + value for name, value in headers]
    assert b"\r" not in head.replace(b"\r\n", b"")
    assert b"\n" not in head.replace(b"\r\n", b"")


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n20\r\n" + b"x" * 32 + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    b"nonsense",
]


class ConnectionLife(RuleBasedStateMachine):
    """Random callers, servers and clocks on one connection. `WatchedConnection` checks the moves."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.open()

    def open(self) -> None:
        self.owner = FakeOwner()
        self.connection = WatchedConnection(self.owner, ORIGIN, BOUNDS, self.loop)
        self.transport = FakeTransport(self.connection)
        self.answer: asyncio.Future[Http1Response] | None = None
        self.sending = b""
        self.is_lost = False
        self.connection.connection_made(self.transport)

    @precondition(lambda self: self.connection.state is ConnectionState.CLOSED)
    @rule()
    def open_another(self) -> None:
        self.forget_answer()
        self.open()

    @precondition(lambda self: self.connection.state is ConnectionState.READY and not self.sending)
    @rule(
        wire=st.sampled_from(ANSWERS),
        method=st.sampled_from([b"POST", b"POST", b"POST", b"HEAD"]),
        unsent=st.sampled_from([0, 0, 0, 10]),
        arrives=st.integers(0, 150),
    )
    def call(self, wire: bytes, method: bytes, unsent: int, arrives: int) -> None:
        self.owner.idle.discard(self.connection)
        self.transport.unsent = unsent
        self.answer = self.connection.send(REQUEST, self.loop.time(), None, method=method)
        self.sending = wire
        self.receive_piece(arrives)
        if unsent:
            assert self.connection not in self.owner.idle

    @precondition(lambda self: self.sending and not self.transport.closing)
    @rule(count=st.integers(1, 60))
    def receive(self, count: int) -> None:
        self.receive_piece(count)

    def receive_piece(self, count: int) -> None:
        if count and self.transport.reading:
            piece, self.sending = self.sending[:count], self.sending[count:]
            self.connection.data_received(piece)

    @precondition(lambda self: not self.is_lost and self.answer is not None)
    @rule()
    def receive_end(self) -> None:
        self.connection.eof_received()
        assert self.connection not in self.owner.idle

    @precondition(lambda self: not self.is_lost and self.answer is not None)
    @rule()
    def lose(self) -> None:
        self.is_lost = True
        self.sending = b""
        self.connection.connection_lost(OSError("gone"))

    @precondition(lambda self: self.answer is not None)
    @rule()
    def cancel_the_wait(self) -> None:
        """What `Task.cancel` does at once; the task itself runs later, in `cancel`."""
        assert self.answer is not None
        self.answer.cancel()

    @precondition(lambda self: self.answer is not None)
    @rule()
    def cancel(self) -> None:
        assert self.answer is not None
        self.answer.cancel()
        self.connection.cancel(self.answer)
        assert self.connection.state in {ConnectionState.READY, ConnectionState.CLOSED}

    @precondition(lambda self: self.answer is not None and self.answer.done())
    @rule()
    def close_answer(self) -> None:
        assert self.answer is not None
        if not self.answer.cancelled() and self.answer.exception() is None:
            self.answer.result().close()

    @precondition(lambda self: self.answer is not None and self.answer.done())
    @rule()
    def ask_for_more(self) -> None:
        assert self.answer is not None
        if not self.answer.cancelled() and self.answer.exception() is None:
            self.connection.resume() if not self.transport.closing else None

    @precondition(lambda self: self.answer is not None)
    @rule()
    def ring(self) -> None:
        """The alarm goes off long after everything was due."""
        if self.connection._alarm is not None:
            self.connection._due = 0.0
            self.connection._alarm.cancel()
            self.connection._ring()

    @invariant()
    def an_idle_connection_is_ready_and_listens(self) -> None:
        for connection in self.owner.idle:
            assert connection.state is ConnectionState.READY
            assert self.transport.reading
            assert not self.transport.closing

    @invariant()
    def a_closed_connection_lets_go_of_everything(self) -> None:
        if self.connection.state is ConnectionState.CLOSED:
            assert self.answer is None or self.answer.done()
            assert self.connection._alarm is None
            assert self.connection._parser is None
            assert self.transport.closing or self.is_lost
            assert self.owner.dropped == 1

    @invariant()
    def losses_are_told_once(self) -> None:
        assert self.owner.lost_count == int(self.is_lost)

    def teardown(self) -> None:
        self.connection.shut(MeshwayError("done"))
        self.forget_answer()
        self.loop.close()

    def forget_answer(self) -> None:
        """Without this the loop complains about an error that nobody looked at."""
        if self.answer is not None and not self.answer.cancelled():
            self.answer.exception()


TestConnectionLife = ConnectionLife.TestCase
TestConnectionLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("arrived", "state"), [(45, ConnectionState.CLOSED), (1_000, ConnectionState.READY)])
def test_an_answer_to_a_caller_just_cancelled_goes_nowhere(
    loop: asyncio.AbstractEventLoop, arrived: int, state: ConnectionState
) -> None:
    """Before the cancelled task runs again: a part closes the connection, a whole answer may leave it open."""
    owner = FakeOwner()
    connection = WatchedConnection(owner, ORIGIN, BOUNDS, loop)
    connection.connection_made(FakeTransport(connection))
    answer = connection.send(REQUEST, loop.time(), None, method=b"POST")
    answer.cancel()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789"[:arrived])
    connection.cancel(answer)
    assert connection.state is state
    assert (connection in owner.idle) is (state is ConnectionState.READY)
    connection.shut(MeshwayError("done"))


def test_the_table_of_moves_knows_every_state_and_ends_in_closed() -> None:
    assert set(MOVES) == set(ConnectionState)
    assert all(
        ConnectionState.CLOSED in MOVES[state] for state in ConnectionState if state is not ConnectionState.CLOSED
    )
    assert MOVES[ConnectionState.CLOSED] == frozenset()
