"""Keep data that is too large for a message; messages then name it by `data_ref`."""

from collections.abc import AsyncIterator

from meshway.engine.ports import BlobRef, Blobs
from meshway.gateway.admission import Admission
from meshway.kernel.errors import PayloadTooLarge
from meshway.kernel.principal import Principal
from meshway.messaging.settings import MessagingSettings

__all__ = ["StoreBlob"]

# Beyond this an object store is the place, with the address in the message: the hub keeps every byte on its own disk.
_BLOB_BYTES_MAX = 1 << 30


class StoreBlob:
    """Kept for `[messaging] blob_ttl_ms`; a message that names the blob keeps it longer where it lives longer."""

    def __init__(self, blobs: Blobs, admission: Admission, *, settings: MessagingSettings) -> None:
        self._blobs = blobs
        self._admission = admission
        self._settings = settings

    async def execute(self, principal: Principal, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Store what `chunks` yields, durably; the same content again is the same blob, kept longer.

        Raises: Forbidden, PayloadTooLarge, StorageFull, EngineUnavailable; and what `chunks` raises, with nothing kept.
        """
        self._admission.admit_channel(principal)
        return await self._blobs.put(_bounded(chunks), ttl_ms=self._settings.blob_ttl_ms)


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > _BLOB_BYTES_MAX:
            raise PayloadTooLarge(f"The blob has more than {_BLOB_BYTES_MAX} bytes, the most the hub keeps as one.")
        yield chunk
