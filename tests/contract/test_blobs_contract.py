"""What every Blobs keeps."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from meshway.engine.ports import BlobRef, Engine
from meshway.kernel.errors import InvalidRequest


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _read(engine: Engine, sha256: str) -> bytes | None:
    async with engine.blobs.get(sha256) as chunks:
        if chunks is None:
            return None
        received = [chunk async for chunk in chunks]
    assert all(0 < len(chunk) <= 512 * 1024 for chunk in received)
    return b"".join(received)


@pytest.mark.parametrize("chunks", [(), (b"",), (b"abc", b"", b"def"), (b"x" * 700_000, b"y" * 1_300_001)])
async def test_a_blob_is_named_by_its_content_and_comes_back_whole(engine: Engine, chunks: tuple[bytes, ...]) -> None:
    content = b"".join(chunks)
    ref = await engine.blobs.put(_chunks(*chunks))
    assert ref == BlobRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    assert await _read(engine, ref.sha256) == content
    assert list(await engine.blobs.stat([ref.sha256, "0" * 64])) == [ref, None]


async def test_what_is_not_there_is_none_and_deleting_it_is_no_error(engine: Engine) -> None:
    assert await _read(engine, "0" * 64) is None
    await engine.blobs.delete(["0" * 64])


async def test_a_deleted_blob_is_gone_and_can_be_stored_again(engine: Engine) -> None:
    ref = await engine.blobs.put(_chunks(b"content"))
    await engine.blobs.delete([ref.sha256])
    assert await _read(engine, ref.sha256) is None
    assert list(await engine.blobs.stat([ref.sha256])) == [None]
    assert await engine.blobs.put(_chunks(b"con", b"tent")) == ref
    assert await _read(engine, ref.sha256) == b"content"


async def test_nothing_is_visible_before_the_whole_was_written(engine: Engine) -> None:
    ref = BlobRef(sha256=hashlib.sha256(b"onetwo").hexdigest(), size=6)
    first_sent, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        first_sent.set()
        await go_on.wait()
        yield b"two"

    async with asyncio.TaskGroup() as group:
        putting = group.create_task(engine.blobs.put(slow()))
        await first_sent.wait()
        assert list(await engine.blobs.stat([ref.sha256])) == [None]
        go_on.set()
    assert putting.result() == ref


async def test_a_sender_that_fails_leaves_nothing(engine: Engine) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await engine.blobs.put(failing())
    assert list(await engine.blobs.stat([hashlib.sha256(b"half").hexdigest()])) == [None]


async def test_the_longer_time_to_live_of_two_stores_holds(engine: Engine, wait_until) -> None:
    short = await engine.blobs.put(_chunks(b"short"), ttl_ms=500)
    for order in (b"long then short", b"short then long"):
        first, second = (60_000, 500) if order.startswith(b"long") else (500, 60_000)
        await engine.blobs.put(_chunks(order), ttl_ms=first)
        await engine.blobs.put(_chunks(order), ttl_ms=second)
    await engine.blobs.put(_chunks(b"for ever"))
    await engine.blobs.put(_chunks(b"for ever"), ttl_ms=500)

    async def is_gone() -> bool:
        return list(await engine.blobs.stat([short.sha256])) == [None]

    await wait_until(is_gone)
    assert await _read(engine, short.sha256) is None
    for content in (b"long then short", b"short then long", b"for ever"):
        assert await _read(engine, hashlib.sha256(content).hexdigest()) == content


async def test_concurrent_stores_and_deletes_of_one_content_end_consistent(engine: Engine) -> None:
    sha256 = hashlib.sha256(b"contested").hexdigest()
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            if number % 3 == 2:
                group.create_task(engine.blobs.delete([sha256]))
            else:
                group.create_task(engine.blobs.put(_chunks(b"contested")))
    (ref,) = await engine.blobs.stat([sha256])
    assert await _read(engine, sha256) == (None if ref is None else b"contested")
    await engine.blobs.put(_chunks(b"contested"))
    assert await _read(engine, sha256) == b"contested"


@pytest.mark.parametrize("sha256", ["", "../../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
async def test_a_name_that_is_no_digest_is_refused(engine: Engine, sha256: str) -> None:
    with pytest.raises(InvalidRequest):
        await engine.blobs.stat([sha256])
    with pytest.raises(InvalidRequest):
        async with engine.blobs.get(sha256):
            raise AssertionError("entered")
