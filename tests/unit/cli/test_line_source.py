"""Lines read ahead: numbers, ends, bounds, and sources that stall."""

import asyncio
import io
import os
import random

import pytest

from meshway.cli import line_source
from meshway.cli.line_source import LineSource, LineTooLong


async def all_lines(source: LineSource, *, count_max: int = 1_000, bytes_max: int = 1 << 20):
    source.start()
    taken = []
    while batch := await source.take(count_max=count_max, bytes_max=bytes_max):
        taken += batch
    return taken


async def test_lines_have_their_number_and_where_they_end():
    lines = await all_lines(LineSource(io.BytesIO(b"one\n\ntwo\r\n  \nthree")))
    assert [(each.number, each.content, each.end) for each in lines] == [
        (1, b"one", 4),
        (3, b"two", 10),
        (5, b"three", 18),
    ]


async def test_skipped_lines_are_counted():
    lines = await all_lines(LineSource(io.BytesIO(b"a\nb\nc\nd\n"), skip=2))
    assert [(each.number, each.content) for each in lines] == [(3, b"c"), (4, b"d")]


async def test_nothing_to_read_is_an_empty_batch():
    assert await all_lines(LineSource(io.BytesIO(b""))) == []
    assert await all_lines(LineSource(io.BytesIO(b"a\n"), skip=5)) == []


async def test_batches_keep_to_their_bounds_and_a_larger_line_travels_alone():
    source = LineSource(io.BytesIO(b"aaaa\nbbbb\n" + b"c" * 50 + b"\nd\n"))
    source.start()
    sizes = []
    while batch := await source.take(count_max=10, bytes_max=10):
        sizes.append([len(each.content) for each in batch])
    assert sizes == [[4, 4], [50], [1]]


async def test_any_division_into_reads_gives_the_same_lines():
    chance = random.Random(7)
    content = b"".join(bytes(chance.choices(b"ab\n\r ", k=9)) + b"\n" for _ in range(300))

    class Chopped(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = content

        def read1(self, _size: int) -> bytes:
            length = chance.randint(1, 12)
            block, self.rest = self.rest[:length], self.rest[length:]
            return block

    whole = await all_lines(LineSource(io.BytesIO(content)))
    chopped = await all_lines(LineSource(Chopped()))
    assert chopped == whole
    assert whole


async def test_what_a_slow_pipe_has_is_handed_on_at_once():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb", buffering=0) as writer:
        source = LineSource(reader)
        source.start()
        writer.write(b"first\nhalf")
        async with asyncio.timeout(5):
            (line,) = await source.take(count_max=10, bytes_max=100)
            assert line.content == b"first"
            writer.write(b" a line\n")
            (line,) = await source.take(count_max=10, bytes_max=100)
            assert line.content == b"half a line"


async def test_reading_ahead_is_bounded(monkeypatch):
    monkeypatch.setattr(line_source, "_AHEAD_BYTES_MAX", 1_000)
    monkeypatch.setattr(line_source, "_BLOCK_BYTES", 100)
    stream = io.BytesIO(b"123456789\n" * 10_000)
    source = LineSource(stream)
    source.start()
    assert await source.take(count_max=1, bytes_max=1_000)
    assert stream.tell() <= 2_000
    rest = 1
    while batch := await source.take(count_max=500, bytes_max=10_000):
        rest += len(batch)
    assert rest == 10_000


async def test_a_line_without_end_is_refused_with_its_number(monkeypatch):
    monkeypatch.setattr(line_source, "LINE_BYTES_MAX", 1_000)
    monkeypatch.setattr(line_source, "_BLOCK_BYTES", 100)
    source = LineSource(io.BytesIO(b"ok\n" + b"x" * 5_000))
    source.start()
    assert [each.content for each in await source.take(count_max=9, bytes_max=99)] == [b"ok"]
    with pytest.raises(LineTooLong) as refused:
        await source.take(count_max=9, bytes_max=99)
    assert refused.value.number == 2


async def test_a_failing_read_is_raised_after_the_lines_before_it():
    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            if block := super().read1(size):
                return block
            raise OSError(5, "Input/output error")

    source = LineSource(Failing(b"one\n"))
    source.start()
    assert [each.content for each in await source.take(count_max=9, bytes_max=99)] == [b"one"]
    with pytest.raises(OSError, match="Input/output"):
        await source.take(count_max=9, bytes_max=99)
