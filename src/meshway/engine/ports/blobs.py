"""Blobs: large payloads by the SHA-256 of their content."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

__all__ = ["BlobRef", "Blobs"]


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """`sha256` in lower-case hex names the content; `size` in bytes."""

    sha256: str
    size: int


class Blobs(Protocol):
    """Large payloads by content. Storing the same bytes twice keeps them once, with the longer time to live."""

    async def put(self, chunks: AsyncIterator[bytes], *, ttl_ms: int | None = None) -> BlobRef:
        """Store durably; nothing is visible before the whole was written. Raises: StorageFull."""

    def get(self, sha256: str) -> AbstractAsyncContextManager[AsyncIterator[bytes] | None]:
        """The content in chunks of at most 512 KiB; None when there is no such blob.

        One that goes while it is read ends with BlobNotFound; one that has lost a part, with StoreCorrupt.
        """

    async def stat(self, sha256: Sequence[str]) -> Sequence[BlobRef | None]:
        """Which exist."""

    async def delete(self, sha256: Sequence[str]) -> None:
        """Forget; what is not there is no error."""
