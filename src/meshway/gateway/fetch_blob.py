"""Fetch the data that a message names by `data_ref`."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from meshway.engine.ports import BlobRef, Blobs
from meshway.gateway.admission import Admission
from meshway.kernel.errors import BlobNotFound, FieldError, InvalidRequest
from meshway.kernel.principal import Principal

__all__ = ["FetchBlob", "OpenedBlob"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class OpenedBlob:
    """`chunks` are at most 512 KiB each and together `ref.size` bytes; read them inside the context."""

    ref: BlobRef
    chunks: AsyncIterator[bytes]


class FetchBlob:
    """Whoever may use channels and knows the name of a content may have it."""

    def __init__(self, blobs: Blobs, admission: Admission) -> None:
        self._blobs = blobs
        self._admission = admission

    def open(self, principal: Principal, sha256: str) -> AbstractAsyncContextManager[OpenedBlob]:
        """The content, for as long as the context is open.

        Raises, at once: Forbidden, InvalidRequest naming `sha256`. On entering: BlobNotFound, EngineUnavailable.
        """
        self._admission.admit_channel(principal)
        if not _SHA256.fullmatch(sha256):
            message = "is no SHA-256 in lower-case hex"
            raise InvalidRequest(f"sha256: {message}", fields=[FieldError("sha256", message)])
        return self._open(sha256)

    @asynccontextmanager
    async def _open(self, sha256: str) -> AsyncIterator[OpenedBlob]:
        (ref,) = await self._blobs.stat([sha256])
        if ref is None:
            raise _missing(sha256)
        async with self._blobs.get(sha256) as chunks:
            if chunks is None:
                raise _missing(sha256)
            yield OpenedBlob(ref, chunks)


def _missing(sha256: str) -> BlobNotFound:
    return BlobNotFound(f"There is no blob {sha256}: it was never stored here, or its time is over.")
