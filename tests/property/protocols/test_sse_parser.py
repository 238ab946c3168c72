"""The parser of server-sent events against a straightforward reading of the standard."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshway.protocols.sse import KEEP_ALIVE, SseOverflow, SseParser, frame

LINES = st.sampled_from(
    [
        b"",
        b"",
        b"data: a",
        b"data:b",
        b"data",
        b"data:  c",
        b"id: 7",
        b"id",
        b"id: \0",
        b"event: x",
        b"event:",
        b": comment",
        b"retry: 5",
        b"other: x",
        b"data: \xc3\xbc:",
        b"datax: 1",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def reference(stream: bytes) -> list[tuple[bytes, bytes, bytes | None]]:
    """WHATWG HTML, section 9.2.6, word for word (ids per event)."""
    events = []
    data: list[bytes] = []
    name, event_id = b"", None
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines[:-1]:
        if not line:
            if data:
                events.append((name, b"\n".join(data), event_id))
            data, name, event_id = [], b"", None
            continue
        if line.startswith(b":"):
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            event_id = value
    return events


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(marks)]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(LINES, ENDS), max_size=14), st.booleans(), st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_cut_anywhere_gives_the_events_of_the_standard(lines, mark, cuts):
    stream = (b"\xef\xbb\xbf" if mark else b"") + b"".join(line + end for line, end in lines)
    parser = SseParser()
    events = [event for piece in pieces(stream, cuts) for event in parser.feed(piece)]
    assert [(event.event, event.data, event.id) for event in events] == reference(stream)
    again = SseParser()
    assert [e[1:] for event in events for e in again.feed(event.raw)] == [event[1:] for event in events]


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=40).filter(lambda data: b"\0" not in data),
    st.sampled_from([None, b"1", b"a:b"]),
    st.sampled_from([None, b"error"]),
)
def test_what_is_framed_is_read_back(data, event_id, name):
    [event] = SseParser().feed(frame(data, event_id, name))
    assert event.data == re.sub(rb"\r\n|\r", b"\n", data)
    assert (event.id, event.event) == (event_id, name or b"")


def test_a_keep_alive_is_no_event():
    parser = SseParser()
    assert parser.feed(KEEP_ALIVE) == []
    assert len(parser.feed(KEEP_ALIVE + frame(b"x") + KEEP_ALIVE)) == 1
    assert parser.finish() is None


def test_an_event_may_be_as_long_as_the_limit_and_no_longer():
    whole = frame(b"x" * 92)
    assert len(whole) == 100
    assert len(SseParser(event_bytes_max=100).feed(whole)) == 1
    assert sum(len(SseParser(event_bytes_max=100).feed(whole * 5)) for _ in range(2)) == 10
    with pytest.raises(SseOverflow):
        SseParser(event_bytes_max=99).feed(whole)
    parser = SseParser(event_bytes_max=100)
    for _ in range(100):
        parser.feed(b"x")
    with pytest.raises(SseOverflow):
        parser.feed(b"x")


def test_a_long_event_in_many_pieces_is_read_in_linear_time():
    parser = SseParser()
    events = parser.feed(b"data: ")
    for _ in range(4_000):
        events += parser.feed(b"x" * 1_000)
    events += parser.feed(b"\n\n")
    assert [len(event.data) for event in events] == [4_000_000]
