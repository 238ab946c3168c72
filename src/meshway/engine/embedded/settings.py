"""Settings of the embedded engine. Not here: where the data directory is; that is the caller's argument."""

from typing import Annotated

import msgspec

__all__ = ["EmbeddedSettings"]

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class EmbeddedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults suit a laptop and a server alike; raise the memory bounds on a large machine."""

    # A lazy write is on disk this long after its answer at the latest: what a power loss may take.
    lazy_sync_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 1_000
    # One transaction's worth: larger batches gain nothing and make the first caller wait.
    batch_calls_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 512
    # Calls that may wait for the writer; past it the disk is hopelessly behind and callers are told so.
    pending_calls_max: _Positive = 100_000
    # Two readers keep one slow scan from blocking point reads; more only compete for the same cores.
    reader_threads: Annotated[int, msgspec.Meta(ge=1, le=32)] = 2
    # SQLite's page cache of the writer; each reader has a quarter of it. Small, because the system caches the file.
    page_cache_bytes: Annotated[int, msgspec.Meta(ge=256 * 1024)] = 8 * 1024 * 1024
    # The write-ahead log is folded into the database at this size; overwriting a small file syncs fastest.
    checkpoint_bytes: Annotated[int, msgspec.Meta(ge=256 * 1024)] = 8 * 1024 * 1024
    # Recently written or read values kept in memory, so that hot keys cost no thread hop.
    kv_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 8 * 1024 * 1024
    # Changed keys one watch may have waiting; beyond it the watch is closed, for its reader is gone or stuck.
    watch_pending_max: _Positive = 100_000
    # Subjects whose last sequence is kept in memory (about 300 bytes each).
    subjects_cached_max: _Positive = 20_000
    # How long a message id filters repetitions: the port promises two minutes.
    message_id_window_ms: _Positive = 120_000
    # How many are remembered for it, in memory, of queues and of logs each (about 120 and 60 bytes); a sustained
    # 16,000 appends/s reach it.
    message_ids_max: _Positive = 2_000_000
    # Entries one tail may have waiting in memory before it is served from the store instead.
    tail_buffer_entries_max: _Positive = 256
    # The same in bytes, for large entries.
    tail_buffer_bytes_max: _Positive = 256 * 1024
    # How often expired keys, messages and blobs are looked for; a watch promises 2 s.
    sweep_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=2_000)] = 1_000
    # How often the engine looks at its clock for messages that have become due; the port promises 0.5 s.
    due_check_ms: Annotated[int, msgspec.Meta(ge=5, le=500)] = 50
    # Databases up to this size are checked whole when opened (about 1 s per GB, so 50 ms).
    open_check_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024 * 1024
