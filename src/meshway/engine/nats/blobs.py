"""Blobs on JetStream: content in chunks, visible through a manifest that is written last (`blob_manifests.py`).

    receive, to know the name -> there for long enough? -> done
                              -> its chunks are?        -> a new manifest
                              -> a new copy of the chunks, then a new manifest
    each manifest by a test-and-set on the one that was seen; where that fails, look again

A put that fails drops its copy. One that dies leaves chunks that go with their time to live, or are swept away.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import msgspec

from meshway.engine.nats.blob_manifests import (
    Current,
    Manifest,
    check_sha256,
    chunk_ttl_s,
    covers,
    is_long_lived,
    new_copy,
    whole_seconds,
)
from meshway.engine.nats.blob_spool import Spool
from meshway.engine.nats.blob_store import BlobStore
from meshway.engine.nats.blob_sweep import BlobSweep
from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import BlobRef
from meshway.kernel.errors import BlobNotFound, EngineUnavailable, MeshwayError, StorageFull, StoreCorrupt

__all__ = ["NatsBlobs"]

# Chunks on their way at once, to or from NATS: 4 MiB for each put and each reader.
_CHUNKS_AT_ONCE = 8
# Puts of this hub that send at once; others wait with what they have received.
_SENDING_MAX = 4
# Half of what a mark rests for, and of the time by which chunks outlive their manifest.
_SENDING_S_MAX = 1_800.0
_TOO_SLOW = "NATS took too long to store a blob; try again"


class NatsBlobs:
    """See `engine.ports.Blobs`. A blob that goes while it is read raises BlobNotFound in its reader."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._store = BlobStore(jetstream, layout, settings)
        self._sweep = BlobSweep(self._store)
        self._sending = asyncio.Semaphore(_SENDING_MAX)

    async def put(self, chunks: AsyncIterator[bytes], *, ttl_ms: int | None = None) -> BlobRef:
        async with Spool() as spool:
            async for chunk in chunks:
                await spool.write(chunk)
            ref = await spool.finish()
            async with self._sending:
                await _Put(self._store, ref, spool, ttl_s=whole_seconds(ttl_ms)).run()
        await self._sweep.run_if_due()
        return ref

    def get(self, sha256: str) -> AbstractAsyncContextManager[AsyncIterator[bytes] | None]:
        check_sha256(sha256)
        return self._get(sha256)

    async def stat(self, sha256: Sequence[str]) -> Sequence[BlobRef | None]:
        for name in sha256:
            check_sha256(name)
        return [
            None if found.manifest is None else BlobRef(sha256=name, size=found.manifest.size)
            for name, found in zip(sha256, await self._store.current(sha256), strict=True)
        ]

    async def delete(self, sha256: Sequence[str]) -> None:
        for name in sha256:
            check_sha256(name)
        left = list(dict.fromkeys(sha256))
        # Copies that no manifest names any more once their blob is gone, by whomever.
        seen: set[tuple[str, str]] = set()
        retries = self._store.retries()
        while left:
            there: list[tuple[str, Current]] = []
            for name, found in zip(left, await self._store.current(left), strict=True):
                if found.manifest is not None:
                    there.append((name, found))
                    seen.add((name, found.manifest.copy))
            with suppress(StorageFull):
                # Deleting makes room, so it must not need any.
                await self._store.mark([(name, copy) for name, found in there if (copy := _kept_for_ever(found))])
            gone = await self._store.forget(there)
            left = [name for (name, _), is_gone in zip(there, gone, strict=True) if not is_gone]
            if left and not await retries.pause():
                raise EngineUnavailable("NATS does not say whether the blobs were deleted; try again")
        for name, copy in seen:
            await self._store.drop_soon(name, copy)

    @asynccontextmanager
    async def _get(self, sha256: str) -> AsyncIterator[AsyncIterator[bytes] | None]:
        (found,) = await self._store.current([sha256])
        yield None if found.manifest is None else self._read(sha256, found.manifest)

    async def _read(self, sha256: str, manifest: Manifest) -> AsyncIterator[bytes]:
        number = 0
        while number < manifest.chunks:
            numbers = range(number, min(number + _CHUNKS_AT_ONCE, manifest.chunks))
            for chunk in await self._store.read_chunks(sha256, manifest.copy, numbers):
                if chunk is None:
                    # The rest of the page is asked for again, of the copy that counts now.
                    manifest = await self._successor(sha256, manifest)
                    break
                number += 1
                yield chunk

    async def _successor(self, sha256: str, manifest: Manifest) -> Manifest:
        """Of a copy that lost a chunk: the same bytes in another one. Raises: BlobNotFound, StoreCorrupt."""
        (found,) = await self._store.current([sha256])
        if found.manifest is None:
            raise BlobNotFound(f"Blob {sha256} was deleted, or its time was over, while it was read.")
        if found.manifest.copy == manifest.copy:
            raise StoreCorrupt(f"Blob {sha256} has lost a part of its content at NATS; delete and store it again.")
        if found.manifest.chunk_bytes != manifest.chunk_bytes:
            raise EngineUnavailable("the blob was stored anew while it was read; read it again")
        return found.manifest


