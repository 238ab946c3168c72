"""Blobs through their verbs: stored, fetched, refused, and gone when their time is over."""

import hashlib

import pytest
from stream_verbs import ANN, stream_hub

from meshway.kernel.errors import BlobNotFound, Forbidden, InvalidRequest, PayloadTooLarge
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal

NOBODY = Principal(PrincipalId("none"))


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as opened:
        yield opened


@pytest.mark.parametrize("content", [b"", b"x", b"picture" * 100_000])
async def test_a_blob_is_fetched_as_it_was_stored(hub, content):
    ref = await hub.blob(content)
    assert (ref.sha256, ref.size) == (hashlib.sha256(content).hexdigest(), len(content))
    async with hub.fetch_blob.open(ANN, ref.sha256) as blob:
        assert blob.ref == ref
        assert b"".join([chunk async for chunk in blob.chunks]) == content


async def test_a_blob_goes_when_its_time_is_over_and_storing_it_again_keeps_it(hub):
    ref = await hub.blob(b"x")
    hub.clock.advance(hub.settings.blob_ttl_ms - 1_000)
    await hub.blob(b"x")
    hub.clock.advance(hub.settings.blob_ttl_ms - 1_000)
    assert await hub.content(ref.sha256) == b"x"
    hub.clock.advance(2_000)
    with pytest.raises(BlobNotFound):
        await hub.content(ref.sha256)


@pytest.mark.parametrize("name", ["", "x", "A" * 64, "0" * 63, "../../../etc/passwd", "0" * 64 + "\n"])
async def test_what_is_no_hash_is_refused_by_name(hub, name):
    with pytest.raises(InvalidRequest, match="sha256"):
        hub.fetch_blob.open(ANN, name)


async def test_an_unknown_blob_is_not_found(hub):
    with pytest.raises(BlobNotFound):
        await hub.content("0" * 64)


async def test_a_key_without_the_scope_may_neither_store_nor_fetch(hub):
    with pytest.raises(Forbidden):
        hub.fetch_blob.open(NOBODY, "0" * 64)
    with pytest.raises(Forbidden):
        await hub.store_blob.execute(NOBODY, nothing())


async def test_a_blob_beyond_the_limit_is_refused_while_it_comes_in(hub):
    sent = 0
    chunk = bytes(64 * 1024 * 1024)

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield chunk

    hub.engine.blobs.put = drain
    with pytest.raises(PayloadTooLarge):
        await hub.store_blob.execute(ANN, endless())
    assert sent == 17


async def test_a_sender_that_breaks_off_leaves_nothing(hub):
    async def broken():
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await hub.store_blob.execute(ANN, broken())
    assert await hub.engine.blobs.stat([hashlib.sha256(b"half").hexdigest()]) == [None]


async def drain(chunks, *, ttl_ms=None):
    """A store that keeps nothing: a gigabyte on the disk would make this test slow."""
    async for _ in chunks:
        pass


async def nothing():
    yield b""
