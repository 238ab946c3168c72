"""The embedded engine: all five primitives on one SQLite database and a folder of blobs, in one process."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from meshway.engine.embedded.blobs import EmbeddedBlobs
from meshway.engine.embedded.bus import EmbeddedBus
from meshway.engine.embedded.checkpoints import Checkpoints
from meshway.engine.embedded.data_dir import DataDirLock, hold_data_dir
from meshway.engine.embedded.database import connect, open_database, sync_directory, sync_file, wal_path
from meshway.engine.embedded.duties import Duties
from meshway.engine.embedded.key_value import EmbeddedKeyValue
from meshway.engine.embedded.leasing import Leasing
from meshway.engine.embedded.log import EmbeddedLog
from meshway.engine.embedded.log_store import LogStore
from meshway.engine.embedded.log_tail import EmbeddedTails
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.queue import EmbeddedQueue
from meshway.engine.embedded.queue_admin import EmbeddedQueueAdmin
from meshway.engine.embedded.queue_store import QueueStore
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.recent_ids import RecentIds
from meshway.engine.embedded.settings import EmbeddedSettings
from meshway.engine.embedded.writer import Writer
from meshway.engine.ports import EngineHealth, EngineNode
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics

__all__ = ["DATABASE_NAME", "EmbeddedEngine", "open_embedded_engine"]

DATABASE_NAME = "meshway.db"
# Larger values cost a page chain instead of a page; the database takes them all the same.
_INLINE_BYTES_MAX = 1024 * 1024
_READER_CACHE_SHARE = 4


async def open_embedded_engine(
    data_dir: Path,
    *,
    settings: EmbeddedSettings,
    clock: Clock,
    metrics: Metrics,
    sync: Callable[[int], None] = sync_file,
) -> "EmbeddedEngine":
    """Lock the data directory, open or make the database, and start the engine's threads.

    `sync` makes an open file durable (fdatasync); tests put a failing disk there.
    Raises: DataDirLocked, SchemaTooNew, StoreCorrupt, EngineUnavailable.
    """
    lock = await asyncio.to_thread(lambda: hold_data_dir(data_dir, clock=clock))
    try:
        engine = EmbeddedEngine(data_dir, lock, settings=settings, clock=clock, metrics=metrics, sync=sync)
        await engine.start()
    except BaseException:
        lock.release()
        raise
    return engine


class EmbeddedEngine:
    """See `engine.ports.Engine`; made by `open_embedded_engine`."""

    name = "embedded"
    is_shared = False
    inline_bytes_max = _INLINE_BYTES_MAX

    def __init__(
        self,
        data_dir: Path,
        lock: DataDirLock,
        *,
        settings: EmbeddedSettings,
        clock: Clock,
        metrics: Metrics,
        sync: Callable[[int], None],
    ) -> None:
        path = data_dir / DATABASE_NAME
        cache_bytes = settings.page_cache_bytes
        self._lock = lock
        self._closed = False
        self._connection = open_database(path, cache_bytes=cache_bytes, check_bytes_max=settings.open_check_bytes_max)
        sync_directory(data_dir)
        self._wal = os.open(wal_path(path), os.O_RDWR)
        self._checkpoints = Checkpoints(
            wal_path(path), lambda: connect(path, cache_bytes=256 * 1024), log_bytes_max=settings.checkpoint_bytes
        )
        self._writer = Writer(
            self._connection,
            checkpoints=self._checkpoints,
            sync=lambda: sync(self._wal),
            limits=settings,
            clock=clock,
            metrics=metrics,
        )
        self._readers = Readers(path, threads=settings.reader_threads, cache_bytes=cache_bytes // _READER_CACHE_SHARE)
        self._duties = Duties()
        self._settings = settings
        self._make_ports(data_dir, clock)

    def _make_ports(self, data_dir: Path, clock: Clock) -> None:
        settings = self._settings
        now_ms = clock.now_ms()
        window_ms = settings.message_id_window_ms
        recent = RecentIds(self._connection, window_ms=window_ms, ids_max=settings.message_ids_max, now_ms=now_ms)
        self._kv = EmbeddedKeyValue(
            self._connection,
            writer=self._writer,
            readers=self._readers,
            clock=clock,
            cache_bytes=settings.kv_cache_bytes,
            watch_pending_max=settings.watch_pending_max,
        )
        self._tails = EmbeddedTails(
            readers=self._readers,
            queries=load_queries("log.sql"),
            buffer_entries_max=settings.tail_buffer_entries_max,
            buffer_bytes_max=settings.tail_buffer_bytes_max,
        )
        log_store = LogStore(
            self._connection,
            recent=recent,
            window_ms=window_ms,
            subjects_cached_max=settings.subjects_cached_max,
            now_ms=now_ms,
            publish=self._tails.publish,
        )
        self._tails.visible = log_store.position
        self._log = EmbeddedLog(log_store, writer=self._writer, readers=self._readers, tails=self._tails)
        self._leasing = Leasing(self._writer)
        self._queue = EmbeddedQueue(
            writer=self._writer, readers=self._readers, leasing=self._leasing, clock=clock, window_ms=window_ms
        )
        self._queue.use(
            QueueStore(
                self._connection,
                window_ms=window_ms,
                ids_max=settings.message_ids_max,
                now_ms=now_ms,
                publish=self._queue.publish,
            )
        )
        self._queue_admin = EmbeddedQueueAdmin(self._queue, writer=self._writer, readers=self._readers)
        self._bus = EmbeddedBus()
        self._blobs = EmbeddedBlobs(data_dir / "blobs", writer=self._writer, readers=self._readers, clock=clock)

    @property
    def durability(self) -> str:
        return (
            "written and synced to the local disk before the answer; task events and the journal survive the death of "
            f"the hub at once and a power loss after at most {self._settings.lazy_sync_ms / 1000:g} s"
        )

    @property
    def key_value(self) -> EmbeddedKeyValue:
        return self._kv

    @property
    def log(self) -> EmbeddedLog:
        return self._log

    @property
    def queue(self) -> EmbeddedQueue:
        return self._queue

    @property
    def queue_admin(self) -> EmbeddedQueueAdmin:
        return self._queue_admin

    @property
    def bus(self) -> EmbeddedBus:
        return self._bus

    @property
    def blobs(self) -> EmbeddedBlobs:
        return self._blobs

    async def start(self) -> None:
        """Begin to serve; once."""
        self._checkpoints.start()
        self._writer.start()
        await self._blobs.open()
        self._duties.start(
            {
                "due": (self._queue.wake_due, self._settings.due_check_ms),
                "sweep": (self.sweep, self._settings.sweep_interval_ms),
            }
        )

    async def sweep(self) -> None:
        """Remove all that has expired now, instead of within the next second."""
        await self._kv.sweep()
        await self._queue.sweep()
        await self._blobs.sweep()

    async def health(self) -> EngineHealth:
        return self._writer.health()

    async def nodes(self) -> Sequence[EngineNode]:
        return ()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._duties.close()
        self._leasing.close()
        self._bus.close()
        await self._blobs.close()
        await self._writer.close()
        self._kv.close()
        self._log.close()
        await self._readers.close()
        await asyncio.to_thread(self._checkpoints.close)
        self._checkpoints.fold_now(self._connection)
        self._connection.close()
        os.close(self._wal)
        self._lock.release()