class _Put:
    """One content on its way. `run` once."""

    def __init__(self, store: BlobStore, ref: BlobRef, spool: Spool, *, ttl_s: int | None) -> None:
        self._store = store
        self._ref = ref
        self._spool = spool
        self._ttl_s = ttl_s
        # What we have written; no manifest of ours can name it unless `_is_named_maybe`.
        self._own: Manifest | None = None
        self._is_named_maybe = False

    async def run(self) -> None:
        """Raises: StorageFull, EngineUnavailable."""
        sha256 = self._ref.sha256
        retries = self._store.retries()
        try:
            while True:
                now_ms = await self._store.now_ms()
                (found,) = await self._store.current([sha256])
                if await self._is_done(found, now_ms):
                    return
                if self._own is None and not self._has_chunks(found, now_ms):
                    await self._send(now_ms)
                    retries = self._store.retries()
                if await self._commit(found, now_ms):
                    return
                if not await retries.pause():
                    raise EngineUnavailable("NATS does not say whether the blob was stored; try again")
        finally:
            if self._own is not None and not self._is_named_maybe:
                await self._store.drop_soon(sha256, self._own.copy)

    async def _is_done(self, found: Current, now_ms: int) -> bool:
        """Whether what is there will do, be it ours from a try without an answer or somebody's."""
        own = self._own
        if own is not None and self._is_named_maybe:
            if found.manifest is not None and found.manifest.copy == own.copy:
                await self._store.unmark_soon(self._ref.sha256, own.copy)
                return True
            # It may have counted, and been deleted with its chunks since.
            self._own, self._is_named_maybe = None, False
        return found.manifest is not None and covers(found.manifest.until_ms, self._until_ms(now_ms))

    def _has_chunks(self, found: Current, now_ms: int) -> bool:
        """Whether the chunks that are there live for long enough, with time to say so."""
        if found.manifest is None:
            return False
        until_ms = self._until_ms(now_ms)
        margin_ms = round(_SENDING_S_MAX * 1_000)
        return covers(found.manifest.chunks_until_ms, None if until_ms is None else until_ms + margin_ms)

    def _until_ms(self, now_ms: int) -> int | None:
        return None if self._ttl_s is None else now_ms + self._ttl_s * 1_000

    async def _send(self, now_ms: int) -> None:
        """Write a copy."""
        sha256, size, step = self._ref.sha256, self._ref.size, self._store.chunk_bytes
        ttl_s = chunk_ttl_s(self._ttl_s)
        own = self._own = Manifest(
            size=size,
            chunks=-(-size // step),
            chunk_bytes=step,
            copy=new_copy(),
            until_ms=None,
            chunks_until_ms=None if ttl_s is None else now_ms + ttl_s * 1_000,
        )
        if is_long_lived(ttl_s) and own.chunks:
            await self._store.mark([(sha256, own.copy)])
        try:
            async with asyncio.timeout(_SENDING_S_MAX):
                for first in range(0, own.chunks, _CHUNKS_AT_ONCE):
                    window = await self._spool.read(first * step, _CHUNKS_AT_ONCE * step)
                    pieces = [window[offset : offset + step] for offset in range(0, len(window), step)]
                    await self._store.write_chunks(sha256, own.copy, pieces, first=first, ttl_s=ttl_s)
        except TimeoutError:
            raise EngineUnavailable(_TOO_SLOW) from None

    async def _commit(self, found: Current, now_ms: int) -> bool:
        """Whether ours counts now; else look again."""
        sha256, own = self._ref.sha256, self._own
        copy = own or found.manifest
        if copy is None:
            return False
        if own is not None and (old := _kept_for_ever(found)):
            await self._store.mark([(sha256, old)])
        manifest = msgspec.structs.replace(copy, until_ms=self._until_ms(now_ms))
        # From here on it may count, also where we are interrupted.
        self._is_named_maybe = own is not None
        try:
            outcome = await self._store.commit(sha256, manifest, ttl_s=self._ttl_s, expected=found.seq)
        except MeshwayError:
            self._is_named_maybe = False
            raise
        if isinstance(outcome, Unanswered):
            self._is_named_maybe = own is not None and not outcome.nothing_happened
            return False
        if not outcome:
            self._is_named_maybe = False
            return False
        if own is not None:
            await self._store.unmark_soon(sha256, own.copy)
            if found.manifest is not None:
                await self._store.drop_soon(sha256, found.manifest.copy)
        return True


def _kept_for_ever(found: Current) -> str | None:
    """The copy that would stay if it were forgotten."""
    manifest = found.manifest
    return manifest.copy if manifest is not None and manifest.chunks_until_ms is None else None
