"""Blobs as files: `blobs/ab/<sha256>`, written aside, synced, renamed; the database says which are there.

A crash between the two leaves a file that nobody knows; opening removes those, and what was being written.
"""

import asyncio
import errno
import hashlib
import json
import os
import re
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from meshway.engine.embedded.blob_store import BlobForget, BlobPut, BlobStore
from meshway.engine.embedded.database import sync_directory
from meshway.engine.embedded.kv_store import whole_seconds
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.writer import Writer
from meshway.engine.ports import BlobRef
from meshway.engine.ports.checks import refused
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, MeshwayError, StorageFull

__all__ = ["EmbeddedBlobs"]

# The port's bound on one chunk.
_CHUNK_BYTES = 512 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Two, so that one slow disk write does not hold up every read.
_FILE_THREADS = 2
_SWEEP_MAX = 200
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Result = TypeVar("Result")


class EmbeddedBlobs:
    """See `engine.ports.Blobs`."""

    def __init__(self, folder: Path, *, writer: Writer, readers: Readers, clock: Clock) -> None:
        self._folder = folder
        self._partial = folder / "partial"
        self._writer = writer
        self._readers = readers
        self._clock = clock
        self._queries = load_queries("blobs.sql")
        self._store = BlobStore()
        self._files = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="meshway-files")
        # Between a file and its row nobody else may act on the same content: deleting takes the file of a new put.
        self._naming = asyncio.Lock()

    async def open(self) -> None:
        """Make the folders and remove what a crash left. Raises: EngineUnavailable."""
        await self._in_thread(self._make_folders)
        known = await self._readers.run(_known_names)
        await self._in_thread(lambda: self._remove_unknown(known))

    async def put(self, chunks: AsyncIterator[bytes], *, ttl_ms: int | None = None) -> BlobRef:
        partial = self._partial / uuid.uuid4().hex
        try:
            file = await self._in_thread(lambda: partial.open("wb"))
            try:
                ref = await self._receive(file, chunks)
            finally:
                await self._in_thread(file.close)
            async with self._naming:
                await self._in_thread(lambda: self._rename(partial, ref.sha256))
                call = BlobPut(self._store, self._writer.new_finished())
                call.ref = ref
                call.expires_at_ms = None if ttl_ms is None else self._clock.now_ms() + whole_seconds(ttl_ms)
                self._writer.submit(call)
                await asyncio.shield(call.finished)
        finally:
            await self._in_thread(lambda: partial.unlink(missing_ok=True))
        return ref

    def get(self, sha256: str) -> AbstractAsyncContextManager[AsyncIterator[bytes] | None]:
        _check_name(sha256)
        return self._get(sha256)

    async def stat(self, sha256: Sequence[str]) -> Sequence[BlobRef | None]:
        for name in sha256:
            _check_name(name)
        values = (json.dumps(list(sha256)), self._clock.now_ms())
        sizes = dict(
            await self._readers.run(
                lambda connection: connection.execute(self._queries.text("stat"), values).fetchall()
            )
        )
        return [BlobRef(sha256=name, size=sizes[name]) if name in sizes else None for name in sha256]

    async def delete(self, sha256: Sequence[str]) -> None:
        for name in sha256:
            _check_name(name)
        if sha256:
            await self._forget(sha256, only_expired=False)

    async def sweep(self) -> None:
        """Remove blobs whose time is over."""
        values = (self._clock.now_ms(), _SWEEP_MAX)
        expired = await self._readers.run(
            lambda connection: connection.execute(self._queries.text("expired"), values).fetchall()
        )
        if expired:
            await self._forget([name for (name,) in expired], only_expired=True)

    async def close(self) -> None:
        """Finish running file work. Idempotent."""
        await asyncio.to_thread(self._files.shutdown)

    @asynccontextmanager
    async def _get(self, sha256: str) -> AsyncIterator[AsyncIterator[bytes] | None]:
        (ref,) = await self.stat([sha256])
        if ref is None:
            yield None
            return
        try:
            file = await self._in_thread(lambda: self._path(sha256).open("rb"))
        except EngineUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                # Deleted since we looked.
                yield None
                return
            raise
        try:
            yield self._send(file)
        finally:
            await self._in_thread(file.close)

    async def _send(self, file: BinaryIO) -> AsyncIterator[bytes]:
        while chunk := await self._in_thread(lambda: file.read(_CHUNK_BYTES)):
            yield chunk

    async def _receive(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> BlobRef:
        digest = hashlib.sha256()
        size = 0

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        async for chunk in chunks:
            size += len(chunk)
            await self._in_thread(lambda chunk=chunk: write(chunk))  # type: ignore[misc] # bound now, not at the call
        await self._in_thread(sync)
        return BlobRef(sha256=digest.hexdigest(), size=size)

    async def _forget(self, sha256: Sequence[str], *, only_expired: bool) -> None:
        async with self._naming:
            call = BlobForget(self._store, self._writer.new_finished())
            call.sha256 = sha256
            call.only_expired = only_expired
            self._writer.submit(call)
            await asyncio.shield(call.finished)
            # The names are gone from the database first: a crash here leaves files for the next opening.
            await self._in_thread(lambda: self._unlink(call.forgotten))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._files, work)
        except OSError as error:
            raise _translate(error) from error
        except RuntimeError as error:
            raise EngineUnavailable("the store is closed") from error

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _make_folders(self) -> None:
        self._partial.mkdir(parents=True, exist_ok=True)
        sync_directory(self._folder)
        for left in self._partial.iterdir():
            left.unlink(missing_ok=True)

    def _remove_unknown(self, known: frozenset[str]) -> None:
        for folder in self._folder.iterdir():
            if folder == self._partial or not folder.is_dir():
                continue
            for file in folder.iterdir():
                if file.name not in known:
                    file.unlink(missing_ok=True)

    def _rename(self, partial: Path, sha256: str) -> None:
        path = self._path(sha256)
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True)
            sync_directory(self._folder)
        partial.replace(path)
        sync_directory(path.parent)

    def _unlink(self, sha256: Sequence[str]) -> None:
        for name in sha256:
            self._path(name).unlink(missing_ok=True)


def _known_names(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(name for (name,) in connection.execute("SELECT sha256 FROM blobs"))


def _translate(error: OSError) -> MeshwayError:
    if error.errno in _NO_SPACE:
        return StorageFull("the disk is full: the blob was not stored; free space and repeat", retry_after_ms=1_000)
    return EngineUnavailable(f"the blob folder failed: {error.strerror or error}")


def _check_name(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise refused("sha256", f"{sha256[:80]!r} is not a SHA-256 in lower-case hex")
