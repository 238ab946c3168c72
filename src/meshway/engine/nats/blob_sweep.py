"""Chunks of long life that no manifest names: what a put or a deletion left when its hub or its connection ended.

    marked -- for an hour --> named by the manifest: only the mark goes
                              else: the copy goes, with its mark

Chunks with a short time to live are not marked: they go by themselves.
"""

import asyncio
import logging

from meshway.engine.nats.blob_store import BlobStore
from meshway.kernel.errors import MeshwayError

__all__ = ["BlobSweep"]

_log = logging.getLogger(__name__)

# A put that takes longer than this between its mark and its manifest gives up by itself.
MARK_REST_MS = 3_600_000
_EVERY_S = 3_600.0


class BlobSweep:
    """Runs where something is written, at most once an hour, and in every hub: twice is harmless."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._next_s = 0.0

    async def run_if_due(self) -> None:
        """Never raises for what the engine refuses: the next one is in an hour."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        try:
            dropped = await self._run()
        except MeshwayError as error:
            _log.warning("blob_sweep_failed", extra={"reason": error.detail})
            return
        if dropped:
            _log.info("blob_leftovers_removed", extra={"copies": dropped})

    async def _run(self) -> int:
        now_ms, marked = await self._store.marked()
        rested = [(sha256, copy) for sha256, copy, since_ms in marked if now_ms - since_ms >= MARK_REST_MS]
        dropped = 0
        for (sha256, copy), current in zip(
            rested, await self._store.current([sha256 for sha256, _ in rested]), strict=True
        ):
            if current.manifest is None or current.manifest.copy != copy:
                await self._store.drop_soon(sha256, copy)
                dropped += 1
            await self._store.unmark_soon(sha256, copy)
        return dropped
