"""Bytes that were received and have no name yet: it is the digest of all of them, known with the last one.

The first part waits in memory, more of it in a temporary file, so that a slow sender holds nothing at NATS and content
that is there already is not sent at all. Not here: where it goes.
"""

import asyncio
import errno
import hashlib
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self, TypeVar

from meshway.engine.ports import BlobRef
from meshway.kernel.errors import EngineUnavailable, MeshwayError, StorageFull

__all__ = ["Spool"]

# What one upload may hold in memory; most payloads are smaller and never touch the disk.
_MEMORY_BYTES_MAX = 1024 * 1024
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Result = TypeVar("Result")


class Spool:
    """`write` all, then `finish`, then `read` as often as needed; leaving the context removes the file."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            # It was unlinked when it was made: nothing slow, and nothing that a cancellation could leave behind.
            file.close()

    async def write(self, chunk: bytes) -> None:
        """Raises: StorageFull where the disk of the hub is, EngineUnavailable."""
        self._memory += chunk
        self._size += len(chunk)
        if len(self._memory) >= _MEMORY_BYTES_MAX:
            await _in_thread(self._roll)

    async def finish(self) -> BlobRef:
        """What it is. Raises: StorageFull, EngineUnavailable."""
        if self._file is not None:
            await _in_thread(self._roll)
        else:
            self._digest.update(self._memory)
        return BlobRef(sha256=self._digest.hexdigest(), size=self._size)

    async def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes from there on; empty at the end. Raises: EngineUnavailable."""
        file = self._file
        if file is None:
            return bytes(self._memory[offset : offset + size])

        def read() -> bytes:
            file.seek(offset)
            return file.read(size)

        return await _in_thread(read)

    def _roll(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="meshway-blob-")  # noqa: SIM115  closed by __aexit__
        self._digest.update(self._memory)
        self._file.write(self._memory)
        self._memory.clear()


async def _in_thread(work: Callable[[], Result]) -> Result:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise _translate(error) from error


def _translate(error: OSError) -> MeshwayError:
    if error.errno in _NO_SPACE:
        text = "the disk of the hub has no room for a blob that is being received; free space and repeat"
        return StorageFull(text, retry_after_ms=1_000)
    return EngineUnavailable(f"the temporary file of a blob failed: {error.strerror or error}")
