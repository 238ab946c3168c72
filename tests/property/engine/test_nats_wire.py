"""What a server sends is read the same however the network cuts it into pieces."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from meshway.engine.nats.wire import Incoming, IncomingParser, headers_of

_DIRECT, _LIBRARY = b"1", b"22"

_names = st.text("abcXYZ-", min_size=1, max_size=8)
_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
_messages = st.lists(
    st.tuples(
        st.sampled_from([_DIRECT, _LIBRARY]),
        st.sampled_from([b"", b"_INBOX.a.1"]),
        st.dictionaries(_names, _values, max_size=4),
        st.sampled_from(["", "503", "100 Idle Heartbeat"]),
        st.binary(max_size=60) | st.just(b"MSG x 1 4\r\nPING\r\n"),
    ),
    max_size=8,
)


class Client:
    """The library, as far as the parser asks it."""

    is_connected = True

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.parser = IncomingParser(self)  # type: ignore[arg-type]
        self.parser.direct[_DIRECT] = self.hear

    def hear(self, message: Incoming) -> None:
        self.heard.append(("direct", message.subject, message.reply, message.headers, message.data))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard.append(("library", subject.decode(), reply.decode(), headers_of(headers), data))

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_info(self, said: dict[str, object]) -> None:
        self.heard.append(("info", said["max_payload"]))


def _wire(sid: bytes, reply: bytes, headers: dict[str, str], status: str, data: bytes) -> bytes:
    between = b" " + reply if reply else b""
    if not headers and not status:
        return b"MSG a.b %b%b %d\r\n%b\r\n" % (sid, between, len(data), data)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    block = f"NATS/1.0{' ' + status if status else ''}\r\n{lines}\r\n".encode()
    return b"HMSG a.b %b%b %d %d\r\n%b%b\r\n" % (sid, between, len(block), len(block) + len(data), block, data)


def _read(pieces: Sequence[bytes]) -> list[tuple[object, ...]]:
    client = Client()

    async def read() -> None:
        for piece in pieces:
            await client.parser.parse(piece)

    asyncio.run(read())
    return client.heard


@given(_messages, st.lists(st.integers(0, 400), max_size=12))
def test_messages_arrive_whole_in_order_and_at_whom_they_are_for(messages, cuts) -> None:
    expected: list[tuple[object, ...]] = []
    text = b""
    for sid, reply, headers, status, data in messages:
        text += _wire(sid, reply, headers, status, data)
        code, _, why = status.partition(" ")
        said = {**headers, **({"Status": code} if code else {}), **({"Description": why} if why else {})}
        expected.append(("direct" if sid == _DIRECT else "library", "a.b", reply.decode(), said, data))
        text += b'PING\r\n+OK\r\nINFO {"max_payload": 5}\r\n'
        expected += [("ping",), ("info", 5)]
    places = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert _read(pieces) == expected


def test_a_large_message_is_put_together_once() -> None:
    """Not anew with every piece: that would take a minute for this one."""
    data = b"x" * (64 << 20)
    text = b"MSG a.b 1 %d\r\n%b\r\n" % (len(data), data)
    pieces = [text[begin : begin + 32_768] for begin in range(0, len(text), 32_768)]
    (heard,) = _read(pieces)
    assert heard[-1] == data


def test_what_a_listener_raises_does_not_end_the_reading() -> None:
    client = Client()
    calls = []

    def hear(message: Incoming) -> None:
        calls.append(message.data)
        raise ValueError("a fault of ours")

    client.parser.direct[_DIRECT] = hear
    asyncio.run(client.parser.parse(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\n"))
    assert calls == [b"x", b"y"]


def test_nothing_of_a_connection_is_read_after_it_was_given_up() -> None:
    client = Client()
    calls = []

    def hear(message: Incoming) -> None:
        calls.append(message.data)
        client.parser.reset()

    client.parser.direct[_DIRECT] = hear
    asyncio.run(client.parser.parse(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\nMSG a 1 5\r\nhal"))
    asyncio.run(client.parser.parse(b"MSG a 1 1\r\nz\r\n"))
    assert calls == [b"x", b"z"]


def test_what_was_on_its_way_when_the_connection_was_given_up_is_not_read() -> None:
    """It may be the second half of a message: what somebody wrote into that would be taken for what a server says."""
    client = Client()
    asyncio.run(client.parser.parse(b"MSG a 22 40\r\nhalf"))
    client.parser.reset()
    client.is_connected = False
    asyncio.run(client.parser.parse(b"MSG b 1 6\r\nFORGED\r\nMSG a 1 900000\r\n"))
    client.is_connected = True
    asyncio.run(client.parser.parse(b"MSG a 1 1\r\nx\r\n"))
    assert [each[-1] for each in client.heard] == [b"x"]


@pytest.mark.parametrize("subject", [b"mw.bus.\xff", b"mw.bus.a\x0cb"])
def test_an_odd_subject_costs_its_own_message_at_most(subject: bytes) -> None:
    heard = _read([b"MSG %b 1 1\r\nx\r\nMSG a 1 1\r\ny\r\n" % subject])
    assert heard[-1][-1] == b"y"


@pytest.mark.parametrize("text", [b"NONSENSE\r\n", b"M" * 70_000])
def test_what_no_server_sends_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        asyncio.run(Client().parser.parse(text))


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", {}),
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0\r\nA: 1\r\nB:  2 \r\n\r\n", {"A": "1", "B": " 2 "}),
        (b"NATS/1.0\r\nA:1\r\nno header\r\nB: x: y\r\n\r\n", {"A": "1", "no header": "", "B": "x: y"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 409 Consumer Deleted\r\nX: 1\r\n\r\n",
            {"Status": "409", "Description": "Consumer Deleted", "X": "1"},
        ),
    ],
)
def test_headers_are_read_as_they_are_written_and_a_status_is_one_of_them(
    block: bytes, headers: dict[str, str]
) -> None:
    assert headers_of(block) == headers
